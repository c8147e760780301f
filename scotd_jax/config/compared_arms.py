"""Arms of a config: the seeds of their runs, the pairs that the report compares, and its claims about them."""

import collections
from collections.abc import Mapping, Sequence

from scotd_jax.config.eval_specs import eval_specs
from scotd_jax.config.evaluation_schema import EvalSpec
from scotd_jax.config.rationale_sources import GeneratedSource, Model
from scotd_jax.config.schema import Config
from scotd_jax.errors import InputError, did_you_mean

SEPARATOR = " vs "
CONSISTENCY = "contrast consistency"  # label of the share of contrast groups in which every member is right


def compared_arms(config: Config) -> list[tuple[str, str]]:
    """Returns the pairs of `Evaluation.comparisons`.

    Raises:
      InputError: if one has another form, names an unknown arm, occurs twice, or compares an arm of one base model with
        itself.
    """
    return _pairs(config.evaluation.comparisons, "config.evaluation.comparisons", _models_by_arm(config))


def check_claims(config: Config) -> None:
    """Checks the claims of a config.

    Raises:
      InputError: if a comparison is one that `compared_arms` refuses, or a claim names an unknown arm or question set.
    """
    models = _models_by_arm(config)
    labels = {set_label(config, set_name) for spec in eval_specs(config).values() for set_name in spec.eval_sets}
    for name, claim in config.evaluation.claims.items():
        where = f"config.evaluation.claims.{name}"
        _pairs(claim.comparisons, f"{where}.comparisons", models)
        for field, names, known in (
            ("trend", claim.trend, models),
            ("votes", claim.votes, models),
            ("sets", claim.sets, labels | {CONSISTENCY}),
        ):
            for number, value in enumerate(names):
                if value not in known:
                    kind = "a reported question set" if field == "sets" else "an arm"
                    raise InputError(
                        f"{where}.{field}[{number}]: {value!r} is not {kind}; {did_you_mean(value, known)}"
                    )
        if claim.votes and (not config.evaluation.self_consistency.n or CONSISTENCY in claim.sets):
            problem = "contrast consistency has no votes" if CONSISTENCY in claim.sets else "there are no votes"
            raise InputError(f"{where}.votes: {problem}; set config.evaluation.self_consistency.n, or other sets")


def set_label(config: Config, set_name: str) -> str:
    """Returns the label of a question set in the report. Tasks with the same title share a column."""
    task, _, split = set_name.rpartition(".")
    return f"{config.tasks[task].title or task}.{split}"


def split_pair(text: str) -> tuple[str, str]:
    """Returns the arms of a comparison, "ARM vs OTHER". Raises ValueError if it has another form."""
    arm, other = (name.strip() for name in text.split(SEPARATOR))
    return arm, other


def _models_by_arm(config: Config) -> Mapping[str, set[str]]:
    models = collections.defaultdict(set)
    for spec in eval_specs(config).values():
        models[spec.arm].add(_base_model(config, spec))
    return models


def _pairs(texts: Sequence[str], where: str, models: Mapping[str, set[str]]) -> list[tuple[str, str]]:
    pairs: list[tuple[str, str]] = []
    for number, text in enumerate(texts):
        item = f"{where}[{number}]"
        pair = tuple(name.strip() for name in text.split(SEPARATOR))
        if len(pair) != 2 or not all(pair):
            raise InputError(f"{item}: expected two arms, 'ARM{SEPARATOR}OTHER', found {text!r}")
        for name in pair:
            if name not in models:
                raise InputError(f"{item}: {name!r} is not an arm; {did_you_mean(name, models)}")
        if pair in pairs or pair[::-1] in pairs:
            raise InputError(f"{item}: {text!r} is compared already; remove it")
        if pair[0] == pair[1] and len(models[pair[0]]) < 2:
            raise InputError(f"{item}: arm {pair[0]!r} has one base model; name another arm to compare it with")
        pairs.append((pair[0], pair[1]))
    return pairs


def check_seeds(config: Config) -> None:
    """Checks that the runs of an arm differ in their seeds.

    Raises:
      InputError: if two evaluations of one arm, base model and question set have the same seed.
    """
    first: dict[tuple[str, str, int, str], str] = {}
    for name, spec in eval_specs(config).items():
        for set_name in spec.eval_sets:
            other = first.setdefault((spec.arm, _base_model(config, spec), _seed(config, spec), set_name), name)
            if other != name:
                raise InputError(
                    f"config: {other!r} and {name!r} are runs of arm {spec.arm!r} with the same seed on {set_name!r}; "
                    "give one of them another seed or another arm"
                )


def _seed(config: Config, spec: EvalSpec) -> int:
    if not spec.responses:
        return config.students[spec.student].seed
    source = config.rationales[spec.responses]
    return source.seed if isinstance(source, GeneratedSource) else 0


def _base_model(config: Config, spec: EvalSpec) -> str:
    """The model at the start of the chain of trainings that ends with the evaluated student; "" for responses."""
    if spec.responses or spec.student not in config.students:
        return ""
    model: Model = config.students[spec.student].model
    for _ in config.students:  # not endless if students start from each other, which jobs/graph.py refuses
        if model.student not in config.students:
            break
        model = config.students[model.student].model
    return f"{model.architecture or model.path} {sorted(model.overrides.items())}"
