"""All evaluations of a config, with their empty fields filled in."""

import dataclasses
from typing import Literal

from scotd_jax.config.evaluation_schema import EvalSpec
from scotd_jax.config.rationale_sources import Model, ModelSource
from scotd_jax.config.schema import Config
from scotd_jax.errors import InputError, lookup


def eval_specs(config: Config) -> dict[str, EvalSpec]:
    """Returns all evaluations by name: one for every student with `eval_sets`, and those in `config.evals`."""
    own = {
        name: EvalSpec(
            name, student.eval_sets, student.arm or name, student.rationales_from, read=config.evaluation.read
        )
        for name, student in config.students.items()
        if student.eval_sets
    }
    if duplicates := sorted(own.keys() & config.evals.keys()):
        raise InputError(f"config.evals.{duplicates[0]}: a student has an evaluation of this name; choose another name")
    return own | {name: _resolved(config, name, spec) for name, spec in config.evals.items()}


def _resolved(config: Config, name: str, spec: EvalSpec) -> EvalSpec:
    """An additional evaluation with its empty arm, rationales and reading filled in."""
    if evaluates_training(spec) and not spec.rationales_from:
        student = lookup(config.students, spec.student, f"config.evals.{name}.student")
        spec = dataclasses.replace(spec, rationales_from=student.rationales_from)
    return dataclasses.replace(spec, arm=spec.arm or name, read=spec.read or _default_reading(config, spec))


def _default_reading(config: Config, spec: EvalSpec) -> Literal["text", "choices", "both"]:
    """How answers are read by default: always from the text where no local model can compare the choices."""
    compares = has_local_model(config, spec) and spec.combine == "vote"
    return config.evaluation.read if compares else "text"


def has_local_model(config: Config, spec: EvalSpec) -> bool:
    """Returns whether this run loads the evaluated model, so that it can compute likelihoods."""
    return not spec.responses or isinstance(config.rationales.get(spec.responses), ModelSource)


def first_reading(spec: EvalSpec) -> Literal["text", "choices"]:
    """Returns the reading whose answers represent an evaluation: the text, unless only the choices are read."""
    return "choices" if spec.read == "choices" else "text"


def evaluates_training(spec: EvalSpec) -> bool:
    """Returns whether a trained student is evaluated, not its model before training or a set of responses."""
    return not spec.responses and spec.checkpoint == "best"


def probes_rationales(spec: EvalSpec) -> bool:
    """Returns whether interventions and simulator apply: to the choices of a trained student after one rationale."""
    return evaluates_training(spec) and spec.read != "text" and spec.n == 1


def evaluated_model(config: Config, spec: EvalSpec) -> Model:
    """Returns the model of an evaluation of a student: the trained student, or its model before training."""
    return config.students[spec.student].model if spec.checkpoint == "initial" else Model(student=spec.student)
