"""Sweeps: one config with a run for every combination of the values of some config keys.

A sweep is an ordinary config, so the ordinary jobs run it in one work directory. An entry that a swept key affects, by
itself or through entries that it names, exists once for every combination of the keys that affect it. All other entries
are shared, so nothing is sampled, built or trained twice. For example,

    --sweep=corpora.n30.n=1,5,30 --sweep=students.n30.seed=0,1,2

makes three corpora from one set of responses, and nine students.

Standard library only, so that `--help` is fast.
"""

import dataclasses
import itertools
import re
from collections.abc import Mapping, Sequence
from typing import Any

from scotd_jax.config.compared_arms import SEPARATOR, split_pair
from scotd_jax.config.eval_specs import eval_specs
from scotd_jax.config.evaluation_schema import Claim, EvalSpec
from scotd_jax.config.references import SECTIONS, Entry, map_references, references
from scotd_jax.config.schema import Config
from scotd_jax.config.swept_keys import SEED, Cell, SweptKey, swept_keys, with_values
from scotd_jax.errors import InputError

# Fields that affect a student before its training.
_INITIAL_STUDENT_FIELDS = ("model", "seed", "precision", "corpus")
_INITIAL_CORPUS_FIELDS = ("recipe", "format", "few_shot")
_SLUG_LENGTH = 40  # characters of a value in a name
_SECTION_OF_JOB = {"sample": "rationales", "build": "corpora", "export": "students"}

Affecting = Mapping[Entry, Sequence[SweptKey]]  # the keys that affect an entry, for all entries with some


def sweep(config: Config, grid: Mapping[str, Sequence[Any]]) -> Config:
    """Returns the config with a run for every combination of values.

    The values that affect an entry follow its name, and those that affect an evaluation follow its arm. Runs that
    differ only in the seeds of students, or in `seed`, belong to one arm. `Config.columns` has the values of every
    evaluation.

    Args:
      config: the config.
      grid: keys with their values. A key is "SECTION.NAME.FIELD", such as "corpora.n30.n" or
        "students.n30.training.optimizer.learning_rate", where NAME may be a pattern of names ("n*") that all get the
        value. The key "seed" adds its values to all seeds, so that everything is repeated.

    Raises:
      InputError: if a key does not exist, belongs to the whole run or affects no run; if a value is invalid or comes
        twice; or if two keys set the same field.
    """
    keys = swept_keys(config, grid)
    sections: dict[str, dict[str, Any]] = {section: {} for section in SECTIONS}
    columns: dict[str, dict[str, Any]] = {}
    comparisons: dict[str, None] = {}
    claims: dict[str, Claim] = {}
    effective: set[SweptKey] = set()
    for indices in itertools.product(*(range(len(key.values)) for key in keys)):
        cell = dict(zip(keys, indices, strict=True))
        cell_config = with_values(config, cell)
        affecting = _affecting_keys(cell_config, keys)
        _check_pushes(config, affecting)
        effective |= {key for (section, _), own in affecting.items() if section in ("students", "evals") for key in own}
        names = {entry: _name(config, entry, _part(cell, affecting[entry])) for entry in affecting}
        arms = _arms(cell_config, cell, affecting)
        for section, entries in sections.items():
            for name, entry in getattr(cell_config, section).items():
                # Kept from the first cell, because an evaluation before training names one of several equal students.
                entries.setdefault(names.get((section, name), name), _swept_entry(section, name, entry, names, arms))
        for name in eval_specs(cell_config):
            entry = _eval_entry(config, name)
            values = {key.key: key.values[cell[key]] for key in affecting.get(entry, ()) if key.key != SEED}
            columns[names.get(entry, name)] = config.columns.get(name, {}) | values
        for pair in config.evaluation.comparisons:
            comparisons[_with_arms(pair, dict(arms.values()))] = None
        for name, claim in config.evaluation.claims.items():
            keys_of_claim = _keys_of_claim(config, claim, affecting, arms)
            swept_claim = _swept_claim(claim, _part(cell, keys_of_claim), dict(arms.values()))
            claims[_with_values(name, _part(cell, keys_of_claim))] = swept_claim
    for key in keys:
        if key not in effective:
            raise InputError(f"sweep: {key.key}: no student or evaluation depends on it, so all runs would be equal")
    # A corpus that no cell uses has no tokenizer.
    used = {student.corpus for student in sections["students"].values()}
    sections["corpora"] = {name: corpus for name, corpus in sections["corpora"].items() if name in used}
    swept: dict[str, Any] = {
        **sections,
        "columns": {name: values for name, values in columns.items() if values},
        "evaluation": dataclasses.replace(config.evaluation, comparisons=tuple(comparisons), claims=claims),
    }
    return dataclasses.replace(config, **swept)


def _swept_entry(
    section: str, name: str, entry: Any, names: Mapping[Entry, str], arms: Mapping[str, tuple[str, str]]
) -> Any:
    """An entry of a cell with the names of the entries that it refers to, and its title or arm."""
    entry = map_references(entry, lambda other_section, other: names.get((other_section, other), other))
    if (section, name) not in names:
        return entry
    if section == "tasks" and not entry.title:
        return dataclasses.replace(entry, title=name)
    is_evaluation = section in ("students", "evals") and name in arms
    return dataclasses.replace(entry, arm=arms[name][1]) if is_evaluation else entry


def _affecting_keys(config: Config, keys: Sequence[SweptKey]) -> Affecting:
    entries = {(section, name): entry for section in SECTIONS for name, entry in getattr(config, section).items()}
    direct = {entry: {key for key in keys if entry in key.entries} for entry in entries}
    found = {entry: set(own) for entry, own in direct.items()}
    needed = {entry: references(value) & entries.keys() for entry, value in entries.items()}
    unchanged = False
    while not unchanged:
        before = {entry: len(affecting) for entry, affecting in found.items()}
        for entry, value in entries.items():
            if isinstance(value, EvalSpec) and value.checkpoint == "initial" and value.student in config.students:
                found[entry] = direct[entry] | _keys_before_training(config, value, direct, found)
            else:
                found[entry].update(*(found[other] for other in needed[entry]))
        unchanged = before == {entry: len(affecting) for entry, affecting in found.items()}
    return {entry: [key for key in keys if key in affecting] for entry, affecting in found.items() if affecting}


def _keys_before_training(
    config: Config,
    spec: EvalSpec,
    direct: Mapping[Entry, set[SweptKey]],
    found: Mapping[Entry, set[SweptKey]],
) -> set[SweptKey]:
    """The keys that affect the evaluation of a student before its training: not those of its data and training."""
    student = config.students[spec.student]
    fields = {
        ("students", spec.student): _INITIAL_STUDENT_FIELDS,
        ("corpora", student.corpus): _INITIAL_CORPUS_FIELDS,
    }
    own = {key for entry, names in fields.items() for key in direct.get(entry, ()) if key.path[0] in names}
    needed = references(student.model) | {entry for entry in references(spec) if entry[0] == "tasks"}
    return own.union(*(found[entry] for entry in needed if entry in found))


def _check_pushes(config: Config, affecting: Affecting) -> None:
    for step in config.push_to_hub:
        job, _, name = step.partition(" ")
        if (_SECTION_OF_JOB.get(job, ""), name) in affecting:
            raise InputError(
                f"sweep: config.push_to_hub: {step!r} would be several; remove it, and push one afterwards"
            )


def _part(cell: Cell, keys: Sequence[SweptKey]) -> Cell:
    return {key: cell[key] for key in keys}


def _name(config: Config, entry: Entry, cell: Cell) -> str:
    """The name of an entry: its own, then the values that affect it."""
    section, name = entry
    swept = _with_values(name, cell)
    if swept in getattr(config, section):
        raise InputError(f"sweep: config.{section} already has an entry {swept!r}; rename it")
    return swept


def _with_values(name: str, cell: Cell) -> str:
    """A name followed by values, without dots, which ConfigDict does not allow."""
    return "-".join([name, *(f"{_slug(key.label)}_{_slugs(key)[index]}" for key, index in cell.items())])


def _eval_entry(config: Config, name: str) -> Entry:
    """The entry that defines an evaluation."""
    return ("evals" if name in config.evals else "students"), name


def _slugs(key: SweptKey) -> list[str]:
    """A text for every value that can be part of a name; their positions if two would be equal."""
    slugs = [_slug(_text(value)) for value in key.values]
    return slugs if len(set(slugs)) == len(slugs) and all(slugs) else [str(i) for i in range(len(slugs))]


def _slug(text: str) -> str:
    return re.sub(r"[^A-Za-z0-9-]+", "_", text)[:_SLUG_LENGTH].strip("_")


def _text(value: Any) -> str:
    return " + ".join(map(_text, value)) if isinstance(value, list) else str(value)


def _arms(config: Config, cell: Cell, affecting: Affecting) -> dict[str, tuple[str, str]]:
    """Evaluation -> its arm without and with the values of this cell."""
    found = {}
    for name, spec in eval_specs(config).items():
        keys = [key for key in affecting.get(_eval_entry(config, name), ()) if key.makes_arms]
        found[name] = spec.arm, ", ".join([spec.arm, *_assignments(_part(cell, keys))])
    return found


def _assignments(cell: Cell) -> list[str]:
    return [f"{key.label} = {_text(key.values[index])}" for key, index in cell.items()]


def _keys_of_claim(
    config: Config, claim: Claim, affecting: Affecting, arms: Mapping[str, tuple[str, str]]
) -> list[SweptKey]:
    """The keys whose values distinguish the arms of a claim from those of other cells."""
    named = {*(arm for pair in claim.comparisons for arm in split_pair(pair)), *claim.trend, *claim.votes}
    evaluations = [name for name, (arm, _) in arms.items() if arm in named]
    keys = dict.fromkeys(key for name in evaluations for key in affecting.get(_eval_entry(config, name), ()))
    return [key for key in keys if key.makes_arms]


def _swept_claim(claim: Claim, cell: Cell, arms: Mapping[str, str]) -> Claim:
    """A claim about the arms of a cell."""
    return dataclasses.replace(
        claim,
        text=f"{claim.text} ({', '.join(_assignments(cell))})" if cell else claim.text,
        comparisons=tuple(_with_arms(pair, arms) for pair in claim.comparisons),
        trend=tuple(arms.get(arm, arm) for arm in claim.trend),
        votes=tuple(arms.get(arm, arm) for arm in claim.votes),
    )


def _with_arms(pair: str, arms: Mapping[str, str]) -> str:
    return SEPARATOR.join(arms.get(arm.strip(), arm) for arm in pair.split(SEPARATOR))
