"""All numeric tolerances of the test suite. None may be loosened to make a test pass."""

LOGITS = 1e-4  # float32 logits against PyTorch, relative to the largest logit
GRADIENT = 1e-5  # float32 losses and gradients, summed in another order, relative to the largest entry
FLOAT32 = 1e-5  # float32 values of two implementations of a formula
BFLOAT16 = 3e-2  # bfloat16 matmuls against float32 ones, relative to the largest entry, in models of a few layers
TRAJECTORY = 1e-4  # float32 losses of a few updates on different numbers of processes or devices, relative
