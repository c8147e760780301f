"""Scoring of predictions of any origin against questions, without a model."""
