"""Cost of keyed noise, and the share of responses that change with the shapes of the batch.

    python -m benchmarks.sampling_noise [--shrink]

Cost: milliseconds of one decode step of OPT-125M with 240 sequences, of its keyed uniforms, and of the whole draw from
the logits (uniforms, inverse distribution function, log-probability). The uniforms and the draw are also given as
shares of the step.

Responses: a model with random weights generates 30 responses for each of 24 questions in bfloat16, and again with other
settings. The noise is the same by construction (asserted by the tests). If the shapes are the same (order of the
questions, a resumed run), no response may change. If they differ (batch size, padding, chunk), rounding differs, and a
draw close to the boundary between two tokens may select the other token; `changed` is the share of such responses.
"""

import argparse
import dataclasses
import functools
import json
import os
import platform
import statistics
import time
from collections.abc import Callable, Sequence
from typing import Any

import jax
import jax.numpy as jnp
import numpy as np

from scotd_jax.artefact import versions
from scotd_jax.config import Sampling
from scotd_jax.models.api import LanguageModel, Precision
from scotd_jax.models.registry import build, config_for
from scotd_jax.sampling import decode_loop
from scotd_jax.sampling.noise import base_key, sample_keys, uniforms
from scotd_jax.sampling.policies import sample_token
from scotd_jax.sampling.requests import Request
from scotd_jax.sampling.sampler import Sampler

B, G = 8, 30
POLICY = Sampling(n=G, temperature=0.7, max_new_tokens=48, batch_size=B, bucket=64)


class NumberTokenizer:
    """A tokenizer that decodes token ids to decimal numbers and whose EOS id is outside the vocabulary."""

    def __init__(self, size: int):
        self.size, self.eos_ids = size, (size,)

    def token_bytes(self) -> list[bytes]:
        return [b"x"] * self.size

    def decode(self, ids) -> str:
        return " ".join(map(str, ids))


def main() -> None:
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    parser.add_argument("--shrink", action="store_true", help="tiny shapes, as a smoke test")
    shrink = parser.parse_args().shrink
    cost = measure_cost(build(config_for("opt-tiny" if shrink else "opt-125m"), Precision()))
    print(f"cost: {json.dumps(cost)}", flush=True)
    sizes = {} if shrink else {"hidden_size": 256, "num_hidden_layers": 4, "ffn_dim": 1024, "vocab_size": 8000}
    model = build(config_for("opt-tiny", {"init_std": 0.1, **sizes}), Precision())
    changes = measure_changes(model, 6 if shrink else 24)
    device = f"{platform.machine()}, {os.cpu_count()} cores, {jax.devices()[0].device_kind}"
    output = {"benchmark": "sampling_noise", "cost": cost, "responses": changes, "versions": versions()}
    print(json.dumps(output | {"device": device}))


def measure_cost(model: LanguageModel) -> dict[str, float]:
    """Returns the times of a decode step and of its parts in milliseconds, and the shares of the parts."""
    weights = decode_loop.inference_weights(model, model.init(jax.random.key(0)))
    contexts, state, cache = decode_loop.init_state(model, POLICY, weights.params, B, 2, 64)
    V, zeros = model.config.vocab_size, jnp.zeros((B, G), jnp.int32)
    inputs = decode_loop.StepInputs(zeros == 0, zeros, zeros, jnp.zeros((B, G, 2), jnp.uint32), zeros)
    decode = functools.partial(decode_loop.decode_steps, model, POLICY, eos_ids=(V,), vocab_limit=V)
    stop_table = jnp.zeros((2, V), jnp.int32)
    arguments = (weights, None, contexts, state, cache, inputs, base_key(0), stop_table)
    chunk_ms = milliseconds(lambda *arguments: decode(*arguments)[2], *arguments)
    keys = sample_keys(base_key(0), inputs.question_hash, inputs.sample_index)
    logits = jax.random.normal(jax.random.key(1), (B, G, V))
    times = {"step_ms": round(chunk_ms / POLICY.chunk, 3), "uniforms_ms": milliseconds(uniforms, keys, zeros)}
    for temperature in (1.0, 0.7):
        policy = dataclasses.replace(POLICY, temperature=temperature)
        times[f"draw_at_{temperature}_ms"] = milliseconds(
            lambda scores, keys, policy=policy: sample_token(scores, uniforms(keys, zeros), policy), logits, keys
        )
    shares = {
        name.replace("_ms", "_share"): round(value / times["step_ms"], 4)
        for name, value in times.items()
        if name != "step_ms"
    }
    return times | shares


def milliseconds(function: Callable[..., Any], *args: Any, repeat: int = 7) -> float:
    """Returns the median time of a call, after one call that compiles."""
    compiled, times = jax.jit(function), []
    jax.block_until_ready(compiled(*args))
    for _ in range(repeat):
        start = time.perf_counter()
        jax.block_until_ready(compiled(*args))
        times.append(1000 * (time.perf_counter() - start))
    return round(statistics.median(times), 3)


def measure_changes(model: LanguageModel, count: int) -> dict[str, dict[str, Any]]:
    """Returns the number and the share of changed responses for every variation of the settings.

    Raises:
      SystemExit: if a response changes although the shapes are the same.
    """
    params, rng = model.init(jax.random.key(0)), np.random.default_rng(0)
    lengths = rng.integers(9, 60, count)
    requests = [
        Request(f"q{i}", rng.integers(0, model.config.vocab_size, n), tuple(range(G))) for i, n in enumerate(lengths)
    ]

    def sample(requests: Sequence[Request], **changes: Any) -> dict[tuple[str, int], tuple[int, ...]]:
        policy = dataclasses.replace(POLICY, **changes)
        sampler = Sampler(model, params, NumberTokenizer(model.config.vocab_size), policy, seed=0)
        return {(s.question_id, s.sample_index): s.token_ids for batch in sampler(requests) for s in batch}

    baseline = sample(requests)
    resumed = [dataclasses.replace(r, sample_indices=tuple(rng.permutation(G)[: rng.integers(1, G)])) for r in requests]
    variations = {  # name: (whether the shapes equal those of the baseline, the responses)
        "order": (True, sample(requests[::-1])),
        "resumed": (True, sample(resumed)),
        "two hosts": (True, sample(requests[::2]) | sample(requests[1::2])),
        "batch_size 4": (False, sample(requests, batch_size=4)),
        "bucket 16": (False, sample(requests, bucket=16)),
        "chunk 4": (False, sample(requests, chunk=4)),
        "n 10": (False, sample(requests, n=10)),
    }
    results = {}
    for name, (same_shapes, responses) in variations.items():
        changed = sum(baseline[key] != tokens for key, tokens in responses.items()) / len(responses)
        if same_shapes and changed:
            raise SystemExit(f"{name}: {changed:.2%} of the responses changed although the shapes are the same")
        results[name] = {"same_shapes": same_shapes, "responses": len(responses), "changed": round(changed, 5)}
        print(f"{name}: {json.dumps(results[name])}", flush=True)
    return results


if __name__ == "__main__":
    main()
