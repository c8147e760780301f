"""FLOPs of training every student of a run, and of sampling the responses that it was trained on."""

import functools
from typing import Any

from scotd_jax.config import ModelSource
from scotd_jax.distributed.flops import generation_flops
from scotd_jax.jobs.context import RunContext
from scotd_jax.jobs.generation.prompting import source_prompt_settings
from scotd_jax.rationales.store import read_responses
from scotd_jax.tasks import recipes
from scotd_jax.training.metrics import read_metrics

_PROMPTS = 100  # questions from which the mean length of prompts is estimated


def run_costs(context: RunContext) -> dict[str, dict[str, float]]:
    """Returns the cost of every training that recorded it: time, and the FLOPs of training and sampling if known.

    The FLOPs of training include those of the student that a student starts from. Responses that a server or a person
    wrote have no known FLOPs, and neither have those of files.
    """
    costs: dict[str, dict[str, float]] = {}
    sampling = functools.cache(functools.partial(_sampling_flops, context))
    for name, student in context.config.students.items():
        recorded = context.artefact("train", name).manifest().get("counts", {}).get("cost")
        if not recorded:
            continue
        costs[name] = dict(recorded)
        if flops := _training_flops(context, name):
            costs[name]["training_flops"] = flops
        corpus = context.config.corpora[student.corpus]
        uses_responses = recipes.uses_fields(context.recipes[student.corpus], *recipes.RESPONSE_FIELDS)
        parts = [sampling(source, corpus.n) for source in (corpus.rationales if uses_responses else ())]
        known = [part for part in parts if part is not None]
        if len(known) == len(parts):
            costs[name]["sampling_flops"] = sum(known)
    return costs


def _training_flops(context: RunContext, name: str) -> float:
    """FLOPs of all updates of a student and of the one it starts from; 0 if one of them is unknown."""
    file = context.artefact("train", name).path / "metrics.jsonl"
    own = sum(row.get("flops", 0.0) for row in read_metrics(file)) if file.exists() else 0.0
    base = context.config.students[name].model.student
    before = _training_flops(context, base) if base else 0.0
    return own + before if own and (before or not base) else 0.0


def _sampling_flops(context: RunContext, source: str, n: int) -> float | None:
    """FLOPs of the first n responses to every question (0: all of them) of a local model; None if unknown."""
    spec: Any = context.config.rationales[source]
    if not isinstance(spec, ModelSource) or not context.artefact("sample", source).complete:
        return None
    rows = read_responses(context.response_files(source))
    lengths = [row.num_tokens for row in rows if not n or row.sample_index < n]
    prompts = context.prompt_builder(source_prompt_settings(context.config, spec, f"config.rationales.{source}"))
    config, tokenizer = context.models.architecture(spec.model), context.models.tokenizer(spec.model)
    questions = context.questions.by_id(spec.questions)
    some = list(questions.values())[:_PROMPTS]
    tokens = sum(len(tokenizer.prompt_ids(prompts.prompt(question, task), config.kind)) for question, task in some)
    prompt = round(tokens / len(some))
    return float(generation_flops(config, questions=len(questions), prompt=prompt, lengths=lengths)) or None
