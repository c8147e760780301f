"""The work directory: one folder per artefact, each with a manifest whose `complete: true` is the last write.

A manifest records the *identity* of its artefact: the part of the config that determines it, and the digests of the
artefacts that it was made from. A job skips a complete artefact of the same identity and resumes an incomplete one. It
refuses an artefact of another identity and names the first difference, so that results of two configs never mix in one
folder. If the folder has no results yet, the job restarts the artefact instead.
"""

import hashlib
import importlib.metadata
import json
import os
import platform
from collections.abc import Mapping, Sequence
from typing import Any, Literal

from etils import epath

from scotd_jax import __version__
from scotd_jax.atomic import atomic_write
from scotd_jax.errors import InputError
from scotd_jax.progress import log

# Version of manifests and artefacts. Increase it when identities or files of artefacts change, so that folders of older
# versions are refused and not misread. Version 1 had other config keys; its manifests have no field `format`.
FORMAT = 2

_FOLDERS = {  # job -> folder of its artefacts
    "sample": "rationales",
    "build": "corpora",
    "train": "students",
    "evaluate": "evaluations",
    "export": "exports",
    "report": "report",
}
_NO_RESULTS = {"manifest.json", "parameters.txt"}  # files that jobs write before any result
_LIBRARIES = ("jax", "flax", "optax", "orbax-checkpoint", "grain", "transformers", "numpy")


_MODELS = "models.json"  # pinned models of the Hub


class StopBeforeWork(Exception):  # noqa: N818 (not an error)
    """Ends a job of a dry run before any work.

    Attributes:
      state: what the job would do with its artefact: run from the start, resume, or nothing because it is complete.
    """

    def __init__(self, state: Literal["run", "resume", "complete"]):
        super().__init__(state)
        self.state = state


class Workdir:
    """A work directory: DIR/{rationales,corpora,students,evaluations,exports}/NAME and DIR/report."""

    def __init__(self, root: str, writes: bool = True, dry_run: bool = False):
        """Opens a work directory. The first write creates it.

        Args:
          root: its path, local or in a bucket (gs://...).
          writes: whether this process writes manifests; True on the primary process only.
          dry_run: whether `Artefact.begin` raises StopBeforeWork after its checks, so that no job does any work.
        """
        # Checkpoints need an absolute path, and messages are clearer with one.
        self.root = epath.Path(root if "://" in root else os.path.abspath(root))
        self._writes, self._dry_run = writes and not dry_run, dry_run

    def artefact(self, job: str, name: str) -> "Artefact":
        """Returns the artefact `name` of a job. The report has the empty name."""
        return Artefact(self.root, job, name, self._writes, self._dry_run)

    def save_config(self, config: dict[str, Any]) -> None:
        """Writes the config of the last command to DIR/config.json, for reference."""
        write_text(self.root / "config.json", json.dumps(config, indent=2) + "\n")

    def pinned_models(self) -> dict[str, str]:
        """Returns the Hub models that earlier commands used, as {"OWNER/NAME": "OWNER/NAME@COMMIT"}."""
        file = self.root / _MODELS
        if not file.exists():
            return {}
        models = read_json(file)
        if not isinstance(models, dict) or not all(isinstance(name, str) for name in models.values()):
            raise InputError(f'{file}: expected {{"OWNER/NAME": "OWNER/NAME@COMMIT", ...}}; remove the file')
        return models

    def save_pinned_models(self, models: dict[str, str]) -> None:
        """Adds models to models.json, in the form that `pinned_models` returns."""
        if models:
            write_text(self.root / _MODELS, json.dumps(self.pinned_models() | models, indent=2) + "\n")


class Artefact:
    """One folder of a work directory, made by one job."""

    def __init__(self, root: epath.Path, job: str, name: str, writes: bool = True, dry_run: bool = False):
        self.job, self.name = job, name
        self.path = root / _FOLDERS[job] / name
        self._writes, self._dry_run = writes, dry_run
        self._manifest = self.path / "manifest.json"
        self._identity: dict[str, Any] = {}  # set by `begin`

    def manifest(self) -> dict[str, Any]:
        """Returns the manifest, or {} if there is none.

        Raises:
          InputError: if the manifest is not JSON or has the format of another version of scotd_jax.
        """
        if not self._manifest.exists():
            return {}
        manifest = read_json(self._manifest)
        if (found := manifest.get("format", 1)) != FORMAT:
            written_by = manifest.get("versions", {}).get("scotd_jax", "an unknown version")
            raise InputError(
                f"{self.path}: has work directory format {found}, written by scotd_jax {written_by}, but this is "
                f"scotd_jax {__version__} with format {FORMAT}; use another --workdir, or start over with {self._redo}"
            )
        return manifest

    @property
    def complete(self) -> bool:
        """Whether the work is complete."""
        return bool(self.manifest().get("complete"))

    @property
    def digest(self) -> str:
        """Digest of the content, for the identities of derived artefacts. Raises InputError if it is incomplete."""
        if not self.complete:
            raise InputError(f"{self.path}: not complete; run it first: --jobs={self.job}")
        return self.manifest()["digest"]

    def begin(self, identity: dict[str, Any], by_set: Sequence[str] = (), remade_for: Sequence[str] = ()) -> bool:
        """Opens the folder for work with this identity.

        Args:
          identity: plain data that determines the content of the artefact.
          by_set: keys of `identity` whose values are mappings, e.g. by question set. Commands may add and drop entries,
            because each entry has its own result files in the folder. The manifest records all entries seen so far, so
            that a dropped entry cannot return with another value.
          remade_for: keys of `identity` that may change: the job then recreates the artefact, which takes little time.

        Returns:
          False if the work is already complete, else True.

        Raises:
          InputError: if the folder holds results of another identity.
          StopBeforeWork: in a dry run.
        """
        self._identity = identity = json.loads(json.dumps(identity))  # JSON turns tuples into lists, as in the manifest
        manifest = self.manifest()
        seen = {key: manifest.get("seen", manifest["identity"])[key] for key in by_set} if manifest else {}
        if manifest and (difference := _first_difference(manifest["identity"] | seen, identity, by_set)):
            if difference[0] not in remade_for:
                self._check_no_results(manifest, *difference)
            if self._writes:
                log(f"  begun anew: {difference[0]} has changed")
            manifest, seen = {}, {}
        same = bool(manifest) and manifest["identity"] == identity
        complete = same and manifest.get("complete", False)
        if self._dry_run:
            raise StopBeforeWork("complete" if complete else "resume" if manifest else "run")
        if not same and self._writes:
            all_seen = {"seen": {key: seen[key] | identity[key] for key in by_set}} if seen else {}
            self._write({"complete": False, "identity": identity, "versions": versions(), **all_seen})
        return not complete

    def finish(self, counts: dict[str, Any], content: Any = None) -> None:
        """Marks the artefact as complete.

        Args:
          counts: numbers that describe the result, for readers and reports.
          content: plain data that the digest covers besides the identity, e.g. hashes of files.

        Raises:
          InputError: if another process has begun work of another identity in the folder.
        """
        if not self._writes:
            return
        manifest = self.manifest()
        if manifest["identity"] != self._identity:
            raise InputError(
                f"{self.path}: another process with another configuration works in this folder; end it, and start over "
                f"with {self._redo}"
            )
        self._write(manifest | {"counts": counts, "digest": digest([manifest["identity"], content]), "complete": True})

    def record_push(self, pushed: dict[str, str]) -> None:
        """Records in the manifest where the content was pushed."""
        if self._writes:
            self._write(self.manifest() | {"pushed": pushed})

    def remove(self) -> None:
        """Deletes the folder, if it exists."""
        if self.path.exists():
            # Delete the manifest first: a folder that is only partly deleted must not count as complete.
            self._manifest.unlink(missing_ok=True)
            self.path.rmtree()

    def _check_no_results(self, manifest: Mapping[str, Any], key: str, recorded: Any, current: Any) -> None:
        """Raises InputError if the folder holds results of another identity, which differs in `key`."""
        if manifest.get("complete") or any(set(files) - _NO_RESULTS for _, _, files in self.path.walk()):
            raise InputError(
                f"{self.path}: made by another configuration: {key} was {recorded!r} and is now {current!r}. "
                f"Use another --workdir, or start over with {self._redo}"
            )

    @property
    def _redo(self) -> str:
        """The flag that makes the artefact again from the start."""
        return f"--overwrite={self.job}:{self.name}" if self.name else f"--overwrite={self.job}"

    def _write(self, manifest: dict[str, Any]) -> None:
        manifest = {"format": FORMAT} | manifest
        order = ("complete", "format", "digest", "counts", "pushed", "identity", "seen", "versions")
        write_text(self._manifest, json.dumps({k: manifest[k] for k in order if k in manifest}, indent=2) + "\n")


def _first_difference(
    recorded: Any, current: Any, by_set: Sequence[str], path: str = ""
) -> tuple[str, Any, Any] | None:
    """Returns the path of the first entry that differs and both of its values, or None if there is none.

    In the mappings at the paths `by_set`, it compares only the entries that both mappings have.
    """
    if isinstance(recorded, Mapping) and isinstance(current, Mapping):
        keys = [*recorded, *(key for key in current if key not in recorded)]
        if path in by_set:
            keys = [key for key in recorded if key in current]
        below = (
            _first_difference(recorded.get(key), current.get(key), by_set, f"{path}.{key}" if path else key)
            for key in keys
        )
        return next(filter(None, below), None)
    return None if recorded == current else (path, recorded, current)


def digest(value: Any) -> str:
    """Returns a short hash of plain data, independent of the order of keys."""
    return hashlib.sha256(json.dumps(value, sort_keys=True).encode()).hexdigest()[:16]


def file_digest(path: epath.PathLike) -> str:
    """Returns the SHA-256 of a file's bytes. Raises InputError if there is no such file."""
    path = epath.Path(path)
    if not path.exists():
        raise InputError(f"{path}: no such file")
    sha = hashlib.sha256()
    with path.open("rb") as file:
        while block := file.read(1 << 20):
            sha.update(block)
    return sha.hexdigest()


def write_text(path: epath.Path, text: str) -> None:
    """Writes a file atomically. Raises InputError if the disk is full."""
    with atomic_write(path) as file:
        file.write(text.encode())


def read_json(path: epath.Path) -> Any:
    """Reads a JSON file. Raises InputError with its path if it is not JSON."""
    try:
        return json.loads(path.read_text())
    except json.JSONDecodeError as error:
        raise InputError(f"{path}: not JSON ({error}); remove the artefact's folder and run its job again") from None


def versions() -> dict[str, str]:
    """Returns the versions of this package, Python and the main libraries."""
    found = {"scotd_jax": __version__, "python": platform.python_version()}
    for library in _LIBRARIES:
        found[library] = importlib.metadata.version(library)
    return found
