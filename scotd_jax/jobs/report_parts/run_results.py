"""The results of evaluations, with the facts of the report about their students and teachers."""

from typing import Any, Literal

import jax

from scotd_jax.config import EvalSpec, GeneratedSource, ModelSource, Student, TaskSource, plain
from scotd_jax.digests import digest
from scotd_jax.errors import InputError
from scotd_jax.evaluation.faithfulness import answer_changes
from scotd_jax.evaluation.scoring import outcomes
from scotd_jax.evaluation.voting import vote_outcomes
from scotd_jax.jobs.context import RunContext
from scotd_jax.jobs.report_parts.evaluated_sets import (
    read_changed,
    read_evaluated,
    read_samples,
    set_label,
)
from scotd_jax.models.registry import ModelConfig
from scotd_jax.reporting.data import ChangedAnswers, RunResult
from scotd_jax.strict_json import read_json
from scotd_jax.tasks import recipes

LISTED_MODELS = 3  # maximum number of model names in the row of a set of responses; else their number

# Fields of a corpus and its sources that differ along a curve, or change no result.
_ALONG_CURVES = ("n", "questions", "rationales", "seed", "shards", "processes", "release")


def run_results(context: RunContext, name: str, spec: EvalSpec) -> list[RunResult]:
    """Returns the results of a complete evaluation, one for each reading of its answers."""
    artefact = context.checked("evaluate", name)
    results = read_json(artefact.path / "results.json")
    fields = _teacher_fields(context, name, spec) if spec.responses else _student_fields(context, spec)
    by_reading = {"text": results, "choices": results.get("choices", {})}
    return [
        _run_result(context, name, spec, read, scores, fields)
        for read, scores in by_reading.items()
        if "sets" in scores
    ]


def _run_result(
    context: RunContext, name: str, spec: EvalSpec, read: Any, scores: dict[str, Any], fields: dict[str, Any]
) -> RunResult:
    """One result; `fields` are those of `_teacher_fields` or `_student_fields`."""
    sets = scores["sets"]
    voted = {key: result["self_consistency"] for key, result in sets.items() if "self_consistency" in result}
    return RunResult(
        name=spec.arm,
        student=name,
        read=read,
        results={set_label(context, key): value for key, value in sets.items()},
        outcomes={set_label(context, key): outcomes(*read_evaluated(context, name, key, read)) for key in sets},
        votes={set_label(context, key): result for key, result in voted.items()},
        vote_outcomes={
            set_label(context, key): vote_outcomes(*read_samples(context, name, spec, key, read, result["k"]))
            for key, result in voted.items()
        },
        consistency=scores["contrast"],
        changes={set_label(context, key): _changes(context, name, key, result) for key, result in sets.items()},
        **fields,
    )


def _changes(context: RunContext, name: str, set_name: str, result: dict[str, Any]) -> dict[str, ChangedAnswers]:
    """The answers after every change of the rationales."""
    found = {}
    for change in result.get("interventions", {}):
        _, own = read_evaluated(context, name, set_name, "choices")
        questions, rows = read_changed(context, name, set_name, change)
        found[change] = ChangedAnswers(answer_changes(own, rows), outcomes(questions, rows))
    return found


def _teacher_fields(context: RunContext, name: str, spec: EvalSpec) -> dict[str, Any]:
    """The fields of a RunResult that describe a set of responses."""
    source, sets = context.config.rationales[spec.responses], spec.eval_sets
    models = dict.fromkeys(row.model for key in sets for row in read_evaluated(context, name, key)[1])
    missing = sum(len(context.reported_questions(key)) - len(read_evaluated(context, name, key)[0]) for key in sets)
    named = ", ".join(models) if len(models) <= LISTED_MODELS else f"{len(models)} models"
    notes = [named, f"{missing:,} questions without response left out" if missing else ""]
    seed = source.seed if isinstance(source, GeneratedSource) else 0
    return {"role": "teacher", "seed": context.config.seed + seed, "about": "; ".join(filter(None, notes))}


def _student_fields(context: RunContext, spec: EvalSpec) -> dict[str, Any]:
    """The fields of a RunResult that describe a student, after its training or before it."""
    student = context.config.students[spec.student]
    functions = context.models.functions(student.model, student.precision)
    parameters = sum(leaf.size for leaf in jax.tree.leaves(functions.abstract()))
    model = _model_name(functions.config, parameters)
    fields = {"seed": context.config.seed + student.seed, "model": model, "parameters": parameters}
    if spec.checkpoint == "initial":
        return fields | {"role": "untrained"}
    return fields | {
        "role": _role(context, spec.student),
        "samples": _samples(context, student),
        "labels": _labels(context, student),
        "curve": _curve(context, spec, functions.config.kind),
    }


def _samples(context: RunContext, student: Student) -> int | None:
    """Sampled rationales per question in a student's corpus; None if they are from a task."""
    corpus = context.config.corpora[student.corpus]
    if not recipes.uses_fields(context.recipes[student.corpus], *recipes.RESPONSE_FIELDS):
        return 0
    if any(isinstance(context.config.rationales[source], TaskSource) for source in corpus.rationales):
        return None
    counts = [context.artefact("sample", source).manifest()["counts"] for source in corpus.rationales]
    n = max(count["responses_max"] for count in counts)
    return min(corpus.n or n, n)


def _labels(context: RunContext, student: Student) -> int | None:
    """Number of questions in the sets of a student's corpus; None if their files are missing."""
    try:
        return len(context.questions.by_id(context.question_sets[student.corpus]))
    except InputError:
        return None


def _curve(context: RunContext, spec: EvalSpec, kind: str) -> str:
    """Digest of the settings that the students of a curve share: all but those in `_ALONG_CURVES` and the model."""
    student = context.config.students[spec.student]
    corpus = context.config.corpora[student.corpus]
    shared = [plain(corpus), *(plain(context.config.rationales[name]) for name in corpus.rationales)]
    training = plain(student.training)
    settings = {
        "kind": kind,
        "data": [{key: value for key, value in part.items() if key not in _ALONG_CURVES} for part in shared],
        "recipe": plain(context.recipes[student.corpus]),
        "training": {key: training[key] for key in ("freeze", "lora")},
        "evaluation": plain(spec) | {"student": "", "arm": "", "eval_sets": ()},
    }
    return digest(settings)


def _role(context: RunContext, name: str) -> Literal["teacher", "base", "student"]:
    """Whether other students train on responses of the student ("teacher"), others start from it ("base"), or neither.

    A student that generates rationales for its own answers, or for those of others at evaluation, remains a student.
    """
    config = context.config
    for key, student in config.students.items():
        sources = [config.rationales[source] for source in config.corpora[student.corpus].rationales]
        if key != name and any(isinstance(source, ModelSource) and source.model.student == name for source in sources):
            return "teacher"
    return "base" if any(student.model.student == name for student in config.students.values()) else "student"


def _model_name(config: ModelConfig, size: int) -> str:
    """Name of an architecture with its number of parameters, e.g. "OPT 1.3B"."""
    digits = f"{size / 1e9:.2g}B" if size >= 1e9 else f"{size / 1e6:.2g}M"
    return f"{getattr(config, 'model_type', config.kind).upper()} {digits}"
