"""Lower bounds on the cost of sampling, and peak FLOP/s and bandwidth of the machine.

FLOPs follow scotd_jax/distributed/flops.py: the matmuls of all layers, the output matrix, and attention to all earlier
tokens, for every sequence. Every decode step reads all weights, keys and values once. Bytes of logits, activations and
noise do not count, since a kernel may keep them on the chip. Shared few-shot examples are encoded once per run and
every question once; a decode step reads the keys and values of both once. The minimal time of a step is the larger of
its compute and memory time, and the minimal time of a run is the sum over its steps.
"""

import dataclasses
import math
import time
from typing import Any

from scotd_jax.distributed.flops import matmul_sizes, prefill_flops

# Achievable memory bandwidth in bytes/s by part of the device name (the data sheet of the H200 states 4.8e12).
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
    """Returns the costs of a sampling run: "prefill", "decode", "step" (the middle step of a batch) and "total".

    Args:
      config: model config.
      questions: number of prompts.
      batch: questions that are decoded at once.
      n: responses per question.
      prompt: tokens of a prompt after the shared prefix.
      shared: tokens of the shared prefix.
      tokens: tokens of a response.
      itemsize: bytes per weight, key and value.
      peaks: peaks of the machine; without them all seconds are 0.
    """
    sizes = matmul_sizes(config)
    if sizes is None:
        raise ValueError(f"{config}: no FLOP formula for this kind of model")
    key_size = math.prod(config.cache_shape)  # elements of the keys of one token; values have the same size
    if not sizes.causal_prompt:  # an encoder-decoder encodes prefix and prompt as one text
        prompt, shared = prompt + shared, 0

    def cost(flops: float, elements: float) -> Cost:
        size = elements * itemsize
        return Cost(flops, size, max(flops / peaks.flops, size / peaks.bandwidth) if peaks else 0.0)

    def prefill(sequences: int, length: int, before: int) -> Cost:
        flops = prefill_flops(config, sequences=sequences, length=length, before=before, skip_masked=True)
        return cost(flops, sizes.prompt + 2 * key_size * (sequences * length + before))

    def step(generated: int) -> Cost:
        sequences = batch * n
        flops = decode_flops(config, sequences=sequences, attended=prompt + shared + generated)
        tokens_read = shared + batch * prompt + sequences * generated
        return cost(flops, sizes.response + sizes.output + 2 * key_size * tokens_read)

    batches = -(-questions // batch)
    prefills = prefill(batch, prompt, shared) * batches + (prefill(1, shared, 0) if shared else Cost())
    decode = sum((step(generated) for generated in range(1, tokens + 1)), Cost()) * batches
    return {"prefill": prefills, "decode": decode, "step": step(max(1, tokens // 2)), "total": prefills + decode}


def decode_flops(config: Any, *, sequences: int, attended: int) -> int:
    """Returns the FLOPs of one decode step.

    Args:
      config: model config.
      sequences: sequences that are decoded at once.
      attended: tokens to which each sequence attends, including the new one; the number of cache slots counts padding
        too.

    Returns:
      The FLOPs, or 0 for unknown kinds of model.
    """
    sizes = matmul_sizes(config)
    if sizes is None:
        return 0
    return sequences * (2 * (sizes.response + sizes.output) + 4 * sizes.response_attention * attended)


def measured_peaks(width: int = 2048, mib: int = 512, repeats: int = 5) -> Peaks:
    """Returns the peaks of JAX's default device: known ones, else the best of several measurements.

    FLOP/s are measured by a [width, width] matmul with the dtypes of the models (bfloat16 inputs, float32 result).
    Bandwidth is measured by one pass that reads and writes an array of `mib` MiB. Known peaks are listed in
    scotd_jax/distributed/chips.py and KNOWN_BANDWIDTH.
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
    # In place, because mapping the pages of a new buffer takes longer than filling them.
    touch = jax.jit(lambda x: x + 1, donate_argnums=0)
    return Peaks(flops, 2 * mib * 2**20 / best_seconds(touch, jnp.zeros(mib * 2**18, jnp.float32)))
