"""Pushes folders to repositories on the Hugging Face Hub."""

import pathlib
from collections.abc import Sequence
from typing import Literal

from scotd_jax.hub.hub_errors import explained

Kind = Literal["model", "dataset"]


def check_push(repo: str, kind: Kind, create: bool) -> None:
    """Checks that the token of the environment may write to a repository.

    A missing repository passes if `create` is false.

    Args:
      repo: the repository, OWNER/NAME.
      kind: its kind.
      create: whether to create it if it does not exist. It is then private.

    Raises:
      InputError: if there is no token, or it may not write to the repository or create it.
    """
    from huggingface_hub import HfApi, get_token
    from huggingface_hub.errors import GatedRepoError, LocalTokenNotFoundError, RepositoryNotFoundError

    api = HfApi()
    with explained(repo, access="write"):
        if get_token() is None:
            raise LocalTokenNotFoundError
        if create:
            api.create_repo(repo, repo_type=kind, private=True, exist_ok=True)
        try:
            api.auth_check(repo, repo_type=kind, write=True)
        except RepositoryNotFoundError as error:
            if create or isinstance(error, GatedRepoError):
                raise


def push_folder(folder: pathlib.Path, repo: str, kind: Kind, message: str, replaced: Sequence[str]) -> str:
    """Pushes the files of a folder as one commit, except manifest.json and hidden files.

    Args:
      folder: a local folder.
      repo: an existing repository, OWNER/NAME.
      kind: its kind.
      message: the commit message.
      replaced: patterns of files to remove from the repository if the folder does not contain them.

    Returns:
      The commit; the latest one if no file differs.

    Raises:
      InputError: if the repository cannot be written or reached.
    """
    from huggingface_hub import HfApi
    from huggingface_hub.utils import disable_progress_bars

    with explained(repo, access="write"), disable_progress_bars():
        commit = HfApi().upload_folder(
            repo_id=repo,
            folder_path=folder,
            repo_type=kind,
            commit_message=message,
            ignore_patterns=["manifest.json", ".*"],
            delete_patterns=list(replaced),
        )
    return commit.oid
