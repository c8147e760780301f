"""Hugging Face folders: weight maps, loading, export and verification."""
