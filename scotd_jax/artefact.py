"""One artefact of a work directory: a folder with a manifest whose `complete: true` is the last write.

A manifest records the *identity* of its artefact: the part of the config that determines it, and the digests of the
artefacts that it was made from. A job skips a complete artefact of the same identity and resumes an incomplete one. It
refuses an artefact of another identity and names the first difference, so that results of two configs never mix in one
folder. If the folder has no results yet, the job restarts the artefact instead.

The manifest of a complete artefact also lists its files with sizes and digests. Other jobs read an artefact only after
`Workdir.checked` has compared them. The manifest itself has a checksum.
"""

import importlib.metadata
import json
import platform
import re
from collections.abc import Mapping, Sequence
from typing import Any, Literal

from etils import epath

from scotd_jax import __version__
from scotd_jax.atomic import write_text
from scotd_jax.digests import describe_files, digest, files_below, find_damage
from scotd_jax.errors import InputError
from scotd_jax.progress import log
from scotd_jax.strict_json import read_json

# Version of manifests and artefacts. Increase it when identities or files of artefacts change, so that folders of older
# versions are refused and not misread. Version 1 had other config keys; its manifests have no field `format`. Version 2
# had neither `files` nor `checksum`. Its artefacts are the same otherwise and may have cost days, so they are not
# refused: their files are recorded when they are first read.
FORMAT = 3
_READABLE_FORMATS = (2, FORMAT)

FOLDERS = {  # job -> folder of its artefacts
    "sample": "rationales",
    "score": "scores",
    "build": "corpora",
    "train": "students",
    "evaluate": "evaluations",
    "export": "exports",
    "report": "report",
}
_NO_RESULTS = {"manifest.json", "parameters.txt"}  # files that jobs write before any result
_UNREAD = ("profile", "tensorboard")  # no job reads them; `Workdir.record` lists their files
# Entries of the folder that are no results. Profiles and files of metric services may be removed or changed later.
_UNRECORDED = {"manifest.json", "parts", "damaged", *_UNREAD, "wandb", "mlflow_run.txt"}
_LIBRARIES = ("jax", "flax", "optax", "orbax-checkpoint", "grain", "transformers", "numpy")
_MANIFEST_KEYS = ("complete", "format", "digest", "counts", "pushed", "identity", "seen", "versions", "files")


class StopBeforeWork(Exception):  # noqa: N818 (not an error)
    """Ends a job of a dry run before any work.

    Attributes:
      state: what the job would do with its artefact: run from the start, resume, or nothing because it is complete.
    """

    def __init__(self, state: Literal["run", "resume", "complete"]):
        super().__init__(state)
        self.state = state


class Artefact:
    """One folder of a work directory, made by one job."""

    def __init__(self, root: epath.Path, job: str, name: str, writes: bool = True, dry_run: bool = False):
        """Opens an artefact, whose folder need not exist. `Workdir.artefact` passes the arguments.

        Args:
          root: the work directory.
          job: the job that makes the artefact.
          name: name of its folder; "" for the report.
          writes: whether this process writes the manifest.
          dry_run: whether `begin` raises StopBeforeWork after its checks.

        Raises:
          InputError: if `name` is not the name of a folder.
        """
        if name and not is_folder_name(name):
            raise InputError(f"{job} {name!r:.80}: not the name of a folder; use letters, digits, '.', '_' and '-'")
        self.job, self.name = job, name
        self._root, self.path = root, root / FOLDERS[job] / name
        self._writes, self._dry_run = writes, dry_run
        self.manifest_path = self.path / "manifest.json"
        self._identity: dict[str, Any] = {}  # set by `begin`

    def manifest(self) -> dict[str, Any]:
        """Returns the manifest, or {} if there is none.

        Raises:
          InputError: if the manifest is damaged or has the format of another version of scotd_jax.
        """
        if not self.manifest_path.exists():
            return {}
        manifest = read_json(self.manifest_path)
        if not isinstance(manifest, dict):
            raise InputError(f"{self.manifest_path}: expected a JSON object; start over with {self._redo}")
        if (found := manifest.get("format", 1)) not in _READABLE_FORMATS:
            recorded = manifest.get("versions")
            written_by = recorded.get("scotd_jax") if isinstance(recorded, dict) else "an unknown version"
            raise InputError(
                f"{self.path}: has work directory format {found}, written by scotd_jax {written_by}, but this is "
                f"scotd_jax {__version__} with format {FORMAT}; use another --workdir, or start over with {self._redo}"
            )
        is_intact = manifest.pop("checksum", None) == digest(manifest) if found == FORMAT else _is_plausible(manifest)
        if not is_intact:
            raise InputError(
                f"{self.manifest_path}: damaged, it does not match its checksum; restore it from a copy, or start over "
                f"with {self._redo}"
            )
        return manifest

    @property
    def complete(self) -> bool:
        """Whether the job has finished the artefact."""
        return bool(self.manifest().get("complete"))

    @property
    def digest(self) -> str:
        """Digest of the content, for the identities of derived artefacts. Raises InputError if it is incomplete."""
        if not self.complete:
            raise InputError(f"{self.path}: not complete; run it first: --jobs={self.job}")
        return self.manifest()["digest"]

    @property
    def files(self) -> list[str]:
        """Relative paths of the files of a complete artefact, sorted."""
        return sorted(self.manifest().get("files") or self._result_files())

    @property
    def unread_folders(self) -> list[str]:
        """Folders of this artefact with files that no job reads, relative to the work directory."""
        folders = [self.path / name for name in _UNREAD if (self.path / name).is_dir()]
        return [str(folder.relative_to(self._root)) for folder in folders]

    def check_files(self, full: bool = False) -> None:
        """Compares all files with their sizes and digests in the manifest.

        Args:
          full: whether to read large files completely, and not only some blocks of them.

        Raises:
          InputError: if the artefact is incomplete, or a file is missing, cut, altered or replaced; names it.
        """
        _ = self.digest  # raises InputError if the artefact is incomplete
        described = self.manifest().get("files")
        if described is None:
            if self._writes:
                log(f"{self.path}: finished by a version that recorded no digests of files; recorded now")
                self.record_files()
        elif damage := find_damage(self.path, described, full):
            name, problem = next(iter(damage.items()))
            others = f" (and {len(damage) - 1} more files of this artefact are damaged)" if len(damage) > 1 else ""
            raise InputError(
                f"{self.path / name}: {problem}{others}. Restore it from a copy, or make the artefact again with "
                f"{self._redo}"
            )

    def begin(self, identity: dict[str, Any], by_set: Sequence[str] = (), remade_for: Sequence[str] = ()) -> bool:
        """Opens the folder for work with this identity.

        Args:
          identity: plain data that determines the content of the artefact.
          by_set: keys of `identity` whose values are mappings, e.g. by question set. Commands may add and drop entries,
            because each entry has its own result files in the folder. The manifest records all entries seen so far, so
            that a dropped entry cannot return with another value.
          remade_for: keys of `identity` that may change; the artefact then starts over, which takes little time.

        Returns:
          False if the work is already complete, else True.

        Raises:
          InputError: if the folder holds results of another identity.
          StopBeforeWork: in a dry run.
        """
        self._identity = identity = json.loads(json.dumps(identity))  # JSON turns tuples into lists, as in the manifest
        manifest = self.manifest()
        if not manifest and self._has_results():
            raise InputError(
                f"{self.path}: has files but no manifest.json, so it is unknown which configuration made them. Restore "
                f"it from a copy, or start over with {self._redo}"
            )
        # In the mappings `by_set`, all entries seen so far count, and not only those of the last command.
        recorded = manifest.get("seen", manifest["identity"]) if manifest else {}
        seen = {key: recorded.get(key, {}) for key in by_set} if manifest else {}
        difference = _first_difference(manifest["identity"] | seen, identity, by_set) if manifest else None
        if difference:
            if difference[0] not in remade_for:
                self._check_no_results(manifest, *difference)
            if self._writes:
                log(f"  begun anew: {difference[0]} has changed")
            manifest, seen = {}, {}
        same = bool(manifest) and manifest["identity"] == identity
        if manifest.get("complete") and not same and not difference and not self._dry_run:
            self.check_files()  # the files of the other entries are kept
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
        self._write(
            manifest
            | {
                "counts": counts,
                "digest": digest([manifest["identity"], content]),
                "files": describe_files(self.path, self._result_files()),
                "complete": True,
            }
        )

    def record_files(self, folder: str = "") -> None:
        """Records sizes and digests of the files below a subfolder, which were written after `finish`; "" for all."""
        if self._writes:
            manifest, inside = self.manifest(), f"{folder}/" if folder else ""
            others = {name: value for name, value in manifest.get("files", {}).items() if not name.startswith(inside)}
            below = [name for name in self._result_files() if name.startswith(inside)]
            self._write(manifest | {"files": others | describe_files(self.path, below)})

    def record_push(self, pushed: dict[str, str]) -> None:
        """Records in the manifest where the content was pushed."""
        if self._writes:
            self._write(self.manifest() | {"pushed": pushed})

    def remove(self) -> None:
        """Deletes the folder, if it exists."""
        if self.path.exists():
            # Delete the manifest first: a folder that is only partly deleted must not count as complete.
            self.manifest_path.unlink(missing_ok=True)
            self.path.rmtree()

    def _check_no_results(self, manifest: Mapping[str, Any], key: str, recorded: Any, current: Any) -> None:
        """Raises InputError if the folder holds results of another identity, which differs in `key`."""
        if manifest.get("complete") or self._has_results():
            raise InputError(
                f"{self.path}: made by another configuration: {key} was {recorded!r} and is now {current!r}. "
                f"Use another --workdir, or start over with {self._redo}"
            )

    def _has_results(self) -> bool:
        """Whether the folder has any file that a job writes after the manifest."""
        names = [name.rpartition("/")[2] for name in files_below(self.path)]
        return any(name not in _NO_RESULTS and not name.startswith(".") for name in names)

    def _result_files(self) -> list[str]:
        """Relative paths of the files that belong to the result."""
        paths = [name.split("/") for name in files_below(self.path)]
        recorded = [parts for parts in paths if parts[0] not in _UNRECORDED]
        return ["/".join(parts) for parts in recorded if not any(part.startswith(".") for part in parts)]

    @property
    def _redo(self) -> str:
        """The flag that makes the artefact again from the start."""
        return f"--overwrite={self.job}:{self.name}" if self.name else f"--overwrite={self.job}"

    def _write(self, manifest: dict[str, Any]) -> None:
        manifest |= {"format": FORMAT}
        manifest = json.loads(json.dumps({key: manifest[key] for key in _MANIFEST_KEYS if key in manifest}))
        write_text(self.manifest_path, json.dumps(manifest | {"checksum": digest(manifest)}, indent=2) + "\n")


def _is_plausible(manifest: Mapping[str, Any]) -> bool:
    """Whether a manifest without a checksum has the fields of one, and no others that are compared."""
    kinds = {"identity": dict, "counts": dict, "seen": dict, "digest": str, "complete": bool}
    if not all(isinstance(manifest[key], kind) for key, kind in kinds.items() if key in manifest):
        return False
    return (
        "identity" in manifest
        and "files" not in manifest
        and not (manifest.get("complete") and "digest" not in manifest)
    )


def is_folder_name(name: str) -> bool:
    """Returns whether a name is that of a folder inside another one, on any system and in any bucket."""
    return re.fullmatch(r"[^/\\\x00-\x1f]{1,200}", name) is not None and not name.startswith(".")


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


def versions() -> dict[str, str]:
    """Returns the versions of this package, Python and the main libraries."""
    found = {"scotd_jax": __version__, "python": platform.python_version()}
    for library in _LIBRARIES:
        found[library] = importlib.metadata.version(library)
    return found
