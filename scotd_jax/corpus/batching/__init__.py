"""Batches of a corpus: response draws, length balancing, array shapes, packing and the resumable loader."""
