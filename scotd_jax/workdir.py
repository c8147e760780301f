"""The work directory: one folder per artefact, each with a manifest whose `complete: true` is the last write.

An artefact knows what it was made of: its *identity* is the part of the config that made it and the digests of the
artefacts it was made from. The same identity again means: skip it if complete, go on with it if not. Another
identity is refused, naming the first difference, so that results of two configs never mix in one folder.
"""

import hashlib
import importlib.metadata
import json
import os
import platform
from typing import Any

from etils import epath

from scotd_jax import __version__
from scotd_jax.atomic import atomic_write
from scotd_jax.errors import InputError

_LIBRARIES = ("jax", "flax", "optax", "orbax-checkpoint", "grain", "transformers", "numpy")


def digest(value: Any) -> str:
    """Short hash of plain data: equal data, equal digest."""
    return hashlib.sha256(json.dumps(value, sort_keys=True).encode()).hexdigest()[:16]


def write_text(path: epath.Path, text: str) -> None:
    """Writes a whole file or nothing. Raises InputError when the disk is full."""
    with atomic_write(path) as file:
        file.write(text.encode())


def read_json(path: epath.Path) -> Any:
    """Raises InputError that names the file if it is not JSON."""
    try:
        return json.loads(path.read_text())
    except json.JSONDecodeError as error:
        raise InputError(f"{path}: not JSON ({error}); remove the artefact's folder and run its job again") from None


def versions() -> dict[str, str]:
    found = {"scotd_jax": __version__, "python": platform.python_version()}
    for library in _LIBRARIES:
        found[library] = importlib.metadata.version(library)
    return found


class Artefact:
    """One folder under the work directory, made by one job."""

    def __init__(self, root: epath.Path, job: str, kind: str, name: str, writes: bool = True):
        self.job, self.name, self.path = job, f"{kind}/{name}" if name else kind, root / kind / name
        self._writes = writes
        self._manifest = self.path / "manifest.json"

    def manifest(self) -> dict[str, Any]:
        return read_json(self._manifest) if self._manifest.exists() else {}

    @property
    def complete(self) -> bool:
        return bool(self.manifest().get("complete"))

    @property
    def digest(self) -> str:
        """What others that are made from this artefact record of it. Raises InputError if it is not complete."""
        if not self.complete:
            raise InputError(f"{self.path}: not complete; run it first: --jobs={self.job}")
        return self.manifest()["digest"]

    def begin(self, identity: dict[str, Any]) -> bool:
        """Opens the folder for the work of `identity`; False if that work is already complete.

        Raises InputError if the folder holds the work of another identity.
        """
        identity = json.loads(json.dumps(identity))
        manifest = self.manifest()
        if manifest and manifest["identity"] != identity:
            key, there, here = _first_difference(manifest["identity"], identity, "")
            raise InputError(
                f"{self.path}: made by another configuration: {key} was {there!r} and is now {here!r}. "
                f"Use another --workdir, or make it again: --overwrite={self.job}:{self.name.partition('/')[2]}"
            )
        if not manifest and self._writes:
            self._write({"complete": False, "identity": identity, "versions": versions()})
        return not manifest.get("complete", False)

    def finish(self, counts: dict[str, Any], content: Any = None) -> None:
        """The last write. `content` is what the digest covers besides the identity (file hashes, say)."""
        if not self._writes:
            return
        manifest = self.manifest()
        self._write(manifest | {"counts": counts, "digest": digest([manifest["identity"], content]), "complete": True})

    def remove(self) -> None:
        if self.path.exists():
            # The manifest goes first: a folder that is half removed must not look complete.
            self._manifest.unlink(missing_ok=True)
            self.path.rmtree()

    def _write(self, manifest: dict[str, Any]) -> None:
        order = ("complete", "digest", "counts", "identity", "versions")
        write_text(self._manifest, json.dumps({k: manifest[k] for k in order if k in manifest}, indent=2) + "\n")


class Workdir:
    """DIR/{rationales,corpora,students,evaluations,exports}/NAME and DIR/report."""

    KINDS: dict[str, str] = {  # job -> folder
        "sample": "rationales",
        "build": "corpora",
        "train": "students",
        "evaluate": "evaluations",
        "export": "exports",
        "report": "report",
    }

    def __init__(self, root: str, writes: bool = True):
        """`writes` is False on processes that leave manifests to another one."""
        # Checkpoints need an absolute path, and messages are clearer with one.
        self.root, self._writes = epath.Path(root if "://" in root else os.path.abspath(root)), writes

    def artefact(self, job: str, name: str) -> Artefact:
        return Artefact(self.root, job, self.KINDS[job], name, self._writes)

    def save_config(self, config: dict[str, Any]) -> None:
        write_text(self.root / "config.json", json.dumps(config, indent=2) + "\n")


def _first_difference(there: Any, here: Any, path: str) -> tuple[str, Any, Any]:
    if isinstance(there, dict) and isinstance(here, dict):
        for key in [*there, *(k for k in here if k not in there)]:
            if there.get(key) != here.get(key):
                return _first_difference(there.get(key), here.get(key), f"{path}.{key}" if path else key)
    return path, there, here


def file_digest(path: epath.PathLike) -> str:
    """sha256 of a file's bytes. Raises InputError if there is no such file."""
    path = epath.Path(path)
    if not path.exists():
        raise InputError(f"{path}: no such file")
    sha = hashlib.sha256()
    with path.open("rb") as file:
        while block := file.read(1 << 20):
            sha.update(block)
    return sha.hexdigest()
