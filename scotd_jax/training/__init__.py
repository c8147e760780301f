"""Training: losses, optimizers, train step, training loop, checkpoints, metrics, LoRA and frozen parameters."""
