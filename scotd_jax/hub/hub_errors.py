"""Errors of the Hugging Face Hub as messages that state what to do."""

import contextlib
import errno
import os
from collections.abc import Iterator
from typing import Literal

from scotd_jax.errors import InputError, nearest
from scotd_jax.hub.hub_names import HUB_NAMES


@contextlib.contextmanager
def explained(repo: str, revision: str = "main", access: Literal["read", "write"] = "read") -> Iterator[None]:
    """Turns errors of huggingface_hub about a repository into InputErrors. Their messages omit the HTTP request."""
    from huggingface_hub import errors

    try:
        yield
    except (errors.HTTPError, errors.RevisionResolutionError, errors.HFValidationError, OSError) as error:
        raise InputError(f"{repo}: {_problem(error, repo, revision, access)}") from None
    except RuntimeError as error:  # huggingface_hub wraps every exception of an upload in one
        if not isinstance(error.__cause__, errors.HTTPError | OSError):
            raise
        raise InputError(f"{repo}: {_problem(error.__cause__, repo, revision, access)}") from None


def _problem(error: Exception, repo: str, revision: str, access: str) -> str:
    """Returns what is wrong and what to do."""
    from huggingface_hub import constants, errors

    page = f"{constants.ENDPOINT}/{repo}"
    status = error.response.status_code if isinstance(error, errors.HfHubHTTPError) else 0
    token_hint = _token_hint(access)
    match error:
        case errors.LocalTokenNotFoundError():
            return f"there is no token; {token_hint}"
        case errors.HfHubHTTPError() if access == "write" and status in (401, 403, 404):
            return f"may not be written to or created ({status}); {token_hint}"
        case errors.HFValidationError():
            return f"neither a local folder (in {os.getcwd()}) nor a valid name of a repository"
        case errors.GatedRepoError():
            return f"access is restricted: accept the terms at {page} with your account, and {token_hint}"
        case errors.RevisionNotFoundError():
            return f"has no branch, tag or commit {revision!r}; {page}/tree/main lists them"
        case errors.RepositoryNotFoundError():
            return (
                f"neither a local folder (in {os.getcwd()}) nor a repository at {constants.ENDPOINT} that you may "
                f"read; {_spelling_hint(repo)} If it is private, {token_hint}"
            )
        case errors.HfHubHTTPError() if status in (401, 403):
            return f"{constants.ENDPOINT} refused access ({status}): {token_hint}"
        case errors.HfHubHTTPError():
            return f"{constants.ENDPOINT} answered with status {status}; try again later"
        case OSError(errno=errno.ENOSPC | errno.EDQUOT):
            return f"the disk of the cache {constants.HF_HUB_CACHE} is full; free some space, or set HF_HOME"
        case errors.RevisionResolutionError() | errors.LocalEntryNotFoundError() | errors.OfflineModeIsEnabled():
            return _not_cached(repo, revision)
        case PermissionError():
            return f"the cache {constants.HF_HUB_CACHE} cannot be written; set HF_HOME to a folder of yours"
    verb = "downloads the missing files" if access == "read" else "pushes again"
    return f"the transfer broke off ({type(error).__name__}); the same command {verb}"


def _not_cached(repo: str, revision: str) -> str:
    from huggingface_hub import constants

    where = f"neither a local folder (in {os.getcwd()}) nor complete in the cache {constants.HF_HUB_CACHE}"
    if constants.is_offline_mode():
        return (
            f"{where}, and HF_HUB_OFFLINE is set; unset it, or run `hf download {repo} --revision={revision}` where "
            "there is a network, with the same HF_HOME"
        )
    return f"{where}, and {constants.ENDPOINT} cannot be reached; check the network and HF_ENDPOINT"


def _token_hint(access: str) -> str:
    from huggingface_hub import get_token

    if get_token() is None:
        return f"set HF_TOKEN to a token of your account that may {access} it (https://huggingface.co/settings/tokens)"
    return f"check that HF_TOKEN is a valid token of your account that may {access} it"


def _spelling_hint(repo: str) -> str:
    near = nearest(repo.lower(), (*HUB_NAMES, *HUB_NAMES.values()), cutoff=0.7) or nearest(
        repo.rpartition("/")[2].lower(), HUB_NAMES, cutoff=0.7
    )
    return f"did you mean {HUB_NAMES.get(near, near)!r}?" if near else "check the spelling."
