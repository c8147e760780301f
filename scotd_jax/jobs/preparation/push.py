"""Pushes finished steps to the Hugging Face Hub: exports as models, corpora and releases of responses as data sets."""

import contextlib
import pathlib
import tempfile
from collections.abc import Collection, Iterable, Iterator, Sequence
from typing import NamedTuple

from etils import epath

from scotd_jax.artefact import Artefact
from scotd_jax.atomic import is_local
from scotd_jax.config import Config
from scotd_jax.hub.hub_push import Kind, check_push, push_folder
from scotd_jax.jobs.context import RunContext
from scotd_jax.jobs.graph import Step
from scotd_jax.workdir import Workdir


class _Push(NamedTuple):
    """How a job pushes: the subfolder of its artefact, the kind of repository, and the patterns of replaced files."""

    folder: str
    kind: Kind
    replaced: Sequence[str]


PUSHES = {
    "export": _Push("", "model", ("*.safetensors", "*.safetensors.index.json")),
    "build": _Push("", "dataset", ("*.tfrecord", "*.index", "*.questions")),
    "sample": _Push("release", "dataset", ("data/*",)),
}


def check_pushes(
    config: Config, workdir: Workdir, steps: Iterable[Step], redo: Collection[Step], create: bool = True
) -> None:
    """Checks before any work that the repositories of steps can be written, and creates the missing ones as private.

    Args:
      config: the config.
      workdir: the work directory.
      steps: the steps; those that are pushed already are not checked.
      redo: the steps that are run again (--overwrite).
      create: whether to create missing repositories.

    Raises:
      InputError: if there is no token, or it may not write to a repository or create it.
    """
    for step, repo in pending_pushes(config, workdir, steps, redo).items():
        check_push(repo, PUSHES[step.job].kind, create)


def pending_pushes(config: Config, workdir: Workdir, steps: Iterable[Step], redo: Collection[Step]) -> dict[Step, str]:
    """Returns the repositories to which a run will push, by step. See `check_pushes` for the arguments."""
    return {
        step: config.push_to_hub[str(step)]
        for step in steps
        if str(step) in config.push_to_hub and (step in redo or not _is_pushed(config, workdir.artefact(*step), step))
    }


def push(context: RunContext, step: Step) -> None:
    """Pushes the files of a finished step, if the config sets a repository and they are not there yet.

    The manifest records the commit, so that an unchanged artefact is pushed once.

    Raises:
      InputError: if the repository cannot be written or reached.
    """
    repo, artefact = context.config.push_to_hub.get(str(step)), context.artefact(*step)
    if not repo or not artefact.complete:
        return
    if _is_pushed(context.config, artefact, step):
        context.log(f"  already pushed to {repo}")
        return
    rule = PUSHES[step.job]
    context.checked(*step)
    with _local_tree(artefact.path / rule.folder) as folder:
        commit = push_folder(folder, repo, rule.kind, f"{step} of scotd_jax", rule.replaced)
    artefact.record_push({"repository": repo, "content": _content(context.config, artefact, step), "commit": commit})
    context.log(f"  pushed to {repo}, commit {commit}")


def _is_pushed(config: Config, artefact: Artefact, step: Step) -> bool:
    pushed = artefact.manifest().get("pushed", {})
    return (
        artefact.complete
        and pushed.get("repository") == config.push_to_hub[str(step)]
        and pushed.get("content") == _content(config, artefact, step)
    )


def _content(config: Config, artefact: Artefact, step: Step) -> str:
    """An identifier of the pushed content: the digest of the artefact, and the format of a release."""
    return f"{artefact.digest} {config.rationales[step.name].release}" if step.job == "sample" else artefact.digest


@contextlib.contextmanager
def _local_tree(folder: epath.Path) -> Iterator[pathlib.Path]:
    """Yields the folder itself if it is local, else a temporary copy with its subfolders."""
    if is_local(folder):
        yield pathlib.Path(folder)
        return
    with tempfile.TemporaryDirectory() as scratch:
        target = pathlib.Path(scratch) / "tree"
        for file in folder.rglob("*"):
            if not file.is_dir():
                copy = target / file.relative_to(folder)
                copy.parent.mkdir(parents=True, exist_ok=True)
                file.copy(copy)
        yield target
