"""Attention kernels for accelerators."""
