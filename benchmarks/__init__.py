"""Measurements that are repeated by one command each. The last line that one prints is a JSON object."""
