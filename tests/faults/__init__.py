"""Faults: damage, concurrency, numbers, interruption and hostile input."""
