"""The train job: one student from its start to its best checkpoint."""

import itertools
from collections.abc import Mapping

import jax
from clu import parameter_overview

from scotd_jax.config import Model, plain
from scotd_jax.corpus.batching.loader import open_batches, prefetch_batches
from scotd_jax.corpus.batching.savings import padding_savings
from scotd_jax.corpus.description import read_description
from scotd_jax.distributed import hosts
from scotd_jax.distributed.mesh import batch_shards
from scotd_jax.errors import InputError
from scotd_jax.jobs.context import Run
from scotd_jax.jobs.generation.local import Asked, Speaker, make_sampler, requests, respond
from scotd_jax.jobs.generation.provided_rationales import identity, load_given
from scotd_jax.models import api
from scotd_jax.models.kernels import fused_attention
from scotd_jax.sampling.decode_loop import cast_for_inference
from scotd_jax.training.accounting import summarize_cost
from scotd_jax.training.checkpoints import best_step
from scotd_jax.training.loop import check_batch_size
from scotd_jax.training.loop import train as train_loop
from scotd_jax.training.metrics import read_metrics
from scotd_jax.training.optimizer import make_optimizer
from scotd_jax.training.trainable import describe_trainable
from scotd_jax.workdir import write_text

# Fields of config.Training that change nothing of what is learnt but its rounding, as the mesh does: a run that was cut
# goes on with others. Micro-batches also name the masks of dropout.
CHANGEABLE = {
    *("log_every", "save_every", "max_to_keep", "tensorboard", "startup_check"),
    *("microbatches", "remat", "scan_layers", "attention"),
}


def train(run: Run, name: str) -> None:
    """students/NAME: checkpoints (last and best on dev), metrics.jsonl, parameters.txt, manifest."""
    spec = run.config.students[name]
    seed = run.config.seed + spec.seed
    artefact = run.artefact("train", name)
    learnt = plain(spec) | dict.fromkeys(("eval_sets", "arm", "export", "rationales_from"))
    learnt["training"] |= dict.fromkeys(CHANGEABLE if spec.training.dropout == 0 else CHANGEABLE - {"microbatches"})
    made_of = {
        "spec": learnt,
        "seed": seed,
        "corpus": run.artefact("build", spec.corpus).digest,
        "model": run.model_identity(spec.model),
        "dev": run.questions_identity(spec.dev_sets),
        "given": identity(run, spec.rationales_from if spec.dev_sets else ()),
    }
    if not artefact.begin(made_of):
        run.log("  already complete")
        return
    model = run.model(spec.model, spec.precision)
    corpus = run.artefact("build", spec.corpus).path
    parts = {key: part.weight for key, part in run.recipe(spec.corpus).parts.items()}
    for part in parts:
        check_room(model, read_description(corpus, part)["counts"], name)
    batches = open_batches(
        corpus,
        tuple(parts),
        batch_size=spec.training.batch_size,
        group_size=spec.training.group_size,
        start_token=model.start_token,
        seed=seed,
        process_index=jax.process_index(),
        process_count=jax.process_count(),
        balance_window=spec.training.balance_window,
        max_shapes=spec.training.max_shapes,
        row_multiple=spec.training.microbatches * batch_shards(run.mesh),
    )
    run.log(f"  corpus {spec.corpus}: {padding_savings(batches)}")
    overview = parameter_overview.get_parameter_overview(model.abstract(), include_stats=False)
    if hosts.is_primary():
        write_text(artefact.path / "parameters.txt", overview + "\n")
    if trainable := describe_trainable(model.abstract(), spec.training.freeze, spec.training.lora):
        run.log(f"  trainable parameters: {trainable}")
    with run.progress(spec.training.steps, f"  {name}", "updates") as progress:
        spent = train_loop(
            model,
            lambda: run.params(spec.model, model, seed),
            prefetch_batches(batches),
            spec.training,
            artefact.path,
            mesh=run.mesh,
            seed=seed,
            evaluate=_dev(run, name, model) if spec.dev_sets else None,
            parts=tuple(parts.items()),
            profile=run.config.profile,
            log=lambda step, values: progress.advance(step - progress.done, note(values)),
        )
    best = best_step(artefact.path / "checkpoints")
    cost = summarize_cost(read_metrics(artefact.path / "metrics.jsonl") if hosts.is_primary() else [], spent)
    run.log("  " + ", ".join(f"{key} {value}" for key, value in best.items()))
    run.log(f"  goodput {100 * cost['goodput']:.0f} %, {cost['rationales_per_second']:.3g} rationales/s of updates")
    artefact.finish({**best, "cost": cost})


def check_settings(run: Run, name: str) -> None:
    """Raises InputError if a training could never begin: said before the first job of a chain and not after hours of
    sampling."""
    spec = run.config.students[name]
    training = spec.training
    try:
        check_batch_size(training, run.mesh)
        make_optimizer(training.optimizer, training.steps)
        fused_attention.attention(training.attention, run.mesh)
        if training.freeze or training.lora.rank:
            describe_trainable(run.model(spec.model, spec.precision).abstract(), training.freeze, training.lora)
    except InputError as error:
        raise InputError(f"config.students.{name}: {error}") from None


def check_room(model: api.Model, counts: Mapping[str, int | float], name: str) -> None:
    """Raises InputError if the corpus is longer than the positions of the model, which would all fall on the last."""
    room = getattr(model.config, "max_position_embeddings", None)
    longest = counts["prompt_tokens_max"] + counts["response_tokens_max"]
    if room is not None and longest > room:
        raise InputError(
            f"config.students.{name}: prompts of up to {counts['prompt_tokens_max']} tokens and responses of up to "
            f"{counts['response_tokens_max']} exceed the model's {room} positions; lower the corpus' "
            "max_prompt_tokens and max_response_tokens"
        )


def in_turn(run: Run, sets: tuple[str, ...], limit: int) -> Asked:
    """The first `limit` questions (0: all), one of each set after the other, so that every set has its say."""
    asked = run.ask(sets)
    turns = itertools.chain.from_iterable(itertools.zip_longest(*(run.questions(name) for name in sets)))
    return {question.id: asked[question.id] for question in itertools.islice(filter(None, turns), limit or None)}


def _dev(run: Run, name: str, model):
    """dev accuracy, greedy, of the parameters at hand; the sampler is compiled once and kept."""
    spec = run.config.students[name]
    evaluation = run.config.evaluation
    asked = in_turn(run, spec.dev_sets, evaluation.dev_questions)
    if not asked:
        raise InputError(f"config.students.{name}.dev_sets: there are no questions in {', '.join(spec.dev_sets)}")
    given = load_given(run, name, spec.rationales_from, asked, "own", 1)
    as_taught = Model(student=name)
    speaker = Speaker(name, model, None, run.tokenizer(spec.model), *run.manner(as_taught), run.opening(as_taught))
    sampler = make_sampler(run, speaker, evaluation.sampling, speaker.stops(asked), seed=0)
    wanted = requests(speaker, asked, 1, given=given)

    def evaluate(params, step: int) -> dict[str, float]:
        sampler.params = run.on_own_devices(cast_for_inference(model, params), model)
        right = 0
        for samples in sampler(wanted):
            right += sum(respond(s, *asked[s.question_id], speaker, "greedy").correct is True for s in samples)
        sampler.params = None  # updates need the room
        return {"dev_accuracy": right / len(wanted)}

    return evaluate


def note(values: Mapping[str, float]) -> str:
    """The numbers of one line of metrics that someone waiting wants to see."""
    if "dev_accuracy" in values:
        return f"dev accuracy {100 * values['dev_accuracy']:.1f} %"
    return f"loss {values['loss']:.3f}"
