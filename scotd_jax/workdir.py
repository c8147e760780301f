"""The work directory: one folder per artefact (artefact.py), the last config, and the pinned models."""

import json
import os
from collections.abc import Iterator
from typing import Any

from etils import epath

from scotd_jax.artefact import FOLDERS, Artefact, is_folder_name
from scotd_jax.atomic import write_text
from scotd_jax.errors import InputError
from scotd_jax.strict_json import read_json

_MODELS = "models.json"  # pinned models of the Hub


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
        self._checked: set[epath.Path] = set()

    def artefact(self, job: str, name: str) -> Artefact:
        """Returns the artefact `name` of a job. The report has the empty name."""
        return Artefact(self.root, job, name, self._writes, self._dry_run)

    def checked(self, job: str, name: str) -> Artefact:
        """Returns a complete artefact whose files are those that its job wrote, for reading them.

        Compares each artefact once; files above `digests.SAMPLED_ABOVE` bytes only in part.

        Raises:
          InputError: if the artefact is incomplete, or a file is missing, cut, altered or replaced.
        """
        artefact = self.artefact(job, name)
        if artefact.path not in self._checked:
            artefact.check_files()
            self._checked.add(artefact.path)
        return artefact

    def artefacts(self) -> Iterator[Artefact]:
        """Yields all artefacts that have a manifest."""
        for job, folder in FOLDERS.items():
            names = [path.name for path in (self.root / folder).iterdir()] if (self.root / folder).is_dir() else []
            found = [self.artefact(job, name) for name in sorted(names) if is_folder_name(name)]
            yield from (artefact for artefact in found if artefact.manifest_path.exists())

    def save_config(self, config: dict[str, Any]) -> None:
        """Writes the config of the last command to DIR/config.json, for reference."""
        write_text(self.root / "config.json", json.dumps(config, indent=2) + "\n")

    def pinned_models(self) -> dict[str, str]:
        """Returns the Hub models that earlier commands used, as {"OWNER/NAME": "OWNER/NAME@COMMIT"}."""
        file = self.root / _MODELS
        if not file.exists():
            return {}
        models = read_json(file, "remove the file: names of models are then pinned to their newest commits")
        if not isinstance(models, dict) or not all(isinstance(name, str) for name in models.values()):
            raise InputError(f'{file}: expected {{"OWNER/NAME": "OWNER/NAME@COMMIT", ...}}; remove the file')
        return models

    def save_pinned_models(self, models: dict[str, str]) -> None:
        """Adds models to models.json, in the form that `pinned_models` returns."""
        if models:
            write_text(self.root / _MODELS, json.dumps(self.pinned_models() | models, indent=2) + "\n")
