"""Importers of published rationales: one small function per file format, which yields responses row by row."""
