"""Batches: draws, shapes, packing, length balancing, and the resumable loader."""
