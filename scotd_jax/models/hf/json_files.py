"""Reads the JSON files of a Hugging Face folder."""

import json
from typing import Any

from etils import epath

from scotd_jax.errors import InputError


def read_object(file: epath.Path) -> dict[str, Any]:
    """Returns the JSON object in a file. Raises InputError if there is no such file, or if it is anything else."""
    if not file.exists():
        raise InputError(f"{file}: no such file; expected a Hugging Face folder with config.json and weights")
    try:
        values = json.loads(file.read_text())
    except (ValueError, RecursionError) as error:
        raise InputError(f"{file}: not JSON ({error})") from error
    if not isinstance(values, dict):
        raise InputError(f"{file}: expected a JSON object")
    return values
