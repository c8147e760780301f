"""Errors that are caused by the user's input, and the hints in their messages."""

import difflib
import itertools
from collections.abc import Collection, Iterable, Mapping
from typing import Any

MAX_KNOWN = 40  # maximum number of known names in a hint


class InputError(Exception):
    """Bad input. The message states what is wrong, where, what was expected and what to do.

    `main` prints the message without a traceback and exits with status 2. Any other exception that escapes is a bug in
    the package and keeps its traceback.
    """


class UnusableCorpusError(InputError):
    """No usable corpus can be built from the responses. The build job catches this error and removes the folder."""


class MissingResultsError(InputError):
    """The results of batch files are missing. A run then writes the requests of its other batch sources as well."""


class SizesError(InputError):
    """Batch and mesh sizes that do not fit together. The plan job catches it and suggests sizes that do."""


class FieldError(InputError):
    """A config field with a value that is not allowed. `config.from_mapping` adds the path of the section."""

    def __init__(self, section: str, field: str, problem: str):
        super().__init__(f"{section}.{field}: {problem}")
        self.field, self.problem = field, problem


def nearest(name: str, known: Iterable[str], cutoff: float = 0.5) -> str | None:
    """Returns the known name that is most similar to `name`, or None if none is similar enough.

    Args:
      name: the misspelled name.
      known: the names to choose from.
      cutoff: smallest similarity that counts, between 0 and 1 (`difflib.SequenceMatcher.ratio`).
    """
    return next(iter(difflib.get_close_matches(name, list(known), n=1, cutoff=cutoff)), None)


def did_you_mean(name: str, known: Iterable[str]) -> str:
    """Returns the hint for a message about an unknown name: the nearest known name, or else all of them."""
    known = list(known)
    near = nearest(name, known)
    return f"did you mean {near!r}?" if near else f"there are {list_names(known, MAX_KNOWN)}"


def list_names(names: Collection[str], limit: int = 8) -> str:
    """Returns names for a message, shortened: the first `limit`, and how many there are; "none" if there are none."""
    shown = ", ".join(f"{name[:40]}..." if len(name) > 40 else name for name in itertools.islice(names, limit))
    return f"{shown}, ... ({len(names):,} in all)" if len(names) > limit else shown or "none"


def lookup(entries: Mapping[str, Any], name: str, where: str) -> Any:
    """Returns entries[name]. Raises InputError with the nearest name if there is no such entry."""
    if name not in entries:
        raise InputError(f"{where}: {name!r} is not defined; {did_you_mean(name, entries)}")
    return entries[name]
