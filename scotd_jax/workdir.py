"""The work directory: one folder per artefact (artefact.py), the last config, the commands, and the pinned models.

DIR/manifest.json lists the files that no job reads, with sizes and digests: the config, the commands, the pinned
models, the report, profiles and TensorBoard files. The command `verify` compares them.
"""

import json
import os
from collections.abc import Iterator, Sequence
from typing import Any

from etils import epath

from scotd_jax.artefact import FOLDERS, Artefact, is_folder_name
from scotd_jax.atomic import write_text
from scotd_jax.buckets import prepare_bucket
from scotd_jax.digests import describe_files, digest, files_below, find_damage
from scotd_jax.errors import InputError
from scotd_jax.strict_json import loads, read_json

_MANIFEST = "manifest.json"
_CONFIG, _MODELS = "config.json", "models.json"  # the last config, and pinned models of the Hub
_COMMANDS = "commands.json"  # command lines that have run in the work directory


class Workdir:
    """A work directory: DIR/{rationales,corpora,students,evaluations,exports}/NAME and DIR/report."""

    def __init__(self, root: str, writes: bool = True, dry_run: bool = False):
        """Opens a work directory. The first write creates it.

        Args:
          root: its path, local or in a bucket (gs://...).
          writes: whether this process writes manifests; True on the primary process only.
          dry_run: whether `Artefact.begin` raises StopBeforeWork after its checks, so that no job does any work.
        """
        prepare_bucket(root)
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
        """Yields all artefacts."""
        for job, folder in FOLDERS.items():
            if job == "report":  # has no manifest of its own; see `record`
                continue
            names = [path.name for path in (self.root / folder).iterdir()] if (self.root / folder).is_dir() else []
            found = [self.artefact(job, name) for name in sorted(names) if is_folder_name(name)]
            yield from (artefact for artefact in found if artefact.path.is_dir())

    def save_config(self, config: dict[str, Any]) -> None:
        """Writes the config of the last command to DIR/config.json, for reference."""
        write_text(self.root / _CONFIG, json.dumps(config, indent=2) + "\n")
        self.record(_CONFIG)

    def commands(self) -> list[str]:
        """Returns the command lines that have run in the work directory, each once.

        Raises:
          InputError: if commands.json is damaged.
        """
        file = self.root / _COMMANDS
        found = (
            read_json(file, "remove the file: the report then shows the next commands only") if file.exists() else []
        )
        if not isinstance(found, list) or not all(isinstance(command, str) for command in found):
            raise InputError(f'{file}: expected a list of command lines ["scotd-jax ...", ...]; remove the file')
        return found

    def save_command(self, command: str) -> None:
        """Adds a command line to commands.json, unless it is there."""
        found = self.commands()
        if command not in found:
            write_text(self.root / _COMMANDS, json.dumps([*found, command], indent=2) + "\n")
            self.record(_COMMANDS)

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
            self.record(_MODELS)

    def record(self, *names: str) -> None:
        """Records sizes and digests of files that no job reads, and of those below folders; names are relative."""
        if not (self._writes and names):
            return
        found = describe_files(self.root, [file for name in names for file in self._files(name)])
        others = {name: value for name, value in self._recorded().items() if not _is_below(name, names)}
        files = dict(sorted((others | found).items()))
        text = json.dumps({"files": files, "checksum": digest(files)}, indent=2) + "\n"
        write_text(self.root / _MANIFEST, text)

    def check_recorded(self) -> int:
        """Compares the files of `record` completely, and returns their number; 0 for versions that recorded none.

        Raises:
          InputError: if one is missing, cut, altered or replaced; names it.
        """
        files = self._recorded()
        if damage := find_damage(self.root, files, full=True):
            name, problem = next(iter(damage.items()))
            others = f" (and {len(damage) - 1} more files are damaged)" if len(damage) > 1 else ""
            raise InputError(
                f"{self.root / name}: {problem}{others}. No job reads it; a command that runs jobs writes the config "
                "anew, and --jobs=report the report"
            )
        return len(files)

    def _recorded(self) -> dict[str, Any]:
        """The recorded files, {} if there are none. Raises InputError if the manifest is damaged."""
        file = self.root / _MANIFEST
        if not file.exists():
            return {}
        try:
            manifest = loads(file.read_bytes())
            files, checksum = manifest["files"], manifest["checksum"]
        except (ValueError, TypeError, KeyError, IsADirectoryError):
            files, checksum = {}, ""
        if digest(files) != checksum:
            raise InputError(f"{file}: damaged, it does not match its checksum; remove the file")
        return files

    def _files(self, name: str) -> list[str]:
        """Returns a file, or the files below a folder; none if there is neither."""
        path = self.root / name
        if path.is_dir():
            return [f"{name}/{file}" for file in files_below(path)]
        return [name] if path.exists() else []


def _is_below(name: str, folders: Sequence[str]) -> bool:
    return any(name == folder or name.startswith(f"{folder}/") for folder in folders)
