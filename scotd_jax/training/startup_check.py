"""Before the first update: what is computed fast is what separate pairs of prompt and response compute.

Grouping, packing and fused attention change nothing of the loss in exact arithmetic. Whether that holds for this model,
in this precision, over these devices and by this compiler, is looked at here on a few rows of the first batch: their
responses are taken out of the arrays one by one, each is laid beside its own copy of its prompt, without neighbours,
with plain masks and positions and attention by XLA, and both go through the model. It proves that masks, positions and
the sharing of prompts do what they should in these shapes, forward, and nothing of a batch's data or of the derivative.
"""

import functools
import math
from collections.abc import Callable, Mapping

import jax
import jax.numpy as jnp
import numpy as np

from scotd_jax.distributed import mesh as meshes
from scotd_jax.distributed import sharding
from scotd_jax.models import matmul
from scotd_jax.models.api import Model, Params
from scotd_jax.models.forward_options import Attention, ForwardOptions
from scotd_jax.training.losses import response_loss
from scotd_jax.training.step import hidden

RESPONSES = 4  # of a row are compared
# Hidden states may differ by so much of their size, losses by so much of theirs. A neighbour that is seen makes tenths.
TOLERANCE = {"float32": 1e-2, "bfloat16": 5e-2}  # accelerators multiply float32 matrices in fewer bits, too


def check_pairs(
    model: Model,
    params: Params,
    batch: Mapping[str, Mapping[str, np.ndarray]],
    mesh: jax.sharding.Mesh,
    attention: Attention | None = None,
) -> dict[str, float]:
    """By how much the hidden states of each part of `batch` (this process' rows) differ, relative to their size; parts
    that are separate pairs themselves (unless they attend in another way), or have no finite loss, are left out. Raises
    RuntimeError if that is more than rounding."""
    rows = max(1, meshes.batch_shards(mesh) // jax.process_count())
    found = {}
    for name, part in batch.items():
        if part["inputs"].shape[1] == 1 and "positions" not in part and attention is None:
            continue
        cut = {key: array[:rows] for key, array in part.items()}
        given = sharding.shard_batch((cut, *separate(cut)), sharding.batch_sharding(mesh))
        difference, fast, slow = (float(x) for x in _compared(model, mesh, attention)(params, *given))
        if not math.isfinite(slow):
            continue  # of such a model the loop says what is wrong
        allowed = TOLERANCE[model.precision.compute]
        if not (difference <= allowed and abs(fast - slow) <= allowed * abs(slow)):
            other = "training.attention=xla" if attention else "training.max_shapes=1"
            raise RuntimeError(
                f"training.startup_check: part {name!r}: {'packed' if 'positions' in part else 'grouped'} responses do "
                f"not compute what separate pairs of prompt and response compute: loss {fast:.5f} against {slow:.5f} "
                f"nats per token, hidden states differ by {100 * difference:.2g} % of their size, {100 * allowed:g} % "
                f"is what rounding may do. No setting of yours is at fault; {other} trains without "
                f"{'fused attention' if attention else 'packing'}, and training.startup_check=False without this check"
            )
        found[name] = difference
    return found


def separate(cut: Mapping[str, np.ndarray]) -> tuple[dict[str, np.ndarray], np.ndarray]:
    """RESPONSES pairs of every row (fewer are repeated), and int32[rows, RESPONSES, R]: where their tokens lie among
    the G * R of the row."""
    rows, G, R = cut["inputs"].shape
    P = cut["prompt"].shape[1]
    pairs = {
        "prompt": np.zeros((rows, RESPONSES, P), np.int32),
        "prompt_mask": np.zeros((rows, RESPONSES, P), bool),
        "weights": np.zeros((rows, RESPONSES, R), np.float32),
    }
    at = np.zeros((rows, RESPONSES, R), np.int32)
    for i in range(rows):
        said = _responses({key: array[i] for key, array in cut.items()})
        for j in range(RESPONSES):
            # From the last one backwards: it has most neighbours before it.
            g, begin, end = said[-1 - (j * max(1, len(said) // RESPONSES)) % len(said)]
            mine = cut["prompt_mask"][i]
            if "questions" in cut:
                mine = mine & (cut["prompt_questions"][i] == cut["questions"][i, g, begin])
            prompt = cut["prompt"][i][mine]
            pairs["prompt"][i, j, : len(prompt)], pairs["prompt_mask"][i, j, : len(prompt)] = prompt, True
            pairs["weights"][i, j, : end - begin] = 1
            at[i, j] = g * R + np.minimum(begin + np.arange(R), end - 1)
    for key in ("inputs", "targets"):
        flat = cut[key].reshape(rows, 1, G * R)
        pairs[key] = np.take_along_axis(flat, at, 2) * (pairs["weights"] > 0)
    flattened = {key: array.reshape(rows * RESPONSES, -1) for key, array in pairs.items()}
    return {k: v if k.startswith("prompt") else v[:, None] for k, v in flattened.items()}, at


def _responses(row: Mapping[str, np.ndarray]) -> list[tuple[int, int, int]]:
    """(g, begin, end) of every response of one row of a batch."""
    said = []
    for g, real in enumerate(row["weights"] > 0):
        length = int(real.sum())  # responses lie at the beginning, one behind the other
        if not length:
            continue
        begins = np.flatnonzero(row["positions"][g, :length] == 0).tolist() if "positions" in row else [0]
        said += [(g, begin, end) for begin, end in zip(begins, [*begins[1:], length], strict=True)]
    return said


@functools.lru_cache(maxsize=8)
def _compared(
    model: Model, mesh: jax.sharding.Mesh, attention: Attention | None
) -> Callable[..., tuple[jax.Array, jax.Array, jax.Array]]:
    """Compiled once per model, attention and shapes: relative difference of hidden states, and both mean losses."""

    @jax.jit
    @matmul.for_mesh(mesh)
    def compare(params, cut, pairs, at):
        table, rows = model.unembedding(params), at.shape[0]
        fast = hidden(model, params, cut, ForwardOptions(attention=attention))
        fast = jnp.take_along_axis(fast.reshape(rows, -1, fast.shape[-1]), at.reshape(rows, -1, 1), axis=1)
        slow = hidden(model, params, pairs).reshape(fast.shape)
        real = pairs["weights"].reshape(rows, 1, -1)
        targets = pairs["targets"].reshape(real.shape)

        def loss(states):
            states = states[:, None]
            return response_loss(states, table, targets, real, model.precision.compute, chunk=1024)[0].mean()

        size = jnp.sqrt(jnp.sum(real[:, 0, :, None] * jnp.square(slow)))
        return jnp.sqrt(jnp.sum(real[:, 0, :, None] * jnp.square(fast - slow))) / size, loss(fast), loss(slow)

    return compare
