"""Sampling from language models: sampler, slot scheduler, decode loop, sampling policies, stop strings, keyed noise."""
