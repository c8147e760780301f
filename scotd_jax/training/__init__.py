"""How a model learns: losses, optimizer, step, loop, checkpoints, metrics."""
