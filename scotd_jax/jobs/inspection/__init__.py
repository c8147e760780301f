"""Inspection of a run: prompts with their special tokens, and example responses."""
