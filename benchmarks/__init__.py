"""Benchmarks, one command each: `python -m benchmarks.NAME`. The last line of output is one JSON object."""
