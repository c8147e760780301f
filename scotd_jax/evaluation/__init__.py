"""Evaluation: scoring, self-consistency voting, contrast groups and statistics."""
