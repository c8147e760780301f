"""The command `verify`: compares all files of a work directory with their digests, and all checkpoints with theirs."""

from collections.abc import Iterator
from typing import Literal, NamedTuple

from scotd_jax.artefact import Artefact
from scotd_jax.errors import InputError
from scotd_jax.workdir import Workdir


class Verification(NamedTuple):
    """The result for one artefact.

    Attributes:
      artefact: path of its folder.
      state: "no digests" is an artefact that was finished by an older version.
      details: what was checked, or what is damaged.
    """

    artefact: str
    state: Literal["intact", "incomplete", "no digests", "damaged"]
    details: str


def verify(workdir: str) -> list[Verification]:
    """Checks a work directory: every file of complete artefacts, the checkpoints of all trainings, and other files.

    Needs no config and writes nothing.

    Raises:
      InputError: if there are no artefacts.
    """
    directory = Workdir(workdir, writes=False)
    found = [_verify(artefact) for artefact in directory.artefacts()]
    if not found:
        raise InputError(f"{directory.root}: no artefact; expected the --workdir of a run")
    return [*found, *_verify_other_files(directory)]


def format_verification(results: list[Verification]) -> str:
    """Returns one line per artefact and a summary."""
    width = max(len(result.artefact) for result in results)
    lines = [f"{result.state:10}  {result.artefact:{width}}  {result.details}".rstrip() for result in results]
    damaged = sum(result.state == "damaged" for result in results)
    return "\n".join([*lines, f"{len(results)} artefacts, {damaged} damaged"])


def _verify(artefact: Artefact) -> Verification:
    path = str(artefact.path)
    try:
        manifest = artefact.manifest()
        if not manifest:
            raise InputError(f"{artefact.manifest_path}: is missing")
        if artefact.complete:
            artefact.check_files(full=True)
        details = [f"{len(manifest['files']):,} files"] if "files" in manifest else []
        details += [f"checkpoint {step}" for step in _verified_checkpoints(artefact)]
    except InputError as error:
        return Verification(path, "damaged", str(error))
    state = "incomplete" if not artefact.complete else "intact" if "files" in manifest else "no digests"
    return Verification(path, state, ", ".join(details))


def _verify_other_files(directory: Workdir) -> Iterator[Verification]:
    """Yields one result for the files that belong to no artefact, if there are some."""
    try:
        if count := directory.check_recorded():
            yield Verification(str(directory.root), "intact", f"{count:,} files: config, report, profiles")
        elif (directory.root / "config.json").exists():
            yield Verification(str(directory.root), "no digests", f"{directory.root / 'manifest.json'} is missing")
    except InputError as error:
        yield Verification(str(directory.root), "damaged", str(error))


def _verified_checkpoints(artefact: Artefact) -> Iterator[int]:
    """Yields the steps of the checkpoints of a training, after loading and comparing each of them."""
    folder = artefact.path / "checkpoints"
    if artefact.job == "train" and folder.exists():
        from scotd_jax.training.checkpoints import verify_checkpoints

        yield from verify_checkpoints(folder)
