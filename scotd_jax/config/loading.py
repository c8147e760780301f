"""Loading of configs: `ml_collections` config files to the frozen dataclasses of `schema`.

Unknown keys and values of the wrong type are refused with the path of the key and the nearest name. Standard library
only (ml_collections is imported where a config file asks for it), so that `--help` is fast.
"""

import dataclasses
import importlib.util
import pathlib
import types
import typing
from collections.abc import Sequence
from typing import Any, Literal

from scotd_jax.config.schema import Config
from scotd_jax.errors import InputError, did_you_mean, nearest


def from_mapping(kind: type, values: Any, path: str = "config") -> Any:
    """`kind` with the fields of `values`, a dict or ConfigDict.

    Raises InputError on an unknown key and on a value of the wrong type.
    """
    hints = typing.get_type_hints(kind)
    for key in values:
        if key not in hints:
            raise InputError(f"{path}.{key}: unknown key; {did_you_mean(key, hints)}")
    return kind(**{key: _convert(hints[key], value, f"{path}.{key}") for key, value in _items(values)})


def _convert(hint: Any, value: Any, path: str) -> Any:
    origin = typing.get_origin(hint)
    if dataclasses.is_dataclass(hint):
        if isinstance(value, hint):
            return value
        if hasattr(value, "items"):
            return from_mapping(hint, value, path)
    elif origin is dict:
        if hasattr(value, "items"):
            inner = typing.get_args(hint)[1]
            return {str(k): _convert(inner, v, f"{path}.{k}") for k, v in _items(value)}
    elif origin is tuple:
        if isinstance(value, (list, tuple)):
            inner = typing.get_args(hint)[0]
            return tuple(_convert(inner, v, f"{path}[{i}]") for i, v in enumerate(value))
    elif origin is Literal:
        if value in typing.get_args(hint):
            return value
        near = nearest(str(value), typing.get_args(hint))
        hint_text = f"; did you mean {near!r}?" if near else ""
        raise InputError(f"{path}: {value!r} is not one of {', '.join(typing.get_args(hint))}{hint_text}")
    elif origin is types.UnionType:
        return value
    elif hint is Any:
        return plain(value)
    elif hint is float and isinstance(value, (int, float)) and not isinstance(value, bool):
        return float(value)
    elif isinstance(value, hint) and not (hint is int and isinstance(value, bool)):
        return value
    name = getattr(hint, "__name__", str(hint)) if origin is None else str(hint)
    raise InputError(f"{path}: expected {name}, found {value!r}")


def _items(mapping: Any) -> Any:
    """Items in the order in which they were written; a ConfigDict sorts them unless it is asked not to."""
    names = getattr(mapping, "_fields", mapping)
    return [(name, mapping[name]) for name in names]


def plain(value: Any) -> Any:
    """A config value as plain dicts, lists and scalars (for JSON)."""
    if dataclasses.is_dataclass(value):
        return {f.name: plain(getattr(value, f.name)) for f in dataclasses.fields(value)}
    if hasattr(value, "items"):
        return {str(k): plain(v) for k, v in _items(value)}
    if isinstance(value, (list, tuple)):
        return [plain(v) for v in value]
    return value


def config_dict(config: Config) -> Any:
    """The ml_collections ConfigDict of a config: every field is there, so every field can be set by a flag."""
    import ml_collections

    def convert(value: Any) -> Any:
        if dataclasses.is_dataclass(value):
            return {f.name: convert(getattr(value, f.name)) for f in dataclasses.fields(value)}
        return {k: convert(v) for k, v in value.items()} if isinstance(value, dict) else value

    return ml_collections.ConfigDict(convert(config), sort_keys=False)


def parse_arg(arg: str | None, **defaults: Any) -> types.SimpleNamespace:
    """The part of --config=FILE:PART as typed settings, e.g. "runlocal,n=5".

    Every setting is "name=value" or, for one whose default is False, just "name". Raises InputError on an unknown
    name and on a value that does not have the type of its default.
    """
    settings = dict(defaults)
    for item in filter(None, (arg or "").split(",")):
        name, _, text = item.partition("=")
        if name not in defaults:
            raise InputError(f"--config=...:{arg}: unknown setting {name!r}; {did_you_mean(name, defaults)}")
        kind = type(defaults[name])
        try:
            settings[name] = text in ("", "1", "true", "True") if kind is bool else kind(text)
        except ValueError:
            raise InputError(f"--config=...:{arg}: {name} expects {kind.__name__}, found {text!r}") from None
    return types.SimpleNamespace(**settings)


def sibling(file: str, name: str) -> types.ModuleType:
    """The config file NAME.py beside `file`: config files are no package, but one may build on another."""
    spec = importlib.util.spec_from_file_location(name, pathlib.Path(file).parent / f"{name}.py")
    module = importlib.util.module_from_spec(spec)
    spec.loader.exec_module(module)
    return module


def merged(configs: Sequence[Config]) -> Config:
    """One config with the tasks, rationales, recipes, corpora, students and evals of all; the rest is the first's."""
    parts = ("tasks", "rationales", "recipes", "corpora", "students", "evals")
    every = {part: {k: v for config in configs for k, v in getattr(config, part).items()} for part in parts}
    return dataclasses.replace(configs[0], **every)
