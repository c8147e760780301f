"""One-line messages for errors that are raised while a config file and its overrides are loaded."""

import pathlib
import re
import sysconfig
import traceback

from scotd_jax import config as c
from scotd_jax.config.loading import RENAMED_CLASSES, RENAMED_KEYS, unknown_key
from scotd_jax.errors import InputError, did_you_mean

_PACKAGE = pathlib.Path(__file__).parents[1]
_PACKAGED = _PACKAGE / "configs"  # config files of an installed package
# Files in these folders are not config files, except those in _PACKAGED.
_LIBRARIES = (_PACKAGE, *(pathlib.Path(sysconfig.get_path(name)) for name in ("stdlib", "purelib", "platlib")))
_UNEXPECTED = re.compile(r"(?P<kind>\w+)\.__init__\(\) got an unexpected keyword argument '(?P<key>\w+)'")


def describe_config_error(error: BaseException, file: str) -> str | None:
    """Returns the message for an error of `absl.flags` parsing --config and --config.KEY=VALUE.

    Args:
      error: the exception.
      file: the config file of --config.

    Returns:
      The message, with file and line for an error inside a config file; None for errors of the flags
      themselves and for bugs of the package.
    """
    # ml_collections and absl replace the exception of a config file by their own; search the chain for the original.
    chain = [error]
    while (inner := chain[-1].__cause__ or chain[-1].__context__) is not None:
        chain.append(inner)
    error = next((inner for inner in reversed(chain) if _location(inner)), error)
    where = _location(error)
    if isinstance(error, SyntaxError):
        return f"{error.filename or file} line {error.lineno}: {error.msg}" if error.lineno else f"{file}: {error.msg}"
    if isinstance(error, InputError):
        return f"{where}: {error}" if where else str(error)
    if isinstance(error, AttributeError) and error.obj is c:
        name = str(error.name)
        hint = f"it is now {new}" if (new := RENAMED_CLASSES.get(name)) else did_you_mean(name, c.__all__)
        return f"{where}: scotd_jax.config has no {name!r}; {hint}"
    if where:
        return f"{where}: {_describe(error)}"
    if isinstance(error, OSError):
        return f"--config: {file!r} cannot be read ({chain[-1]})"
    if "get_config" in str(chain[-1]):
        return f"{file}: {chain[-1]}; expected a function get_config(arg=None), which receives the settings as text"
    return _describe_unknown_key(error) if isinstance(error, AttributeError | KeyError) else None


def _location(error: BaseException) -> str:
    """File and line of the config file that raised the error or called the library that did; "" if none did."""
    frames = [
        frame
        for frame in traceback.extract_tb(error.__traceback__)
        if frame.filename.endswith(".py") and _is_config_file(frame.filename)
    ]
    return f"{frames[-1].filename} line {frames[-1].lineno}" if frames else ""


def _is_config_file(name: str) -> bool:
    file = pathlib.Path(name)
    return file.is_relative_to(_PACKAGED) or not any(file.is_relative_to(folder) for folder in _LIBRARIES)


def _describe(error: BaseException) -> str:
    """The description of an error that a config file raised."""
    unexpected = _UNEXPECTED.match(str(error)) if isinstance(error, TypeError) else None
    kind = getattr(c, unexpected["kind"], None) if unexpected else None
    if unexpected and kind is not None:
        return f"{unexpected['kind']}.{unexpected['key']}: {unknown_key(kind, unexpected['key'])}"
    if isinstance(error, SystemExit):
        return "ends the program; a config file returns its config"
    return f"{type(error).__name__}: {error}" if str(error) else type(error).__name__


def _describe_unknown_key(error: AttributeError | KeyError) -> str:
    """The message for the error that ml_collections raises if KEY in --config.KEY=VALUE is unknown."""
    text = str(error).replace("\\n", " ").replace("\\", "").strip("\"'")
    key = re.search(r"\w+", text)
    renamed = [names[key[0]] for names in RENAMED_KEYS.values() if key and key[0] in names]
    hint = f"; this key is now called {renamed[0]!r}" if renamed else ""
    return f"--config.KEY=VALUE: no such key: {text}{hint}"
