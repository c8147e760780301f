"""What the noise of names costs, and how often a text changes when shapes do.

    python -m benchmarks.sampling_noise [--shrink]

The cost: one step of OPT-125M's shape over 240 rows, and of it the keyed uniforms alone and the whole draw from the
logits (uniforms, inverse distribution function, log-probability), in milliseconds and as shares of the step.

The texts: a model of random weights says 30 samples of 24 questions in bfloat16, and again with other settings. The
noise is the same by construction, and asserted by the tests. Where shapes are the same (order of the questions, a
resumed run) no text may change; where they are not (rows at a time, padding, chunk) rounding differs, and a draw that
lies on the boundary of two tokens may fall the other way: `flipped` is the share of texts in which that happened. A
last line, one JSON object, holds everything.
"""

import argparse
import dataclasses
import functools
import json
import os
import platform
import statistics
import time
from collections.abc import Callable
from typing import Any

import jax
import jax.numpy as jnp
import numpy as np

from scotd_jax.config import Sampling
from scotd_jax.models.api import Model, Precision
from scotd_jax.models.registry import build, config_for
from scotd_jax.sampling import decode_loop
from scotd_jax.sampling.noise import base_key, sample_keys, uniforms
from scotd_jax.sampling.policies import sample_token
from scotd_jax.sampling.requests import Request
from scotd_jax.sampling.sampler import Sampler
from scotd_jax.workdir import versions

B, G = 8, 30
POLICY = Sampling(n=G, temperature=0.7, max_new_tokens=48, batch_size=B, bucket=64)


class Numbers:
    """A tokenizer whose tokens are numbers and whose samples never end early."""

    def __init__(self, size: int):
        self.size, self.eos_ids = size, (size,)

    def token_bytes(self) -> list[bytes]:
        return [b"x"] * self.size

    def decode(self, ids) -> str:
        return " ".join(map(str, ids))


def main() -> None:
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    parser.add_argument("--shrink", action="store_true", help="tiny shapes, to see that everything works")
    shrink = parser.parse_args().shrink
    cost = costs(build(config_for("opt-tiny" if shrink else "opt-125m"), Precision()))
    print(f"cost: {json.dumps(cost)}", flush=True)
    shape = {} if shrink else {"hidden_size": 256, "num_hidden_layers": 4, "ffn_dim": 1024, "vocab_size": 8000}
    flipped = flips(build(config_for("opt-tiny", {"init_std": 0.1, **shape}), Precision()), 6 if shrink else 24)
    device = f"{platform.machine()}, {os.cpu_count()} cores, {jax.devices()[0].device_kind}"
    facts = {"benchmark": "sampling_noise", "cost": cost, "texts": flipped, "versions": versions(), "device": device}
    print(json.dumps(facts))


def milliseconds(function: Callable[..., Any], *args: Any, repeat: int = 7) -> float:
    """Median, after one call that compiles."""
    compiled, times = jax.jit(function), []
    jax.block_until_ready(compiled(*args))
    for _ in range(repeat):
        begin = time.perf_counter()
        jax.block_until_ready(compiled(*args))
        times.append(1000 * (time.perf_counter() - begin))
    return round(statistics.median(times), 3)


def costs(model: Model) -> dict[str, float]:
    weights = decode_loop.inference_weights(model, model.init(jax.random.key(0)))
    contexts, state, cache = decode_loop.init_state(model, POLICY, weights.params, B, 2, 64)
    V, none = model.config.vocab_size, jnp.zeros((B, G), jnp.int32)
    inputs = decode_loop.StepInputs(none == 0, none, none, jnp.zeros((B, G, 2), jnp.uint32), none)
    decode = functools.partial(decode_loop.decode_steps, model, POLICY, eos_ids=(V,), vocab_limit=V)
    chunk = milliseconds(
        lambda *a: decode(*a)[2],
        weights,
        None,
        contexts,
        state,
        cache,
        inputs,
        base_key(0),
        jnp.zeros((2, V), jnp.int32),
    )
    keys = sample_keys(base_key(0), inputs.question_hash, inputs.sample_index)
    logits = jax.random.normal(jax.random.key(1), (B, G, V))
    found = {"step_ms": round(chunk / POLICY.chunk, 3), "uniforms_ms": milliseconds(uniforms, keys, none)}
    for temperature in (1.0, 0.7):
        policy = dataclasses.replace(POLICY, temperature=temperature)
        said = milliseconds(lambda scores, k, p=policy: sample_token(scores, uniforms(k, none), p), logits, keys)
        found[f"draw_at_{temperature}_ms"] = said
    return found | {
        name.replace("_ms", "_share"): round(value / found["step_ms"], 4)
        for name, value in found.items()
        if name != "step_ms"
    }


def flips(model: Model, count: int) -> dict[str, dict[str, Any]]:
    params, rng = model.init(jax.random.key(0)), np.random.default_rng(0)
    lengths = rng.integers(9, 60, count)
    asked = [
        Request(f"q{i}", rng.integers(0, model.config.vocab_size, n), tuple(range(G))) for i, n in enumerate(lengths)
    ]

    def said(asked, **changes) -> dict[tuple[str, int], tuple[int, ...]]:
        policy = dataclasses.replace(POLICY, **changes)
        sampler = Sampler(model, params, Numbers(model.config.vocab_size), policy, seed=0)
        return {(s.question_id, s.sample_index): s.token_ids for some in sampler(asked) for s in some}

    usual = said(asked)
    resumed = [dataclasses.replace(r, sample_indices=tuple(rng.permutation(G)[: rng.integers(1, G)])) for r in asked]
    again = {
        "order": (True, said(asked[::-1])),
        "resumed": (True, said(resumed)),
        "two hosts": (True, said(asked[::2]) | said(asked[1::2])),
        "batch_size 4": (False, said(asked, batch_size=4)),
        "bucket 16": (False, said(asked, bucket=16)),
        "chunk 4": (False, said(asked, chunk=4)),
        "n 10": (False, said(asked, n=10)),
    }
    found = {}
    for name, (same_shapes, texts) in again.items():
        flipped = sum(usual[key] != text for key, text in texts.items()) / len(texts)
        if same_shapes and flipped:
            raise SystemExit(f"{name}: {flipped:.2%} of the texts changed although the shapes are the same")
        found[name] = {"same_shapes": same_shapes, "texts": len(texts), "flipped": round(flipped, 5)}
        print(f"{name}: {json.dumps(found[name])}", flush=True)
    return found


if __name__ == "__main__":
    main()
