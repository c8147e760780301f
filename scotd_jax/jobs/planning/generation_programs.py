"""The sampler's programs for a generation workload, as ProgramSpecs."""

import dataclasses
from collections.abc import Callable
from typing import Any

import jax
import jax.numpy as jnp
from jax.sharding import NamedSharding, PartitionSpec

from scotd_jax import config as c
from scotd_jax.distributed import sharding
from scotd_jax.distributed.sharding import AnyMesh
from scotd_jax.jobs.planning.program_specs import ProgramSpec, abstract_array, build_model, with_shardings
from scotd_jax.jobs.planning.workloads import GenerationWorkload
from scotd_jax.models import api
from scotd_jax.sampling import decode_loop
from scotd_jax.sampling.batch_sizes import (
    contexts_per_group,
    prefill_batch_size,
    questions_per_batch,
    scored_prompts_per_batch,
)
from scotd_jax.sampling.compiled import sampling_programs
from scotd_jax.sampling.likelihood import make_score_fn
from scotd_jax.sampling.noise import base_key

ANSWER_TOKENS = 8  # tokens of a candidate answer, which is a letter or a few words
STOP_STATES = 8  # assumed number of rows of the stop-string table, which needs little memory for any stop strings


def generation_programs(
    workload: GenerationWorkload,
    mesh: AnyMesh,
    platform: str,
    layers: int = 0,
    output_shardings: Callable[[ProgramSpec], Any] | None = None,
) -> dict[str, ProgramSpec]:
    """Returns the programs of the sampler by name.

    Args:
      workload: the workload.
      mesh: mesh of described devices, or abstract mesh.
      platform: platform of the devices.
      layers: depth of the model; 0 for the full depth.
      output_shardings: returns the shardings that the compiler chooses for the outputs of a program. By default
        outputs are replicated.

    Returns:
      "few_shot" (if there are examples), "prefill" and "decode"; or only "score" if candidate answers are scored.
    """
    workload = with_batch_size(workload, mesh)
    model, policy = build_model(workload, platform, layers), workload.policy
    if workload.candidate_answers:
        return {"score": _score_program(workload, model, policy.batch_size, mesh)}
    compiled = sampling_programs(model, policy, (0,), workload.model_config.vocab_size, mesh)
    params, unembedding = _inference_weights(model, mesh)
    weights = decode_loop.InferenceWeights(params, unembedding)  # pyrefly: ignore[bad-argument-type]
    B, W = policy.batch_size, contexts_per_group(policy)  # groups of slots, contexts per group
    batch_sharded, replicated = sharding.batch_sharding(mesh), sharding.replicated(mesh)
    programs: dict[str, ProgramSpec] = {}
    few_shot = None
    if workload.exemplar_tokens:
        arguments = (params, *_prompts(1, workload.exemplar_tokens, replicated))
        spec = ProgramSpec(compiled.prefill_few_shot, arguments, {"weights": params})
        shapes = jax.eval_shape(compiled.prefill_few_shot, *arguments)
        shardings = output_shardings(spec) if output_shardings else jax.tree.map(lambda _: replicated, shapes)
        programs["few_shot"], few_shot = spec, with_shardings(shapes, shardings)
    initial = jax.eval_shape(lambda p: decode_loop.init_state(model, policy, p, B, W, workload.prompt_tokens), params)
    shardings = jax.tree.map(lambda leaf: sharding.cache_sharding(mesh, leaf.shape), initial)
    contexts, state, cache = with_shardings(initial, shardings)
    prompts = _prompts(prefill_batch_size(B, mesh), workload.prompt_tokens, batch_sharded)
    source = abstract_array((W, B), jnp.int32, replicated)
    arguments = (params, few_shot, contexts, *prompts, source)
    programs["prefill"] = ProgramSpec(compiled.prefill, arguments, {"weights": params, "cache": (few_shot, contexts)})
    stop_table = abstract_array((STOP_STATES, workload.model_config.vocab_size), jnp.int32, replicated)
    inputs, base = _step_inputs(policy, batch_sharded), jax.eval_shape(lambda: base_key(0))
    arguments = (weights, few_shot, contexts, state, cache, inputs, base, stop_table)
    persistent = {"weights": weights, "cache": (few_shot, contexts, state, cache)}
    programs["decode"] = ProgramSpec(compiled.decode_steps, arguments, persistent)
    return programs


def with_batch_size(workload: GenerationWorkload, mesh: AnyMesh) -> GenerationWorkload:
    """Returns the workload with the batch size that the sampler, or the scoring of answers, uses on the mesh."""
    policy = workload.policy
    if workload.candidate_answers:
        policy = dataclasses.replace(policy, batch_size=scored_prompts_per_batch(policy))
    batch_size = questions_per_batch(workload.model_config, policy, workload.prompt_tokens, mesh)
    return dataclasses.replace(workload, policy=dataclasses.replace(policy, batch_size=batch_size))


def _score_program(
    workload: GenerationWorkload, model: api.LanguageModel, questions: int, mesh: AnyMesh
) -> ProgramSpec:
    """The program that scores the answers of one batch. The context of its prompts is a buffer, not an argument."""
    batch_sharded, candidates = sharding.batch_sharding(mesh), (questions, workload.candidate_answers)
    prompts = _prompts(questions, workload.prompt_tokens, batch_sharded)
    shapes = (
        ((*candidates, workload.rationale_tokens + ANSWER_TOKENS), jnp.int32),
        ((questions,), jnp.int32),
        ((*candidates, ANSWER_TOKENS), jnp.int32),
        ((*candidates, ANSWER_TOKENS), jnp.bool_),
    )
    answers = (abstract_array(shape, dtype, batch_sharded) for shape, dtype in shapes)
    params, _ = _inference_weights(model, mesh)
    buffers = {"context": jax.eval_shape(model.prefill, params, *prompts)}
    return ProgramSpec(jax.jit(make_score_fn(model)), (params, *prompts, *answers), {"weights": params}, buffers)


def _prompts(
    count: int, length: int, array_sharding: NamedSharding
) -> tuple[jax.ShapeDtypeStruct, jax.ShapeDtypeStruct]:
    """Token ids and mask of prompts."""
    shape = (count, length)
    return abstract_array(shape, jnp.int32, array_sharding), abstract_array(shape, jnp.bool_, array_sharding)


def _step_inputs(policy: c.Sampling, array_sharding: NamedSharding) -> decode_loop.StepInputs:
    """Abstract StepInputs of shape [B, G]."""
    # In the order of the fields of StepInputs: dtype and trailing axes.
    fields = ((jnp.bool_, ()), (jnp.int32, ()), (jnp.int32, ()), (jnp.uint32, (2,)), (jnp.int32, ()))
    shape = (policy.batch_size, policy.n)
    arrays = (abstract_array((*shape, *trailing), dtype, array_sharding) for dtype, trailing in fields)
    return decode_loop.StepInputs(*arrays)  # pyrefly: ignore[bad-argument-type]


def _inference_weights(model: api.LanguageModel, mesh: AnyMesh) -> tuple[Any, jax.ShapeDtypeStruct]:
    """Abstract parameters cast for inference, and the abstract output matrix [E, V]."""
    abstract = model.abstract()
    shardings = sharding.param_shardings(mesh, model.axes(), abstract)
    weights = jax.eval_shape(lambda params: decode_loop.inference_weights(model, params), abstract)
    by_token = shardings["lm_head"]["kernel"] if "lm_head" in shardings else shardings["embed"]["tokens"]
    vocab, width = (*by_token.spec, None, None)[:2]
    unembedding = NamedSharding(by_token.mesh, PartitionSpec(width, vocab))
    return with_shardings(weights.params, shardings), with_shardings(weights.unembedding, unembedding)
