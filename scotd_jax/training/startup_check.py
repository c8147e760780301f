"""Startup check: before the first update, compares the batched forward pass with separate prompt-response pairs.

Grouping, packing and fused attention do not change the loss in exact arithmetic. This module verifies that with the
model, precision, devices and compiler of the run, on a few rows of the first batch. It extracts single responses, gives
each its own copy of the prompt, and runs these pairs through the model with plain masks and positions and XLA's
attention. It covers the masks, the positions and the sharing of prompts in the forward pass, but neither the data of
the batch nor the gradient.
"""

import functools
import math
from collections.abc import Callable, Mapping

import jax
import jax.numpy as jnp
import numpy as np
from jaxtyping import Int32

from scotd_jax.distributed import mesh as meshes
from scotd_jax.distributed import sharding
from scotd_jax.models import matmul
from scotd_jax.models.api import LanguageModel, Params
from scotd_jax.models.forward_options import Attention, ForwardOptions
from scotd_jax.training.losses import response_loss
from scotd_jax.training.step import hidden_states

PAIRS_PER_ROW = 4
# Allowed relative differences of hidden states and of losses, by compute dtype. The float32 tolerance covers
# accelerators that multiply with fewer bits. A response that attends to a neighbor differs by a few tenths.
TOLERANCE = {"float32": 1e-2, "bfloat16": 5e-2}


def check_against_pairs(
    model: LanguageModel,
    params: Params,
    batch: Mapping[str, Mapping[str, np.ndarray]],
    mesh: jax.sharding.Mesh,
    attention: Attention | None = None,
) -> dict[str, float]:
    """Compares the hidden states and losses of a batch with those of separate pairs.

    Args:
      model: the model to train.
      params: its parameters.
      batch: the rows of this process, by part.
      mesh: devices.
      attention: the fused attention that training uses, if any.

    Returns:
      The relative difference of the hidden states by part. Parts that consist of separate pairs already (unless they
      use fused attention) and parts without a finite loss are left out.

    Raises:
      RuntimeError: if a difference is larger than rounding explains.
    """
    rows = max(1, meshes.batch_shards(mesh) // jax.process_count())
    differences = {}
    for name, part in batch.items():
        if part["inputs"].shape[1] == 1 and "positions" not in part and attention is None:
            continue
        first_rows = {key: array[:rows] for key, array in part.items()}
        arrays = sharding.shard_batch((first_rows, *extract_pairs(first_rows)), sharding.batch_sharding(mesh))
        difference, loss, pair_loss = (float(x) for x in _compiled_comparison(model, mesh, attention)(params, *arrays))
        if not math.isfinite(pair_loss):
            continue  # the training loop reports a loss that is not finite
        allowed = TOLERANCE[model.precision.compute]
        if not (difference <= allowed and abs(loss - pair_loss) <= allowed * abs(pair_loss)):
            alternative = "training.attention=xla" if attention else "training.max_shapes=1"
            raise RuntimeError(
                f"training.startup_check: part {name!r}: {'packed' if 'positions' in part else 'grouped'} responses do "
                f"not compute what separate pairs of prompt and response compute: loss {loss:.5f} against "
                f"{pair_loss:.5f} nats per token, hidden states differ by {100 * difference:.2g} % of their size, "
                f"rounding explains at most {100 * allowed:g} %. Your settings are not the cause; {alternative} trains "
                f"without {'fused attention' if attention else 'packing'}, training.startup_check=False without this "
                "check"
            )
        differences[name] = difference
    return differences


def extract_pairs(
    part: Mapping[str, np.ndarray],
) -> tuple[dict[str, np.ndarray], Int32[np.ndarray, "rows pairs R"]]:
    """Extracts PAIRS_PER_ROW pairs of prompt and response from every row, and repeats responses if there are fewer.

    Args:
      part: rows of a part of a batch.

    Returns:
      The pairs, as a part with one response per question, and the index of each of their tokens among the G * R tokens
      of the row.
    """
    rows, G, R = part["inputs"].shape
    P = part["prompt"].shape[1]
    pairs = {
        "prompt": np.zeros((rows, PAIRS_PER_ROW, P), np.int32),
        "prompt_mask": np.zeros((rows, PAIRS_PER_ROW, P), bool),
        "weights": np.zeros((rows, PAIRS_PER_ROW, R), np.float32),
    }
    token_index = np.zeros((rows, PAIRS_PER_ROW, R), np.int32)
    for i in range(rows):
        responses = _response_spans({key: array[i] for key, array in part.items()})
        for j in range(PAIRS_PER_ROW):
            # Start with the last response, which has the most neighbors to its left, and go back in even steps.
            g, begin, end = responses[-1 - (j * max(1, len(responses) // PAIRS_PER_ROW)) % len(responses)]
            prompt_mask = part["prompt_mask"][i]
            if "questions" in part:
                prompt_mask = prompt_mask & (part["prompt_questions"][i] == part["questions"][i, g, begin])
            prompt = part["prompt"][i][prompt_mask]
            pairs["prompt"][i, j, : len(prompt)], pairs["prompt_mask"][i, j, : len(prompt)] = prompt, True
            pairs["weights"][i, j, : end - begin] = 1
            token_index[i, j] = g * R + np.minimum(begin + np.arange(R), end - 1)
    for key in ("inputs", "targets"):
        flat = part[key].reshape(rows, 1, G * R)
        pairs[key] = np.take_along_axis(flat, token_index, 2) * (pairs["weights"] > 0)
    # Pairs are the questions of the new part; arrays of responses also get the axis G, of size 1.
    flattened = {key: array.reshape(rows * PAIRS_PER_ROW, -1) for key, array in pairs.items()}
    return {k: v if k.startswith("prompt") else v[:, None] for k, v in flattened.items()}, token_index


def _response_spans(row: Mapping[str, np.ndarray]) -> list[tuple[int, int, int]]:
    """(g, begin, end) of every response of one row of a batch."""
    spans = []
    for g, is_token in enumerate(row["weights"] > 0):
        length = int(is_token.sum())  # responses are packed at the beginning, without gaps
        if not length:
            continue
        begins = np.flatnonzero(row["positions"][g, :length] == 0).tolist() if "positions" in row else [0]
        spans += [(g, begin, end) for begin, end in zip(begins, [*begins[1:], length], strict=True)]
    return spans


@functools.lru_cache(maxsize=8)
def _compiled_comparison(
    model: LanguageModel, mesh: jax.sharding.Mesh, attention: Attention | None
) -> Callable[..., tuple[jax.Array, jax.Array, jax.Array]]:
    """A jitted function that returns the relative difference of hidden states and the two mean losses."""

    @jax.jit
    @matmul.for_mesh(mesh)
    def compare(params, part, pairs, token_index):
        unembedding, rows = model.unembedding(params), token_index.shape[0]
        batched = hidden_states(model, params, part, ForwardOptions(attention=attention))
        batched = batched.reshape(rows, -1, batched.shape[-1])
        batched = jnp.take_along_axis(batched, token_index.reshape(rows, -1, 1), axis=1)
        separate = hidden_states(model, params, pairs).reshape(batched.shape)
        weights = pairs["weights"].reshape(rows, 1, -1)
        targets = pairs["targets"].reshape(weights.shape)

        def loss(hidden):
            return response_loss(hidden[:, None], unembedding, targets, weights, model.precision.compute, chunk=1024)[
                0
            ].mean()

        def norm(hidden):
            return jnp.sqrt(jnp.sum(weights[:, 0, :, None] * jnp.square(hidden)))

        return norm(batched - separate) / norm(separate), loss(batched), loss(separate)

    return compare
