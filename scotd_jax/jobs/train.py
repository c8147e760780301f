"""The train job: trains one student and selects its best checkpoint."""

from collections.abc import Mapping

import jax
from clu import parameter_overview

from scotd_jax.atomic import write_text
from scotd_jax.corpus.batching.curriculum import disagreements
from scotd_jax.corpus.batching.loader import CorpusBatches, open_batches, prefetch_batches
from scotd_jax.corpus.batching.savings import padding_savings
from scotd_jax.corpus.description import read_description
from scotd_jax.distributed import hosts
from scotd_jax.distributed.mesh import batch_shards, mesh_platform
from scotd_jax.errors import InputError
from scotd_jax.jobs.context import RunContext
from scotd_jax.jobs.generation.dev_evaluation import DevEvaluation
from scotd_jax.jobs.preparation import manifests
from scotd_jax.models import api
from scotd_jax.models.position_table import check_positions
from scotd_jax.rationales.store import read_responses
from scotd_jax.training.accounting import summarize_cost
from scotd_jax.training.checkpoints import best_step, latest_step
from scotd_jax.training.loop import train as train_loop
from scotd_jax.training.metrics import read_metrics
from scotd_jax.training.settings_check import check_training
from scotd_jax.training.trainable import describe_trainable


def train(context: RunContext, name: str) -> None:
    """Trains students/NAME: checkpoints (last and best on dev), metrics.jsonl, parameters.txt, manifest.

    Raises:
      InputError: if sequences of the corpus are too long for the model, or the settings are invalid.
    """
    spec = context.config.students[name]
    seed = context.config.seed + spec.seed
    artefact = context.artefact("train", name)
    if not artefact.begin(manifests.student_identity(context, name)):
        context.log("  already complete")
        return
    model = context.models.functions(spec.model, spec.precision)
    parts = {key: part.weight for key, part in context.recipes[spec.corpus].parts.items()}
    batches = _open_batches(context, name, model, seed)
    context.log(f"  corpus {spec.corpus}: {padding_savings(batches)}")
    if hosts.is_primary():
        overview = parameter_overview.get_parameter_overview(model.abstract(), include_stats=False)
        write_text(artefact.path / "parameters.txt", overview + "\n")
    if trainable := describe_trainable(model.abstract(), spec.training.freeze, spec.training.lora):
        context.log(f"  trainable parameters: {trainable}")
    done = latest_step(artefact.path / "checkpoints")
    with context.progress(spec.training.steps, f"  {name}", "updates", done) as progress:
        goodput = train_loop(
            model,
            lambda: context.models.params(spec.model, model, seed),
            prefetch_batches(batches),
            spec.training,
            artefact.path,
            mesh=context.mesh,
            seed=seed,
            evaluate=DevEvaluation(context, name, model) if spec.dev_sets else None,
            parts=tuple(parts.items()),
            profile=context.config.profile,
            log=lambda step, values: progress.advance(step - progress.done, progress_note(values)),
        )
    best = best_step(artefact.path / "checkpoints")
    lines = read_metrics(artefact.path / "metrics.jsonl") if hosts.is_primary() else []
    cost = summarize_cost(lines, goodput)
    context.log("  " + ", ".join(f"{key} {value}" for key, value in best.items()))
    context.log(f"  goodput {100 * cost['goodput']:.0f} %, {cost['rationales_per_second']:.3g} rationales/s of updates")
    artefact.finish({**best, "cost": cost})


def check_settings(context: RunContext, name: str) -> None:
    """Raises InputError if the training settings of a student are invalid for its model or the devices."""
    spec, functions = context.config.students[name], context.models.functions
    platform = mesh_platform(context.mesh)
    check_training(
        name, spec.training, context.mesh, platform, lambda: functions(spec.model, spec.precision).abstract()
    )


def progress_note(values: Mapping[str, float]) -> str:
    """Returns the note of the progress line for one line of metrics."""
    if "dev_accuracy" in values:
        return f"dev accuracy {100 * values['dev_accuracy']:.1f} %"
    return f"loss {values['loss']:.3f}"


def _open_batches(context: RunContext, name: str, model: api.LanguageModel, seed: int) -> CorpusBatches:
    """The batches of the student's corpus. Raises InputError if its sequences are longer than the model allows."""
    spec = context.config.students[name]
    corpus, parts = context.checked("build", spec.corpus).path, tuple(context.recipes[spec.corpus].parts)
    for part in parts:
        counts = read_description(corpus, part)["counts"]
        prompt, response = counts["prompt_tokens_max"], counts["response_tokens_max"]
        check_positions(
            model.config,
            prompt + response,
            f"config.students.{name}: prompts of up to {prompt} tokens and responses of up to {response}",
            "lower the corpus' max_prompt_tokens and max_response_tokens",
        )
    return open_batches(
        corpus,
        parts,
        batch_size=spec.training.batch_size,
        group_size=spec.training.group_size,
        start_token=model.start_token,
        seed=seed,
        process_index=jax.process_index(),
        process_count=jax.process_count(),
        balance_window=spec.training.balance_window,
        max_shapes=spec.training.max_shapes,
        row_multiple=spec.training.microbatches * batch_shards(context.mesh),
        mixture=context.config.corpora[spec.corpus].mixture,
        difficulty=_difficulty(context, name) if spec.training.curriculum else None,
    )


def _difficulty(context: RunContext, name: str) -> dict[str, float]:
    """The difficulty of the questions of a student's corpus. Raises InputError if it is the same for all."""
    corpus = context.config.students[name].corpus
    sources = context.config.corpora[corpus].rationales
    found = disagreements(row for source in sources for row in read_responses(context.response_files(source)))
    if len(set(found.values())) < 2:
        raise InputError(
            f"config.students.{name}.training.curriculum: the responses of corpus {corpus!r} agree equally on all "
            "questions, so there is no order; use several responses per question, or remove it"
        )
    return found
