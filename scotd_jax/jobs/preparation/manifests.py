"""Identities of artefacts: everything that determines their content, as recorded in their manifests.

The identity decides whether an artefact is skipped, resumed or refused (`artefact.Artefact.begin`).
"""

import dataclasses
from collections.abc import Collection, Sequence
from typing import Any

from etils import epath

from scotd_jax.artefact import Artefact
from scotd_jax.config import (
    BatchSource,
    EvalSpec,
    FileSource,
    GeneratedSource,
    Model,
    ModelSource,
    RemoteSource,
    Sampling,
    plain,
)
from scotd_jax.config.eval_specs import eval_specs, probes_rationales
from scotd_jax.digests import digest, file_digest
from scotd_jax.jobs.context import RunContext
from scotd_jax.jobs.generation.prompting import (
    evaluation_prompt_settings,
    source_prompt_settings,
    uses_chat_template,
)
from scotd_jax.local_files import file_names
from scotd_jax.models.hf.weight_files import weight_file
from scotd_jax.records import to_json
from scotd_jax.tasks.prompt_formats import PromptFormat

# Fields of a student that its training does not read.
AFTER_TRAINING = ("eval_sets", "arm", "export", "rationales_from")
# Fields of config.Training that may change before an interrupted run resumes: LOGGING, and ROUNDING, which, like the
# mesh, changes only rounding errors. `microbatches` also changes dropout masks, so with dropout it may not change.
LOGGING = ("log_every", "save_every", "max_to_keep", "tensorboard", "startup_check")
ROUNDING = ("microbatches", "remat", "scan_layers", "attention")
# Fields of config.Training that were added later and have no effect on a training without divergence. Identities do not
# have them, so that older work directories remain valid.
NO_EFFECT = ("save_minutes", "on_divergence", "wandb", "mlflow")
# Fields that were added later to sources, to corpora and to config.Training, with defaults that change nothing.
# Identities omit a field that has its default, for the same reason.
PROMPT_DEFAULTS = {"system": "", "instruction": "auto", "answer_pattern": "", "failed_in": ""}
CORPUS_DEFAULTS = {"mixture": {}, "max_responses": 0, "scored_by": ""}
TRAINING_DEFAULTS = {"curriculum": False}
# Parts of an evaluation's identity that have one entry per question set, or per task of a set.
BY_SET = ("questions", "formats", "exemplars")
# Parts of the identity of scores that have one entry per set of responses.
BY_SOURCE = ("rationales",)


def responses_identity(context: RunContext, name: str, imported_files: Sequence[epath.Path]) -> dict[str, Any]:
    """Returns the identity of a set of responses.

    Fields that do not affect the responses may change: the release, the path of batch results, and all fields of a
    server except model, kind and extra_body.
    """
    spec = context.config.rationales[name]
    settings = plain(dataclasses.replace(spec, release=""))
    for key, default in PROMPT_DEFAULTS.items():
        if settings.get(key) == default:
            del settings[key]
    if isinstance(spec, GeneratedSource):
        settings["sampling"] = sampling_identity(spec.sampling)
    if isinstance(spec, BatchSource):
        settings["path"] = ""
    if isinstance(spec, RemoteSource):
        server = settings.pop("server")
        settings["server"] = {key: server[key] for key in ("model", "kind", "extra_body")}
    identity: dict[str, Any] = {
        "spec": settings,
        "seed": context.config.seed + (spec.seed if isinstance(spec, GeneratedSource) else 0),
        "questions": questions_identity(context, spec.questions),
        "formats": formats_identity(context, spec.questions),
    }
    if isinstance(spec, GeneratedSource):
        prompts = context.prompt_builder(source_prompt_settings(context.config, spec, f"config.rationales.{name}"))
        formats = {task.name: prompts.format_for(task) for task in context.questions.tasks_of(spec.questions)}
        identity["formats"] = {key: format_digest(prompt_format) for key, prompt_format in formats.items()}
        identity["recipe"] = plain(prompts.recipe)
        identity["exemplars"] = few_shot_identity(context, spec.questions, prompts.settings.few_shot)
        if spec.failed_in:
            identity["failed_in"] = context.artefact("sample", spec.failed_in).digest
    if isinstance(spec, ModelSource):
        identity["model"] = model_identity(context, spec.model, context.artefact("sample", name))
    if isinstance(spec, FileSource):
        identity["files"] = {str(path): file_digest(path) for path in imported_files}
    return identity


def sampling_identity(sampling: Sampling) -> dict[str, Any]:
    """Returns the identity of a sampling policy.

    The automatic batch size counts as 32, once the default: it changes only rounding, and older work directories remain
    valid.
    """
    return plain(dataclasses.replace(sampling, batch_size=sampling.batch_size or 32))


def encoding_identity(context: RunContext, name: str, model: Model) -> dict[str, Any]:
    """Returns the identity of a corpus' encoding: its settings, and the tokenizer and kind of its students."""
    tokenizer = context.models.tokenizer(model)
    # The number of processes that build a corpus does not change it.
    settings = plain(dataclasses.replace(context.config.corpora[name], processes=1))
    for key, default in CORPUS_DEFAULTS.items():
        if settings[key] == default:
            del settings[key]
    kind = context.models.architecture(model).kind
    identity: dict[str, Any] = {"tokenizer": tokenizer.fingerprint(), "kind": kind, "spec": settings}
    if uses_chat_template(context.config, model):
        identity["chat"] = digest(tokenizer.chat_template)
        if tokenizer.end_id != tokenizer.eos_id:
            identity["end_id"] = tokenizer.end_id
    return identity


def corpus_identity(context: RunContext, name: str, model: Model, contaminated: Collection[str]) -> dict[str, Any]:
    """Returns the identity of a corpus that `model` reads, without the `contaminated` questions."""
    spec = context.config.corpora[name]
    sets = context.question_sets[name]
    scorer = {"scorer": context.artefact("train", spec.scored_by).digest} if spec.scored_by else {}
    return (
        encoding_identity(context, name, model)
        | scorer
        | {
            "recipe": plain(context.recipes[name]),
            "formats": formats_identity(context, sets, context.formats[name]),
            "questions": questions_identity(context, sets),
            "exemplars": few_shot_identity(context, sets, spec.few_shot),
            "contaminated": digest(sorted(contaminated)),
            "rationales": rationales_identity(context, spec.rationales),
        }
    )


def scores_identity(context: RunContext, name: str, sources: Sequence[str]) -> dict[str, Any]:
    """Returns the identity of the scores of sets of responses under a student."""
    digests = rationales_identity(context, sources)
    return {
        "student": context.artefact("train", name).digest,
        "rationales": dict(zip(sources, digests, strict=True)),
    }


def student_identity(context: RunContext, name: str) -> dict[str, Any]:
    """Returns the identity of a student's training."""
    spec = context.config.students[name]
    settings = plain(spec) | dict.fromkeys(AFTER_TRAINING)
    settings["training"] |= dict.fromkeys((*LOGGING, *ROUNDING))
    for key in NO_EFFECT:
        del settings["training"][key]
    for key, default in TRAINING_DEFAULTS.items():
        if settings["training"][key] == default:
            del settings["training"][key]
    if spec.training.dropout > 0:
        settings["training"]["microbatches"] = spec.training.microbatches
    return {
        "spec": settings,
        "seed": context.config.seed + spec.seed,
        "corpus": context.artefact("build", spec.corpus).digest,
        "model": model_identity(context, spec.model, context.artefact("train", name)),
        "dev": questions_identity(context, spec.dev_sets),
        "dev_formats": formats_identity(context, spec.dev_sets, context.formats[spec.corpus]),
        "provided_rationales": rationales_identity(context, spec.rationales_from if spec.dev_sets else ()),
    }


def evaluation_identity(context: RunContext, name: str) -> dict[str, Any]:
    """Returns the identity of an evaluation: what is evaluated, and on which questions."""
    spec, settings = eval_specs(context.config)[name], context.config.evaluation
    # The arm has no effect on results. Entries below record the effects of the eval sets, and those of `checkpoint`,
    # `responses` and `read` only where they are set, so that older evaluations keep their identity.
    recorded = plain(spec) | {"eval_sets": None, "arm": None}
    identity: dict[str, Any] = {
        "eval": {key: value for key, value in recorded.items() if key not in ("checkpoint", "responses", "read")},
        "limit": settings.limit,
        "questions": questions_identity(context, spec.eval_sets),
        "seed": context.config.seed,
    }
    if spec.read != "text":
        identity["read"] = spec.read
    if spec.responses:
        stored = {"responses": context.artefact("sample", spec.responses).digest}
        return identity | stored | {"formats": {}, "exemplars": {}}
    prompts = evaluation_prompt_settings(context.config, spec)
    format_for = context.prompt_builder(prompts).format_for
    identity |= {
        "sampling": sampling_identity(settings.sampling),
        "self_consistency": sampling_identity(settings.self_consistency),
        "formats": {t.name: format_digest(format_for(t)) for t in context.questions.tasks_of(spec.eval_sets)},
        "exemplars": few_shot_identity(context, spec.eval_sets, prompts.few_shot),
    }
    if spec.checkpoint == "initial":
        student = context.config.students[spec.student]
        return identity | {
            "model": model_identity(context, student.model, context.artefact("evaluate", name)),
            "model_seed": context.config.seed + student.seed,
            "precision": student.precision,
            "recipe": plain(prompts.recipe),
        }
    if probes_rationales(spec):
        identity |= _probes_identity(context, spec)
    return identity | {
        "student": context.artefact("train", spec.student).digest,
        "provided_rationales": rationales_identity(context, spec.rationales_from),
    }


def _probes_identity(context: RunContext, spec: EvalSpec) -> dict[str, Any]:
    """The changes of rationales and the simulator, only where they are set, so that older evaluations stay valid."""
    settings, identity = context.config.evaluation, {}
    if settings.interventions:
        identity["interventions"] = sorted(settings.interventions)
    if settings.oracle_from:
        identity["oracle"] = rationales_identity(context, settings.oracle_from)
    if settings.simulator and settings.simulator != spec.student:
        identity["simulator"] = context.artefact("train", settings.simulator).digest
    return identity


def export_identity(context: RunContext, name: str) -> dict[str, Any]:
    """Returns the identity of an exported student: its training, and the evaluation that its card reports."""
    identity = {"student": context.artefact("train", name).digest}
    if context.config.students[name].eval_sets:
        identity["evaluation"] = context.artefact("evaluate", name).digest
    return identity


def model_identity(context: RunContext, model: Model, artefact: Artefact) -> dict[str, Any]:
    """Returns the identity of a model: its source, its file of weights, its tokenizer and its chat template.

    Manifests of older work directories do not have the file of weights; theirs stay as they are.
    """
    tokenizer = context.models.tokenizer(model)
    identity: dict[str, Any] = {
        "config": plain(model),
        "tokenizer": tokenizer.fingerprint(),
        "eos_ids": list(tokenizer.eos_ids),
    }
    if uses_chat_template(context.config, model):
        identity["chat"] = digest(tokenizer.chat_template)
    if model.student:
        identity["student"] = context.artefact("train", model.student).digest
    recorded = artefact.manifest().get("identity", {}).get("model")
    if model.path and (recorded is None or "weights" in recorded):
        identity["weights"] = weight_file(file_names(model.path))
    return identity


def questions_identity(context: RunContext, set_names: Sequence[str]) -> dict[str, str]:
    """Returns a digest of the questions by set."""
    return {name: digest([to_json(q) for q in context.questions.questions(name)]) for name in set_names}


def formats_identity(context: RunContext, sets: Sequence[str], fixed: PromptFormat | None = None) -> dict[str, str]:
    """Returns a digest of the prompt format by task: of the `fixed` format, or of the task's own."""
    return {task.name: format_digest(fixed or task.format) for task in context.questions.tasks_of(sets)}


def format_digest(prompt_format: PromptFormat) -> str:
    """Returns a digest of a prompt format."""
    fields = plain(prompt_format)
    if not prompt_format.instruction:  # formats of older work directories do not have this field
        del fields["instruction"]
    return digest(fields)


def few_shot_identity(context: RunContext, set_names: Sequence[str], count: int) -> dict[str, str]:
    """Returns a digest of the first `count` examples by task, in its own format."""
    tasks = context.questions.tasks_of(set_names) if count else []
    return {t.name: digest(context.questions.few_shot_prompt(t, t.format, count, chat=False)) for t in tasks}


def rationales_identity(context: RunContext, sources: Sequence[str]) -> list[str]:
    """Returns the digests of some sets of responses."""
    return [context.artefact("sample", source).digest for source in sources]
