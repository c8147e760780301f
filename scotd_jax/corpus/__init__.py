"""Corpora that students are trained on: TFRecord files with an index, their description, and batches of them."""
