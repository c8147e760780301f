"""Pallas attention kernels."""
