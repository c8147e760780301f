"""Importers of others' rationales: one small function per file format, which yields responses row by row."""
