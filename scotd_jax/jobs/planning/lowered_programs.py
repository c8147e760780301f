"""Every program of a training and of a speaker, with arguments that have shapes and places and no values.

The programs are those that run: training/loop.py and sampling/compiled.py make them. With a mesh of described devices
they can be compiled; with an abstract mesh, which has sizes alone, they can be counted.
"""

import contextlib
import dataclasses
from collections.abc import Callable
from typing import Any

import jax
import jax.numpy as jnp
from jax.sharding import NamedSharding

from scotd_jax import config as c
from scotd_jax.distributed import sharding
from scotd_jax.distributed.mesh import batch_shards
from scotd_jax.distributed.sharding import AnyMesh
from scotd_jax.errors import InputError, SizesError
from scotd_jax.jobs.planning import trainable_memory
from scotd_jax.jobs.planning.assumptions import with_layers
from scotd_jax.jobs.planning.workloads import Speaking, Training, Work
from scotd_jax.layout import round_up
from scotd_jax.models import api, registry
from scotd_jax.models.kernels import fused_attention
from scotd_jax.sampling import decode_loop
from scotd_jax.sampling.compiled import sampling_programs
from scotd_jax.sampling.decode_pass import contexts_per_group, prefill_batch_size
from scotd_jax.sampling.likelihood import make_score_fn
from scotd_jax.sampling.noise import base_key
from scotd_jax.training import loop
from scotd_jax.training.options import scans_layers

ANSWER_TOKENS = 8  # of answers that are compared, which are letters or a word or two
STATES = 8  # of the table of stop strings; it is small whatever they are


@dataclasses.dataclass(frozen=True)
class Call:
    """`function(*arguments)`. `held` says by what name the bytes of the arguments go, and `made` names what else is
    large: in an update trees like the parameters (learning.py), in "score" the context of the prompts."""

    function: Callable[..., Any]
    arguments: tuple[Any, ...]
    held: dict[str, Any]  # "weights", "optimizer", "cache": trees of arguments
    made: dict[str, Any] = dataclasses.field(default_factory=dict)


def model_of(work: Training | Speaking, platform: str, layers: int = 0) -> api.Model:
    """The model of a work, with so many layers (0: its own)."""
    architecture = with_layers(work.architecture, layers) if layers else work.architecture
    return registry.build(architecture, api.Precision(work.precision), platform)


def training_call(work: Training, mesh: AnyMesh, platform: str, layers: int = 0) -> Call:
    """The update. Raises SizesError if the sizes of batch and mesh do not fit, and InputError, which names the student,
    on settings that fit nowhere."""
    try:
        loop.check_batch_size(work.settings, mesh)
        fused_attention.check(work.settings.attention, platform)
        made = loop.training_programs(model_of(work, platform, layers), work.settings, work.parts, mesh)
    except SizesError:
        raise
    except InputError as error:
        raise InputError(f"config.students.{work.names[0]}: {error}") from None
    state, batch = made.abstract_state, batch_of(work, work.settings.batch_size, made.batch_sharding)
    seed = jax.ShapeDtypeStruct((), jnp.uint32, sharding=state.step.sharding)
    arguments = (state, batch, *([seed] if work.settings.dropout > 0 else []))
    held = {"weights": (state.params, state.frozen), "optimizer": state.opt_state}
    return Call(made.step, arguments, held, trainable_memory.made(state, scans_layers(work.settings, platform)))


def check(work: Work, mesh: AnyMesh, platform: str) -> None:
    """Raises InputError on settings of a training that fit nowhere; sizes that do not fit this mesh may fit others."""
    if isinstance(work, Training):
        with contextlib.suppress(SizesError):
            training_call(work, mesh, platform)


def batch_of(work: Training, rows: int, place: NamedSharding | None) -> dict[str, Any]:
    """A batch as step.py describes it."""

    def array(*shape: int, dtype: Any = jnp.int32) -> jax.ShapeDtypeStruct:
        return jax.ShapeDtypeStruct((rows, *shape), dtype, sharding=place)

    P, G, R = work.prompt, work.group, work.response
    part = {
        "prompt": array(P),
        "prompt_mask": array(P, dtype=jnp.bool_),
        "inputs": array(G, R),
        "targets": array(G, R),
        "weights": array(G, R, dtype=jnp.float32),
    }
    return {name: part for name, _ in work.parts}


def speaking_calls(
    work: Speaking,
    mesh: AnyMesh,
    platform: str,
    layers: int = 0,
    places: Callable[[Call], Any] | None = None,
) -> dict[str, Call]:
    """The programs of a speaker: "exemplars" (if there are any), "read" and "decode"; or "score" alone where it
    compares answers.

    `places(call)` says where the compiler puts the results of a call; None: whole on every device.
    """
    model, policy = model_of(work, platform, layers), rounded(work.policy, mesh)
    if work.answers:
        return {"score": _score_call(work, model, policy.batch_size, mesh)}
    made = sampling_programs(model, policy, (0,), work.architecture.vocab_size, mesh)
    params, unembedding = _weights(model, mesh)
    weights = decode_loop.InferenceWeights(params, unembedding)
    B, G, A = policy.batch_size, policy.n, prefill_batch_size(policy.batch_size, mesh)
    W, batch, whole = contexts_per_group(policy), sharding.batch_sharding(mesh), sharding.replicated(mesh)
    calls: dict[str, Call] = {}
    shared = None
    if work.exemplars:
        arguments = (params, *_prompt(1, work.exemplars, whole))
        calls["exemplars"] = Call(made.prefill_few_shot, arguments, {"weights": params})
        shapes = jax.eval_shape(made.prefill_few_shot, *arguments)
        shared = placed(shapes, places(calls["exemplars"]) if places else jax.tree.map(lambda _: whole, shapes))
    empty = jax.eval_shape(lambda p: decode_loop.init_state(model, policy, p, B, W, work.prompt), params)
    at = jax.tree.map(lambda leaf: sharding.cache_sharding(mesh, leaf.shape), empty)
    questions, rows, cache = placed(empty, at)
    source = jax.ShapeDtypeStruct((W, B), jnp.int32, sharding=whole)
    arguments = (params, shared, questions, *_prompt(A, work.prompt, batch), source)
    calls["read"] = Call(made.prefill, arguments, {"weights": params, "cache": (shared, questions)})
    orders = decode_loop.StepInputs(
        *(
            jax.ShapeDtypeStruct((B, G, *more), dtype, sharding=batch)
            for dtype, more in ((jnp.bool_, ()), (jnp.int32, ()), (jnp.int32, ()), (jnp.uint32, (2,)), (jnp.int32, ()))
        )
    )
    base = jax.eval_shape(lambda: base_key(0))
    table = jax.ShapeDtypeStruct((STATES, work.architecture.vocab_size), jnp.int32, sharding=whole)
    arguments = (weights, shared, questions, rows, cache, orders, base, table)
    calls["decode"] = Call(
        made.decode_steps, arguments, {"weights": weights, "cache": (shared, questions, rows, cache)}
    )
    return calls


def _score_call(work: Speaking, model: api.Model, rows: int, mesh: AnyMesh) -> Call:
    """All answers of as many prompts at a time as a sampler has questions. What a prompt is read into stays inside."""
    batch, shape = sharding.batch_sharding(mesh), (rows, work.answers, ANSWER_TOKENS)
    prompt = _prompt(rows, work.prompt, batch)
    answers = (jax.ShapeDtypeStruct(shape, dtype, sharding=batch) for dtype in (jnp.int32, jnp.int32, jnp.bool_))
    params, _ = _weights(model, mesh)
    made = {"context": jax.eval_shape(model.prefill, params, *prompt)}
    return Call(jax.jit(make_score_fn(model)), (params, *prompt, *answers), {"weights": params}, made)


def rounded(policy: c.Sampling, mesh: AnyMesh) -> c.Sampling:
    """The policy as a sampler on that mesh takes it."""
    return dataclasses.replace(policy, batch_size=round_up(policy.batch_size, batch_shards(mesh)))


def _prompt(rows: int, width: int, place: NamedSharding) -> tuple[jax.ShapeDtypeStruct, jax.ShapeDtypeStruct]:
    shape = (rows, width)
    return tuple(jax.ShapeDtypeStruct(shape, dtype, sharding=place) for dtype in (jnp.int32, jnp.bool_))


def _weights(model: api.Model, mesh: AnyMesh) -> tuple[Any, jax.ShapeDtypeStruct]:
    abstract = model.abstract()
    places = sharding.param_shardings(mesh, model.axes(), abstract)
    weights = jax.eval_shape(lambda params: decode_loop.inference_weights(model, params), abstract)
    table = places["lm_head"]["kernel"] if "lm_head" in places else places["embed"]["tokens"]
    return placed(weights.params, places), placed(weights.unembedding, table)


def placed(shapes: Any, places: Any) -> Any:
    return jax.tree.map(lambda leaf, at: jax.ShapeDtypeStruct(leaf.shape, leaf.dtype, sharding=at), shapes, places)


def bytes_of(tree: Any) -> int:
    """Bytes of a tree of placed shapes on one device."""
    total = 0
    for leaf in jax.tree.leaves(tree):
        shape = leaf.shape if leaf.sharding is None else leaf.sharding.shard_shape(leaf.shape)
        size = 1
        for axis in shape:
            size *= axis
        total += size * jnp.dtype(leaf.dtype).itemsize if not jnp.issubdtype(leaf.dtype, jax.dtypes.prng_key) else 8
    return total
