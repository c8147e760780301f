"""Reads the JSON files of a Hugging Face folder."""

from typing import Any

from etils import epath

from scotd_jax.errors import InputError
from scotd_jax.strict_json import loads


def read_object(file: epath.Path, shown: epath.PathLike | None = None) -> dict[str, Any]:
    """Returns the JSON object in a file.

    Args:
      file: the file.
      shown: the path that messages name, if `file` is a copy of it.

    Raises:
      InputError: if there is no such file, or it contains anything else.
    """
    shown = file if shown is None else shown
    if not file.exists():
        raise InputError(f"{shown}: no such file; expected a Hugging Face folder with config.json and weights")
    try:
        values = loads(file.read_bytes())
    except ValueError as error:
        raise InputError(f"{shown}: not JSON ({error})") from error
    if not isinstance(values, dict):
        raise InputError(f"{shown}: expected a JSON object")
    return values
