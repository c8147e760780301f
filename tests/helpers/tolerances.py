"""Every numeric tolerance of the test suite. None is loosened to make a test pass."""

LOGITS = 1e-4  # float32 logits against PyTorch, relative to the largest logit
GRADIENT = 1e-5  # float32 losses and gradients of two orders of the same sums, relative to the largest entry
FLOAT32 = 1e-5  # float32 values of the same formula written in two ways
BFLOAT16 = 3e-2  # bfloat16 products against float32 ones, relative to the largest entry, in models of a few layers
TRAJECTORY = 1e-4  # float32 losses of the same few updates on other numbers of processes or devices, relative
