"""The models of a run that are on the Hugging Face Hub: pins their commits and downloads their files.

`pin_models` replaces every name by the name with its commit, so that all processes read the same files and the commit
is part of the identities of artefacts. models.json in the work directory records the commits: later commands in it use
the same ones, whether or not the repository has changed. `fetch_models` downloads the files that the steps read, so
that a run needs the network only before its first step.
"""

import dataclasses
import functools
from collections.abc import Collection, Iterable, Iterator, Mapping, Set
from typing import Any

from scotd_jax.config import Config, Model, ModelSource, Task
from scotd_jax.config.eval_specs import eval_specs, evaluated_model
from scotd_jax.distributed import hosts
from scotd_jax.hub.hub_files import FileSelection, HubModel, fetch, is_hub_name, missing_files, parse_hub_path, pin
from scotd_jax.jobs.graph import Step
from scotd_jax.jobs.model_loading import base_model, tokenizer_model, tokenizer_path
from scotd_jax.models.hf.weight_files import weight_files
from scotd_jax.progress import log
from scotd_jax.tokenizer_files import config_files, tokenizer_files
from scotd_jax.workdir import Workdir

# Sections of a config with names of the Hub, and their fields: of models, and of tokenizers that count tokens of tasks.
_NAMES = {Model: ("path", "tokenizer"), Task: ("tokenizer",)}


def pin_models(config: Config, workdir: Workdir, steps: Iterable[Step]) -> Config:
    """Returns the config with every Hub name that the steps read, or that is recorded, pinned to its commit.

    Logs the commits of the names that the steps read, and local folders whose names could be those of repositories.

    Raises:
      InputError: on every process, if a name is neither a local folder nor a repository that can be read.
    """
    read = sorted({path for path, _ in _reads(config, steps)})
    named = {getattr(section, field) for section in _sections(config) for field in _NAMES[type(section)]}
    paths = hosts.on_primary(lambda: _pinned(read, named, workdir.pinned_models()))
    log_once = functools.partial(log, process_index=int(not hosts.is_primary()))
    for path in read:
        pinned = paths[path]
        if path != pinned:
            log_once(f"model {path}: commit {pinned.rpartition('@')[2]}")
        elif is_hub_name(path) and parse_hub_path(path) is None:
            log_once(f"model {path}: the local folder of this name, not the repository on the Hub")
    return _replace_paths(config, paths)


def pins(config: Config, pinned: Config) -> dict[str, str]:
    """Returns {"OWNER/NAME": "OWNER/NAME@COMMIT"} for `config`. `pinned` is the result of `pin_models`."""
    pairs = zip(_sections(config), _sections(pinned), strict=True)
    paths = ((getattr(old, field), getattr(new, field)) for old, new in pairs for field in _NAMES[type(old)])
    return {path: pinned_path for path, pinned_path in paths if path != pinned_path}


def fetch_models(config: Config, steps: Iterable[Step]) -> None:
    """Downloads the files of the Hub that steps read and the cache lacks.

    Raises:
      InputError: if a repository lacks them, may not be read, or cannot be reached.
    """
    for model, select in _files_of_hub(config, steps):
        fetch(model, select, quiet=not hosts.is_primary())


def files_to_fetch(config: Config, steps: Iterable[Step]) -> dict[HubModel, Mapping[str, int]]:
    """Returns the files that `fetch_models` would download, with their sizes in bytes. Raises InputError as it does."""
    missing = {model: missing_files(model, select) for model, select in _files_of_hub(config, steps)}
    return {model: files for model, files in missing.items() if files}


def hub_models_of(config: Config, step: Step) -> list[HubModel]:
    """Returns the repositories that a step reads."""
    return [model for model, _ in _files_of_hub(config, [step])]


def _pinned(read: Collection[str], named: Set[str], recorded: Mapping[str, str]) -> dict[str, str]:
    """The paths that steps read, and those that the config names and an earlier command has pinned."""

    def pinned(path: str) -> str:
        if parse_hub_path(path) is None:  # not a name, or one with a local folder
            return path
        return recorded.get(path) or pin(path)

    return {path: pinned(path) for path in {*read, *(named & recorded.keys())}}


def _files_of_hub(config: Config, steps: Iterable[Step]) -> Iterator[tuple[HubModel, FileSelection]]:
    """Yields every repository that the steps read, with the selection of its files."""
    selections: dict[HubModel, list[FileSelection]] = {}
    for path, select in _reads(config, steps):
        if (repository := parse_hub_path(path)) is not None:
            selections.setdefault(repository, []).append(select)
    for repository, selects in selections.items():
        yield repository, _union(selects)


def _reads(config: Config, steps: Iterable[Step]) -> Iterator[tuple[str, FileSelection]]:
    """Yields the paths of models and tokenizers that steps read, with selections of their files."""
    for step in steps:
        # Any step may read questions of any task, which are truncated when they are loaded.
        yield from ((task.tokenizer, tokenizer_files) for task in config.tasks.values() if task.tokenizer)
        for model in _models_of(config, step):
            base, tokenizer = base_model(config, model), tokenizer_path(tokenizer_model(config, model))
            if base.path:
                yield base.path, config_files
            if tokenizer:
                yield tokenizer, tokenizer_files
            if model.path:  # the weights of a student are those of its checkpoint
                yield model.path, weight_files


def _union(selects: Iterable[FileSelection]) -> FileSelection:
    return lambda names: list(dict.fromkeys(name for select in dict.fromkeys(selects) for name in select(names)))


def _models_of(config: Config, step: Step) -> Iterator[Model]:
    """Yields the models whose files a step reads."""
    if step.job == "sample":
        source = config.rationales[step.name]
        if isinstance(source, ModelSource):
            yield source.model
    elif step.job == "build":
        students = (name for name, student in config.students.items() if student.corpus == step.name)
        yield from (Model(student=name) for name in students)
    elif step.job == "score":
        yield Model(student=step.name)
    elif step.job == "train":
        yield config.students[step.name].model
    elif step.job == "evaluate":
        spec = eval_specs(config)[step.name]
        source = config.rationales[spec.responses] if spec.responses else None
        if source is None:
            yield evaluated_model(config, spec)
        elif isinstance(source, ModelSource) and spec.read != "text":
            yield source.model
    elif step.job == "export":
        yield Model(student=step.name)


def _sections(node: Any) -> Iterator[Any]:
    """Yields the sections with names of the Hub, in the order of the config."""
    if type(node) in _NAMES:
        yield node
    else:
        for child in _children(node).values():
            yield from _sections(child)


def _replace_paths(node: Any, paths: Mapping[str, str]) -> Any:
    """Returns the config with paths of models and tokenizers replaced by their values in `paths`."""
    if type(node) in _NAMES:
        found = {field: getattr(node, field) for field in _NAMES[type(node)]}
        return dataclasses.replace(node, **{field: paths.get(path, path) for field, path in found.items()})
    children = {name: _replace_paths(child, paths) for name, child in _children(node).items()}
    if isinstance(node, dict):
        return children
    return dataclasses.replace(node, **children) if children else node


def _children(node: Any) -> dict[str, Any]:
    """The sections of a section of the config."""
    if isinstance(node, dict):
        return node
    if not dataclasses.is_dataclass(node):
        return {}
    return {field.name: getattr(node, field.name) for field in dataclasses.fields(node) if field.init}
