"""Chain-of-thought distillation in JAX: sample rationales, build corpora, train, evaluate, export, report."""

__version__ = "0.1.0"
