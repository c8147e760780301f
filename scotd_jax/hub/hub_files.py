"""Files of models on the Hugging Face Hub, by name.

A path of the form OWNER/NAME or OWNER/NAME@REVISION is the name of a repository, unless there is a local file or folder
of that name. `pin` replaces its revision (a branch or tag) by the commit, so that a run reads one state of the
repository. `fetch` downloads files into the cache of huggingface_hub, which is shared with other programs.

huggingface_hub reads the environment: HF_HOME or HF_HUB_CACHE (the cache), HF_ENDPOINT, HF_HUB_OFFLINE, and HF_TOKEN. A
token is neither written nor printed.
"""

import os
import pathlib
import re
from collections.abc import Callable, Collection, Iterable, Mapping
from typing import Any, NamedTuple

from scotd_jax.errors import InputError
from scotd_jax.hub.download_progress import download_progress
from scotd_jax.hub.hub_errors import explained

# Returns the names of the files to read, from the names of all files of a folder or repository.
FileSelection = Callable[[Collection[str]], Collection[str]]

_PATH = re.compile(r"(?P<repo>\w[\w.-]*/\w[\w.-]*)(@(?P<revision>\w[\w./-]*))?", re.ASCII)
_COMMIT = re.compile(r"[0-9a-f]{40}")


class HubModel(NamedTuple):
    """A repository, OWNER/NAME, and its revision: a branch, a tag or a commit."""

    repo: str
    revision: str

    def __str__(self) -> str:
        return f"{self.repo}@{self.revision}"

    @property
    def is_pinned(self) -> bool:
        """Whether the revision is a commit."""
        return _COMMIT.fullmatch(self.revision) is not None


def is_hub_name(path: str) -> bool:
    """Returns whether a path has the form of a Hub name. There may still be a local folder of that name."""
    return _PATH.fullmatch(path) is not None


def is_repository(name: str) -> bool:
    """Returns whether a name has the form OWNER/NAME, without a revision."""
    return is_hub_name(name) and "@" not in name


def parse_hub_path(path: os.PathLike | str) -> HubModel | None:
    """Returns the repository that a path names; None for gs:// paths and for existing local files and folders."""
    text = os.fspath(path)
    match = _PATH.fullmatch(text)
    if match is None or os.path.exists(text):
        return None
    return HubModel(match["repo"], match["revision"] or "main")


def pin(path: str) -> str:
    """Returns a Hub name with the commit of its revision, OWNER/NAME@COMMIT; other paths are returned as they are.

    One request to the Hub; none if the revision is a commit. Offline, the commit is that of the cached revision.

    Raises:
      InputError: if there is no such repository or revision, or the Hub cannot be reached and the cache lacks it.
    """
    model = parse_hub_path(path)
    return path if model is None else str(_pinned(model))


def without_commit(path: str) -> str:
    """Returns OWNER/NAME for the pinned name OWNER/NAME@COMMIT, for display; other paths are returned as they are."""
    model = parse_hub_path(path)
    return path if model is None or not model.is_pinned else model.repo


def fetch(model: HubModel, select: FileSelection, quiet: bool = False) -> pathlib.Path:
    """Returns a local folder with the selected files of a repository, after downloading those that the cache lacks.

    Several processes may call it at once: each file is downloaded once per machine.

    Args:
      model: the repository.
      select: returns the names of the files to read.
      quiet: whether to print no progress.

    Raises:
      InputError: if the repository has no such files, may not be read, or cannot be reached.
    """
    model = _pinned(model)
    with explained(model.repo, model.revision):
        folder = _snapshot_folder(model)
        missing = _missing(folder, _listing(model), select, model)
        if missing:
            from huggingface_hub import snapshot_download

            with download_progress(model.repo, missing, quiet) as bars:
                names = [re.sub(r"([*?[])", r"[\1]", name) for name in missing]
                snapshot_download(model.repo, revision=model.revision, allow_patterns=names, tqdm_class=bars)  # pyrefly: ignore[no-matching-overload]
    return folder


def list_files(model: HubModel) -> Collection[str]:
    """Returns the names of the files of a repository, downloaded or not. Raises InputError if it cannot be reached."""
    model = _pinned(model)
    with explained(model.repo, model.revision):
        return _listing(model)


def missing_files(model: HubModel, select: FileSelection) -> Mapping[str, int]:
    """Returns the selected files that the cache lacks, with their sizes in bytes. Downloads nothing.

    Raises:
      InputError: as `fetch`.
    """
    model = _pinned(model)
    with explained(model.repo, model.revision):
        missing = _missing(_snapshot_folder(model), _listing(model), select, model)
        if missing:
            from huggingface_hub import HfApi

            HfApi().auth_check(model.repo)  # the listing of a gated repository is public, its files are not
    return missing


def _pinned(model: HubModel) -> HubModel:
    if model.is_pinned:
        return model
    from huggingface_hub import HfApi, constants

    with explained(model.repo, model.revision):
        offline = constants.is_offline_mode()
        commit = HfApi().resolve_revision(model.repo, revision=model.revision, local_files_only=offline).resolved
    return model._replace(revision=commit)


def _snapshot_folder(model: HubModel) -> pathlib.Path:
    """The folder of a commit in the cache; it exists once a file of it was downloaded."""
    from huggingface_hub import constants
    from huggingface_hub.file_download import repo_folder_name

    folder = pathlib.Path(constants.HF_HUB_CACHE).expanduser() / repo_folder_name(repo_id=model.repo, repo_type="model")
    return folder / "snapshots" / model.revision


def _listing(model: HubModel) -> Mapping[str, int]:
    """Returns the files of a commit with their sizes in bytes.

    The list comes from the cache or else from the Hub. Offline and without a cached list, it has the downloaded files.
    """
    from huggingface_hub import HfApi, constants, get_cached_repo_tree
    from huggingface_hub.errors import CachedRepoTreeNotFoundError
    from huggingface_hub.hf_api import RepoFile

    folder = _snapshot_folder(model)
    files: Iterable[Any]
    try:
        files = get_cached_repo_tree(model.repo, revision=model.revision)
    except CachedRepoTreeNotFoundError:
        if constants.is_offline_mode() and folder.is_dir():
            return {file.name: file.stat().st_size for file in folder.iterdir() if file.is_file()}
        files = HfApi().list_repo_tree(model.repo, recursive=True, revision=model.revision)
    return {file.path: file.size for file in files if isinstance(file, RepoFile)}


def _missing(
    folder: pathlib.Path, sizes: Mapping[str, int], select: FileSelection, model: HubModel
) -> Mapping[str, int]:
    try:
        selected = select(sizes)
    except InputError as error:
        raise InputError(f"{model}: {error}") from None
    return {name: sizes[name] for name in selected if not (folder / name).exists()}
