"""The one error that is meant for the user."""


class InputError(Exception):
    """Bad input: says which file and record, what was expected and what to do.

    `main` prints it without a traceback and exits with status 2. Anything else that escapes is a bug of ours
    and keeps its traceback.
    """


class SizesError(InputError):
    """Sizes of batch and mesh that do not fit each other: the plan job says so of them, and looks for others."""
