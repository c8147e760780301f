"""What sampling must compute and move at least, and what a machine can do: how much is left to win.

`sampling_work` counts by formula. Operations are those of scotd_jax/distributed/flops.py: all rows through the layers'
matrices and the output matrix, and attention over what they look back on. Bytes are those of weights and of keys and
values, which every decode step reads once; logits, activations and noise are left out, since a kernel may keep them on
the chip. Shared exemplars are computed once per run and read once per step, a question once per question.
The least time of a step is the longer one of its two parts, and the least time of a run is their sum.
"""

import dataclasses
import math
import time
from typing import Any

from scotd_jax.distributed.flops import matmul_sizes, prefill_flops

KNOWN_BANDWIDTH = {"H200": 4.3e12}  # bytes per second that its memory delivers, by part of the device's name


@dataclasses.dataclass(frozen=True)
class Peaks:
    """Operations and bytes per second."""

    flops: float
    bandwidth: float


@dataclasses.dataclass(frozen=True)
class Work:
    """Operations, bytes, and the least time in seconds (0 without peaks)."""

    flops: float = 0.0
    bytes: float = 0.0
    seconds: float = 0.0

    def __add__(self, other: "Work") -> "Work":
        return Work(self.flops + other.flops, self.bytes + other.bytes, self.seconds + other.seconds)

    def __mul__(self, times: int) -> "Work":
        return Work(self.flops * times, self.bytes * times, self.seconds * times)


def sampling_work(
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
) -> dict[str, Work]:
    """The work of a run: "prefill", "decode", "step" (the middle one of a batch) and "all".

    `questions` prompts of `prompt` tokens after `shared` common ones are sampled `n` times for `tokens` tokens each,
    `batch` questions at a time; a number takes `itemsize` bytes.
    """
    s = matmul_sizes(config)
    if s is None:
        raise ValueError(f"the work of {config} is not known here")
    keys = math.prod(config.cache_shape)  # key numbers that one token leaves behind; values are as many
    if not s.causal_prompt:  # an encoder-decoder has no tokens in common: its prompt is one text
        prompt, shared = prompt + shared, 0

    def work(flops: float, numbers: float) -> Work:
        moved = numbers * itemsize
        return Work(flops, moved, max(flops / peaks.flops, moved / peaks.bandwidth) if peaks else 0.0)

    def prefill(sequences: int, length: int, before: int) -> Work:
        flops = prefill_flops(config, sequences=sequences, length=length, before=before, skip_masked=True)
        return work(flops, s.prompt + 2 * keys * (sequences * length + before))

    def step(said: int) -> Work:
        rows = batch * n
        flops = decode_flops(config, rows=rows, seen=prompt + shared + said)
        return work(flops, s.response + s.output + 2 * keys * (shared + batch * prompt + rows * said))

    batches = -(-questions // batch)
    prefills = prefill(batch, prompt, shared) * batches + (prefill(1, shared, 0) if shared else Work())
    decode = sum((step(said) for said in range(1, tokens + 1)), Work()) * batches
    return {"prefill": prefills, "decode": decode, "step": step(max(1, tokens // 2)), "all": prefills + decode}


def decode_flops(config: Any, *, rows: int, seen: int) -> int:
    """Returns the FLOPs of one decode step.

    Args:
      config: model config.
      rows: responses that are decoded at once.
      seen: tokens (or cache slots, to count padding) to which each attends, its own token included.

    Returns:
      0 for unknown kinds of model.
    """
    s = matmul_sizes(config)
    return 0 if s is None else rows * (2 * (s.response + s.output) + 4 * s.response_attention * seen)


def measured_peaks(width: int = 2048, mib: int = 512, repeats: int = 5) -> Peaks:
    """What the default device of JAX does at its best of some times: a product of two [width, width] matrices as models
    make it, of bfloat16 with a float32 result, and one pass over `mib` MiB that reads and writes them. Where the peak
    is stated (scotd_jax/distributed/chips.py, KNOWN_BANDWIDTH) that one counts.
    """
    import jax
    import jax.numpy as jnp

    from scotd_jax import config as c
    from scotd_jax.distributed.chips import peak_flops
    from scotd_jax.distributed.mesh import make_mesh
    from scotd_jax.models.matmul import for_mesh, linear

    def best(function, array) -> float:
        array, seconds = jax.block_until_ready(function(array)), []
        for _ in range(repeats):
            begin = time.perf_counter()
            array = jax.block_until_ready(function(array))
            seconds.append(time.perf_counter() - begin)
        return min(seconds)

    square = jnp.ones((width, width), jnp.bfloat16)
    mesh = make_mesh(c.Mesh(), jax.devices()[:1])
    product = jax.jit(for_mesh(mesh)(lambda x, w: linear(x, w, dtype="bfloat16")))
    kind = jax.devices()[0].device_kind
    flops = peak_flops(kind) or 2 * width**3 / best(lambda _: product(square, square), square)
    known = [value for name, value in KNOWN_BANDWIDTH.items() if name in kind]
    if known:
        return Peaks(flops, known[0])
    # In place: pages of a new buffer would have to be made first, which takes longer than to fill them.
    touch = jax.jit(lambda x: x + 1, donate_argnums=0)
    return Peaks(flops, 2 * mib * 2**20 / best(touch, jnp.zeros(mib * 2**18, jnp.float32)))
