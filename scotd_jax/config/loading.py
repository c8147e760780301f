"""Loads configs: converts `ml_collections` config files into the frozen dataclasses of `schema`.

Unknown keys, keys of earlier versions and values of the wrong type are refused with the path of the key and the name
that was probably meant. Standard library only (ml_collections is imported where it is used), so that `--help` is fast.
"""

import dataclasses
import importlib.util
import pathlib
import types
import typing
from collections.abc import Sequence
from typing import Any, Literal

from scotd_jax.config import rationale_sources, schema
from scotd_jax.errors import FieldError, InputError, did_you_mean, nearest

# Renamed keys by class: old key -> new key. Old keys are refused with the new name.
RENAMED_KEYS: dict[type, dict[str, str]] = {
    schema.Config: {"askings": "evals"},
    schema.Recipe: {"ask": "prompt", "read": "parse_as"},
    schema.Corpus: {"rationale": "rationale_control"},
    schema.Training: {
        "window": "balance_window",
        "shapes": "max_shapes",
        "check": "startup_check",
        "keep": "max_to_keep",
    },
    schema.Student: {"dev": "dev_sets", "sets": "eval_sets", "given": "rationales_from"},
    schema.EvalSpec: {"sets": "eval_sets", "given": "rationales_from", "rationale": "rationale_control"},
    schema.Plan: {"layers": "compile_layers"},
    rationale_sources.Model: {"shape": "overrides"},
    rationale_sources.Server: {"extra": "extra_body"},
    rationale_sources.ModelSource: {"options": "think"},
    rationale_sources.ServerSource: {"options": "think"},
    rationale_sources.BatchSource: {"options": "think"},
}
# Renamed or replaced classes of scotd_jax.config, for the messages of file_errors.py.
RENAMED_CLASSES = {
    "Asking": "EvalSpec",
    "Altered": "RationaleControl",
    "Rationales": "ModelSource, ServerSource, BatchSource, FileSource or TaskSource",
}
RENAMED_TEMPLATE_FIELDS = {"ask": "prompt", "given": "rationale_prefix"}  # of recipes
RENAMED_SETTINGS = {"said": "responses"}  # of --config=FILE:KEY=VALUE


def from_mapping(kind: type, values: Any, path: str = "config") -> Any:
    """Converts a mapping into a dataclass, recursively.

    Args:
      kind: the dataclass.
      values: a dict or ConfigDict with some of the fields; others have their defaults.
      path: path of `values` in the config, for messages.

    Returns:
      An instance of `kind`.

    Raises:
      InputError: on an unknown key, a value of the wrong type, or an invalid value.
    """
    hints = typing.get_type_hints(kind)
    fields = {}
    for key, value in _items(values):
        if key not in hints:
            raise InputError(f"{path}.{key}: {unknown_key(kind, key)}")
        fields[key] = _convert(hints[key], value, f"{path}.{key}")
    fixed = [field.name for field in dataclasses.fields(kind) if not field.init]  # `source`, see _convert_source
    try:
        return kind(**{key: value for key, value in fields.items() if key not in fixed})
    except FieldError as error:
        raise InputError(f"{path}.{error.field}: {error.problem}") from None


def unknown_key(kind: type, key: str) -> str:
    """Returns the error message for a key that the dataclass `kind` does not have, with a suggestion."""
    if new := RENAMED_KEYS.get(kind, {}).get(key):
        return f"this key is now called {new!r}"
    if kind in typing.get_args(schema.RationaleSource):
        others = [other.source for other in typing.get_args(schema.RationaleSource) if key in _field_names(other)]
        if others:
            return f"source {kind.source!r} has no such key; it belongs to source {' or '.join(map(repr, others))}"
    return f"unknown key; {did_you_mean(key, _field_names(kind))}"


def _field_names(kind: type) -> list[str]:
    return [field.name for field in dataclasses.fields(kind)]


def _convert(hint: Any, value: Any, path: str) -> Any:
    origin = typing.get_origin(hint)
    if dataclasses.is_dataclass(hint):
        if isinstance(value, hint):
            return value
        if hasattr(value, "items"):
            return from_mapping(hint, value, path)
    elif hint == schema.RationaleSource:
        return _convert_source(value, path)
    elif origin is dict:
        if hasattr(value, "items"):
            inner = typing.get_args(hint)[1]
            return {str(k): _convert(inner, v, f"{path}.{k}") for k, v in _items(value)}
    elif origin is tuple:
        if isinstance(value, (list, tuple)):
            inner = typing.get_args(hint)[0]
            return tuple(_convert(inner, v, f"{path}[{i}]") for i, v in enumerate(value))
    elif origin is Literal:
        return _convert_literal(typing.get_args(hint), value, path)
    elif hint is Any:
        return plain(value)
    elif hint is float and isinstance(value, (int, float)) and not isinstance(value, bool):
        return float(value)
    elif isinstance(value, hint) and not (hint is int and isinstance(value, bool)):
        return value
    name = getattr(hint, "__name__", str(hint)) if origin is None else str(hint)
    raise InputError(f"{path}: expected {name}, found {value!r}")


def _convert_source(value: Any, path: str) -> Any:
    """Converts a source of rationales. Its key `source` selects the class."""
    sources = {kind.source: kind for kind in typing.get_args(schema.RationaleSource)}
    if isinstance(value, tuple(sources.values())):
        return value
    if not hasattr(value, "items"):
        raise InputError(f"{path}: expected a source of rationales, found {value!r}")
    name = _convert_literal(tuple(sources), dict(_items(value)).get("source", "model"), f"{path}.source")
    return from_mapping(sources[name], value, path)


def _convert_literal(allowed: tuple[str, ...], value: Any, path: str) -> Any:
    if value in allowed:
        return value
    near = nearest(str(value), allowed)
    hint = f"; did you mean {near!r}?" if near else ""
    raise InputError(f"{path}: {value!r} is not one of {', '.join(name or repr(name) for name in allowed)}{hint}")


def _items(mapping: Any) -> list[tuple[Any, Any]]:
    """Items in their original order; `ConfigDict.items()` sorts them, so this reads its attribute `_fields`."""
    names = getattr(mapping, "_fields", mapping)
    return [(name, mapping[name]) for name in names]


def plain(value: Any) -> Any:
    """Converts a config value to plain dicts, lists and scalars, for JSON."""
    if dataclasses.is_dataclass(value):
        return {f.name: plain(getattr(value, f.name)) for f in dataclasses.fields(value)}
    if hasattr(value, "items"):
        return {str(k): plain(v) for k, v in _items(value)}
    if isinstance(value, (list, tuple)):
        return [plain(v) for v in value]
    return value


def config_dict(config: schema.Config) -> Any:
    """Returns the config as an ml_collections ConfigDict with all fields, so that each can be set by a flag."""
    import ml_collections

    def convert(value: Any) -> Any:
        if dataclasses.is_dataclass(value):
            return {f.name: convert(getattr(value, f.name)) for f in dataclasses.fields(value)}
        return {k: convert(v) for k, v in value.items()} if isinstance(value, dict) else value

    return ml_collections.ConfigDict(convert(config), sort_keys=False)


BOOLEANS = {"": True, "1": True, "true": True, "True": True, "0": False, "false": False, "False": False}


def parse_arg(arg: str | None, **defaults: Any) -> types.SimpleNamespace:
    """Parses the settings of a config file: the part after the colon of --config=FILE:SETTINGS.

    Args:
      arg: settings separated by commas, e.g. "runlocal,n=5". A setting is "name=value", or only "name" for a boolean.
      **defaults: all settings of the config file with their defaults. Values are converted to the same types.

    Returns:
      A namespace with all settings.

    Raises:
      InputError: on an unknown name, or a value that cannot be converted.
    """
    settings = dict(defaults)
    for item in filter(None, (arg or "").split(",")):
        name, _, text = item.partition("=")
        if name not in defaults:
            new = RENAMED_SETTINGS.get(name)
            hint = f"it is now called {new!r}" if new in defaults else did_you_mean(name, defaults)
            raise InputError(f"--config=...:{arg}: unknown setting {name!r}; {hint}")
        kind = type(defaults[name])
        try:
            settings[name] = BOOLEANS[text] if kind is bool else kind(text)
        except (KeyError, ValueError):
            raise InputError(f"--config=...:{arg}: {name} expects {kind.__name__}, found {text!r}") from None
    return types.SimpleNamespace(**settings)


def sibling(file: str, name: str) -> types.ModuleType:
    """Loads the config file NAME.py from the folder of `file`, which is not a package."""
    spec = importlib.util.spec_from_file_location(name, pathlib.Path(file).parent / f"{name}.py")
    assert spec is not None, "the name ends in .py"
    assert spec.loader is not None
    module = importlib.util.module_from_spec(spec)
    spec.loader.exec_module(module)
    return module


def merged(configs: Sequence[schema.Config]) -> schema.Config:
    """Merges the entries (tasks, rationales, corpora, ...) of several configs. All else is from the first config."""
    parts = ("tasks", "rationales", "recipes", "corpora", "students", "evals")
    combined: dict[str, Any] = {
        part: {k: v for config in configs for k, v in getattr(config, part).items()} for part in parts
    }
    return dataclasses.replace(configs[0], **combined)
