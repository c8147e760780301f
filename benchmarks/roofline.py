"""Lower bounds on the cost of sampling, and peak FLOP/s and bandwidth of the machine.

FLOPs are those of scotd_jax/distributed/flops.py: all sequences through the layers' matmuls and the output matrix, and
attention to all earlier tokens. Bytes are those of weights, keys and values, which every decode step reads once.
Logits, activations and noise are left out, since a kernel may keep them on the chip. Shared few-shot examples are
computed once per run and read once per step; a question once per question. The minimal time of a step is the larger of
its compute and memory time, and the minimal time of a run is the sum over its steps.
"""

import dataclasses
import math
import time
from typing import Any

from scotd_jax.distributed.flops import matmul_sizes, prefill_flops

# Memory bandwidth in bytes/s that programs achieve, by part of the device name (data sheet of the H200: 4.8e12).
KNOWN_BANDWIDTH = {"H200": 4.3e12}


@dataclasses.dataclass(frozen=True)
class Peaks:
    """Peak FLOP/s and bytes/s."""

    flops: float
    bandwidth: float


@dataclasses.dataclass(frozen=True)
class Cost:
    """FLOPs, bytes, and minimal seconds (0 if the peaks are unknown)."""

    flops: float = 0.0
    bytes: float = 0.0
    seconds: float = 0.0

    def __add__(self, other: "Cost") -> "Cost":
        return Cost(self.flops + other.flops, self.bytes + other.bytes, self.seconds + other.seconds)

    def __mul__(self, times: int) -> "Cost":
        return Cost(self.flops * times, self.bytes * times, self.seconds * times)


def sampling_costs(
    config: Any,
    *,
    questions: int,
    batch: int,
    n: int,
    prompt: int,
    shared: int,
    tokens: int,
    itemsize: int,
    peaks: Peaks | None = None,
) -> dict[str, Cost]:
    """Returns the cost of a sampling run: "prefill", "decode", "step" (the middle one of a batch) and "total".

    Args:
      config: model config.
      questions: number of prompts.
      batch: questions that are decoded at once.
      n: responses per question.
      prompt: tokens of a prompt after the shared prefix.
      shared: tokens of the shared prefix.
      tokens: tokens of a response.
      itemsize: bytes of a number.
      peaks: peaks of the machine.
    """
    sizes = matmul_sizes(config)
    if sizes is None:
        raise ValueError(f"{config}: no FLOP formula for this kind of model")
    key_size = math.prod(config.cache_shape)  # numbers per token; values are as many
    if not sizes.causal_prompt:  # an encoder-decoder encodes prefix and prompt as one text
        prompt, shared = prompt + shared, 0

    def cost(flops: float, numbers: float) -> Cost:
        size = numbers * itemsize
        return Cost(flops, size, max(flops / peaks.flops, size / peaks.bandwidth) if peaks else 0.0)

    def prefill(sequences: int, length: int, before: int) -> Cost:
        flops = prefill_flops(config, sequences=sequences, length=length, before=before, skip_masked=True)
        return cost(flops, sizes.prompt + 2 * key_size * (sequences * length + before))

    def step(generated: int) -> Cost:
        rows = batch * n
        flops = decode_flops(config, rows=rows, attended=prompt + shared + generated)
        return cost(flops, sizes.response + sizes.output + 2 * key_size * (shared + batch * prompt + rows * generated))

    batches = -(-questions // batch)
    prefills = prefill(batch, prompt, shared) * batches + (prefill(1, shared, 0) if shared else Cost())
    decode = sum((step(generated) for generated in range(1, tokens + 1)), Cost()) * batches
    return {"prefill": prefills, "decode": decode, "step": step(max(1, tokens // 2)), "total": prefills + decode}


def decode_flops(config: Any, *, rows: int, attended: int) -> int:
    """Returns the FLOPs of one decode step.

    Args:
      config: model config.
      rows: sequences that are decoded at once.
      attended: tokens (or cache slots, to count padding) to which each attends, its own token included.

    Returns:
      0 for unknown kinds of model.
    """
    sizes = matmul_sizes(config)
    if sizes is None:
        return 0
    return rows * (2 * (sizes.response + sizes.output) + 4 * sizes.response_attention * attended)


def measured_peaks(width: int = 2048, mib: int = 512, repeats: int = 5) -> Peaks:
    """Returns the best of several measurements of JAX's default device, or the known peak where there is one.

    Compute is a [width, width] matmul as the models do it (bfloat16, float32 result; see scotd_jax/distributed/chips.py
    for known peaks). Bandwidth is one pass that reads and writes an array of `mib` MiB (see KNOWN_BANDWIDTH).
    """
    import jax
    import jax.numpy as jnp

    from scotd_jax import config as c
    from scotd_jax.distributed.chips import peak_flops
    from scotd_jax.distributed.mesh import make_mesh
    from scotd_jax.models.matmul import for_mesh, linear

    def best_seconds(function, array) -> float:
        array, seconds = jax.block_until_ready(function(array)), []
        for _ in range(repeats):
            start = time.perf_counter()
            array = jax.block_until_ready(function(array))
            seconds.append(time.perf_counter() - start)
        return min(seconds)

    square = jnp.ones((width, width), jnp.bfloat16)
    mesh = make_mesh(c.Mesh(), jax.devices()[:1])
    matmul = jax.jit(for_mesh(mesh)(lambda x, w: linear(x, w, dtype="bfloat16")))
    kind = jax.devices()[0].device_kind
    flops = peak_flops(kind) or 2 * width**3 / best_seconds(lambda _: matmul(square, square), square)
    known = [value for name, value in KNOWN_BANDWIDTH.items() if name in kind]
    if known:
        return Peaks(flops, known[0])
    # In-place, because mapping the pages of a new buffer takes longer than filling them.
    touch = jax.jit(lambda x: x + 1, donate_argnums=0)
    return Peaks(flops, 2 * mib * 2**20 / best_seconds(touch, jnp.zeros(mib * 2**18, jnp.float32)))
