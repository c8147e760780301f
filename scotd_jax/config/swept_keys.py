"""The keys of a sweep: which fields of which entries a key sets, and its values.

Standard library only, so that `--help` is fast.
"""

import ast
import dataclasses
import fnmatch
import itertools
from collections.abc import Mapping, Sequence
from typing import Any

from scotd_jax.config.loading import from_mapping, plain
from scotd_jax.config.rationale_sources import GeneratedSource
from scotd_jax.config.references import SECTIONS, Entry
from scotd_jax.config.schema import Config
from scotd_jax.errors import InputError, did_you_mean

SEED = "seed"  # the key that is added to the seeds of all tasks, sources and students, as `Config.seed` is
# Fields that change no result, so that runs with other values would be equal.
_WITHOUT_EFFECT = {
    "tasks": ("title",),
    "rationales": ("release",),
    "corpora": ("shards", "processes"),
    "students": ("arm", "export"),
    "evals": ("arm",),
}


@dataclasses.dataclass(frozen=True, eq=False)
class SweptKey:
    """A key of a sweep.

    Attributes:
      key: the key, SECTION.NAME.FIELD or `SEED`.
      entries: the entries of the config that it sets a field of.
      path: the path of this field in the entries.
      values: its values.
      label: the shortest end of the key that no other key of the sweep has.
    """

    key: str
    entries: tuple[Entry, ...]
    path: tuple[str, ...]
    values: tuple[Any, ...]
    label: str = ""

    @property
    def makes_arms(self) -> bool:
        """Whether runs with different values are different arms, and not runs of one arm with different seeds."""
        return self.key != SEED and not (self.path == ("seed",) and self.entries[0][0] == "students")


Cell = Mapping[SweptKey, int]  # every key with the index of its value


def parse_grid(arguments: Sequence[str]) -> dict[str, list[Any]]:
    """Parses the values of --sweep, each "KEY=VALUE,VALUE,..." with values that are Python literals, or else texts.

    Raises:
      InputError: if one has another form, or a key comes twice.
    """
    grid: dict[str, list[Any]] = {}
    for argument in arguments:
        key, equals, text = argument.partition("=")
        if not key or not equals:
            raise InputError(f"--sweep={argument}: expected KEY=VALUE,VALUE,..., for example corpora.n30.n=1,5,30")
        if key in grid:
            raise InputError(f"--sweep={argument}: {key!r} is swept already; list all of its values once")
        try:
            grid[key] = list(ast.literal_eval(f"[{text}]"))
        except (ValueError, SyntaxError):
            grid[key] = [_literal(item.strip()) for item in text.split(",")]
        if not grid[key] or "" in grid[key]:
            raise InputError(f"--sweep={argument}: a value is empty; expected {key}=VALUE,VALUE,...")
    return grid


def _literal(text: str) -> Any:
    try:
        return ast.literal_eval(text)
    except (ValueError, SyntaxError):
        return text


def swept_keys(config: Config, grid: Mapping[str, Sequence[Any]]) -> list[SweptKey]:
    """Returns the keys of a sweep, with values of the types of their fields.

    Raises:
      InputError: if a key does not exist or belongs to the whole run, a value is invalid or comes twice, or two keys
        set the same field.
    """
    parts = [key.split(".") for key in grid]
    keys = []
    for own, (key, values) in zip(parts, grid.items(), strict=True):
        # A whole key is in the grid once, so some end of it is unique.
        length = next((k for k in range(1, len(own)) if sum(p[-k:] == own[-k:] for p in parts) == 1), len(own))
        keys.append(_swept_key(config, key, values, ".".join(own[-length:])))
    for a, b in itertools.combinations(keys, 2):
        shared = min(len(a.path), len(b.path))
        if a.path[:shared] == b.path[:shared] and (both := set(a.entries) & set(b.entries)):
            section, name = min(both)
            raise InputError(f"sweep: {a.key} and {b.key} both set config.{section}.{name}.{'.'.join(a.path[:shared])}")
    return keys


def _swept_key(config: Config, key: str, values: Sequence[Any], label: str) -> SweptKey:
    swept = SweptKey(key, *_find(config, key), tuple(values), label)
    if not values:
        raise InputError(f"sweep: {key}: list at least one value")
    found: list[Any] = []
    for index, value in enumerate(values):
        if key == SEED and (not isinstance(value, int) or isinstance(value, bool)):
            raise InputError(f"sweep: {key}: expected integers, found {value!r}")
        converted = value if key == SEED else _value(with_values(config, {swept: index}), swept)
        if converted in found:
            raise InputError(f"sweep: {key}: the value {value!r} comes twice, which would be the same run; remove one")
        found.append(converted)
    _check_numbers(config, swept, found)
    if swept.path == ("sampling", "n") and len(values) > 1:
        raise InputError(
            f"sweep: {key}: every value would sample anew; set it to the largest, and sweep corpora.NAME.n, the number "
            "of these responses that a corpus uses"
        )
    return dataclasses.replace(swept, values=tuple(found))


def _find(config: Config, key: str) -> tuple[tuple[Entry, ...], tuple[str, ...]]:
    """The entries of a key, and the path of its field in them."""
    if key == SEED:
        generated = [name for name, source in config.rationales.items() if isinstance(source, GeneratedSource)]
        seeded = {"tasks": config.tasks, "rationales": generated, "students": config.students}
        return tuple((section, name) for section, names in seeded.items() for name in names), ("seed",)
    section, *rest = key.split(".")
    if section not in SECTIONS:
        if section in (field.name for field in dataclasses.fields(Config)):
            raise InputError(
                f"sweep: {key}: {section!r} belongs to the whole run; keys begin with {', '.join(SECTIONS)}, or are "
                f"{SEED!r}"
            )
        raise InputError(f"sweep: {key}: unknown key; {did_you_mean(section, (SEED, *SECTIONS))}")
    if len(rest) < 2:
        raise InputError(f"sweep: {key}: expected {section}.NAME.FIELD, where NAME may be a pattern such as 'n*'")
    pattern, *path = rest
    if path[0] in _WITHOUT_EFFECT.get(section, ()):
        raise InputError(f"sweep: {key}: {path[0]!r} changes no result, so all runs would be equal")
    entries = getattr(config, section)
    if not (names := [name for name in entries if fnmatch.fnmatchcase(name, pattern)]):
        raise InputError(f"sweep: {key}: config.{section} has no {pattern!r}; {did_you_mean(pattern, entries)}")
    return tuple((section, name) for name in names), tuple(path)


def with_values(config: Config, cell: Cell) -> Config:
    """Returns the config with the values of one cell.

    Raises:
      InputError: if a key does not exist or a value does not fit, as when a config is loaded.
    """
    values = plain(config)
    for swept, index in cell.items():
        for section, name in swept.entries:
            fields, (*parents, last) = values[section][name], swept.path
            for parent in parents:
                fields = fields.setdefault(parent, {})
                if not isinstance(fields, dict):
                    raise InputError(f"sweep: {swept.key}: {parent!r} has no fields")
            value = swept.values[index]
            fields[last] = fields[last] + value if swept.key == SEED else value
    return from_mapping(Config, values)


def _value(config: Config, swept: SweptKey) -> Any:
    """The value of a key in a config, as a plain value."""
    section, name = swept.entries[0]
    value = plain(getattr(config, section)[name])
    for part in swept.path:
        value = value[part]
    return value


def _check_numbers(config: Config, swept: SweptKey, values: Sequence[Any]) -> None:
    """Raises InputError if two numbers of responses in a corpus are the same, because there are not that many."""
    if swept.path != ("n",) or swept.entries[0][0] != "corpora":
        return
    for _, name in swept.entries:
        sources = [config.rationales.get(source) for source in config.corpora[name].rationales]
        sampled = [source.sampling.n for source in sources if isinstance(source, GeneratedSource)]
        if len(sampled) == len(sources) > 0:
            everything = [str(value) for value in values if not 0 < value < max(sampled)]
            if len(everything) > 1:
                raise InputError(
                    f"sweep: {swept.key}: {' and '.join(everything)} are the same run, because corpus {name!r} has "
                    f"{max(sampled)} responses per question; keep one"
                )
