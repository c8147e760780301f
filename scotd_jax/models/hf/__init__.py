"""Hugging Face folders: weight maps, import, export and verification."""
