"""One-line messages for errors that are raised while a config file and its overrides are loaded."""

import pathlib
import re
import traceback

from scotd_jax import config as c
from scotd_jax.config.loading import RENAMED_CLASSES, RENAMED_KEYS, unknown_key
from scotd_jax.errors import InputError, did_you_mean

_PACKAGE = str(pathlib.Path(__file__).parents[1])
# ml_collections reraises a TypeError of a config file with the traceback in the message.
_TYPE_ERROR = re.compile(
    r'File "(?P<file>[^"]+)", line (?P<line>\d+)(?!.*File ")(?P<rest>.*)TypeError: (?P<what>.*)', re.S
)
_UNEXPECTED = re.compile(r"(?P<kind>\w+)\.__init__\(\) got an unexpected keyword argument '(?P<key>\w+)'")


def describe_config_error(error: Exception) -> str:
    """Returns the message for an error of `absl.flags` parsing --config and --config.KEY=VALUE.

    Covers syntax errors, wrong fields and values of config dataclasses, unknown names, and overrides of unknown keys.
    Returns the text of other errors.
    """
    if isinstance(error, SyntaxError):
        return f"{error.filename} line {error.lineno}: {error.msg}"
    if isinstance(error, InputError):
        return f"{where}: {error}" if (where := _location(error)) else str(error)
    if isinstance(error, AttributeError | KeyError):
        return _describe_missing_name(error)
    if (found := _TYPE_ERROR.search(str(error))) and (unexpected := _UNEXPECTED.match(found["what"])):
        kind = getattr(c, unexpected["kind"], None)
        if kind is not None:
            problem = unknown_key(kind, unexpected["key"])
            return f"{found['file']} line {found['line']}: {unexpected['kind']}.{unexpected['key']}: {problem}"
    return str(error)


def _location(error: Exception) -> str:
    """File and line of the config file that raised the error; "" if no config file did."""
    frames = [
        frame
        for frame in traceback.extract_tb(error.__traceback__)
        if frame.filename.endswith(".py") and not frame.filename.startswith(_PACKAGE)
    ]
    if not frames or "site-packages" in frames[-1].filename:
        return ""
    return f"{frames[-1].filename} line {frames[-1].lineno}"


def _describe_missing_name(error: AttributeError | KeyError) -> str:
    where = _location(error)
    if isinstance(error, AttributeError) and error.obj is c:
        name = str(error.name)
        new = RENAMED_CLASSES.get(name)
        hint = f"it is now {new}" if new else did_you_mean(name, c.__all__)
        return f"{where}: scotd_jax.config has no {error.name!r}; {hint}"
    if where:
        return f"{where}: {type(error).__name__}: {error}"
    # ml_collections raises such an error if KEY in --config.KEY=VALUE is unknown.
    text = str(error).replace("\\n", " ").replace("\\", "").strip("\"'")
    key = re.search(r"\w+", text)
    renamed = [names[key[0]] for names in RENAMED_KEYS.values() if key and key[0] in names]
    hint = f"; this key is now called {renamed[0]!r}" if renamed else ""
    return f"--config.KEY=VALUE: no such key: {text}{hint}"
