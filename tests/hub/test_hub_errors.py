"""Errors of the Hub and of the machine while files are transferred: each states what to do."""

import errno
from unittest import mock

import pytest
from huggingface_hub import constants, errors

from scotd_jax.errors import InputError
from scotd_jax.hub.hub_errors import explained


def http_error(status: int) -> errors.HfHubHTTPError:
    return errors.HfHubHTTPError("", response=mock.Mock(status_code=status, headers={}))


@pytest.mark.parametrize(
    ("error", "message"),
    [
        (errors.LocalTokenNotFoundError(), "ann/tiny: there is no token; .*HF_TOKEN"),
        (http_error(403), r"refused access \(403\): .*HF_TOKEN"),
        (http_error(500), "answered with status 500; try again later"),
        (OSError(errno.ENOSPC, "full"), f"the disk of the cache {constants.HF_HUB_CACHE} is full; .*HF_HOME"),
        (PermissionError(errno.EACCES, "no"), "cannot be written; set HF_HOME to a folder of yours"),
        (ConnectionResetError(), r"broke off \(ConnectionResetError\); the same command downloads the missing files"),
    ],
    ids=lambda value: "" if isinstance(value, str) else repr(value),
)
def test_error_states_what_to_do(error, message):
    with pytest.raises(InputError, match=message), explained("ann/tiny"):
        raise error


def test_error_of_the_program_is_not_hidden():
    with pytest.raises(RuntimeError, match="ours"), explained("ann/tiny", access="write"):
        raise RuntimeError("ours")
