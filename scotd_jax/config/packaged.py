"""Finds the config file that --config names: a packaged config by its name, any other file by its path.

The files lie in `configs/`, which is inside an installed package and beside the package in a checkout. They are not
imported as a package: each is loaded from its path, so a folder `configs` of the user cannot take its place.
"""

import ast
import pathlib

from scotd_jax.errors import InputError, nearest


def resolve_config(argument: str) -> str:
    """Returns the value of --config, with the name of a packaged config replaced by the path of its file.

    A value with a slash or the ending ".py" is a path. Any other value is the name of a packaged config, even if the
    current folder has a file of this name.

    Args:
      argument: NAME or PATH, and after a colon the settings, e.g. "scotd:task=quarel" or "mine/world.py".

    Raises:
      InputError: if there is no such packaged config or file.
    """
    name, colon, settings = argument.partition(":")
    if "/" in name or name.endswith(".py"):
        if not pathlib.Path(name).is_file():
            raise InputError(f"--config: no config file at {name!r}{_packaged_hint(pathlib.Path(name).stem)}")
        return argument
    known = _files()
    if name not in known:
        raise InputError(_unknown_name(name))
    return f"{known[name]}{colon}{settings}"


def packaged_configs() -> dict[str, str]:
    """Returns the names of the packaged configs, each with the first line of its docstring."""
    return {name: _description(file) for name, file in _files().items()}


def _files() -> dict[str, pathlib.Path]:
    """The packaged configs by name: all files of the folder that define `get_config`."""
    package = pathlib.Path(__file__).parents[1]
    folders = [folder for folder in (package / "configs", package.parent / "configs") if folder.is_dir()]
    return {file.stem: file for file in sorted(folders[0].glob("*.py")) if "def get_config(" in file.read_text()}


def _description(file: pathlib.Path) -> str:
    docstring = ast.get_docstring(ast.parse(file.read_text())) or ""
    return docstring.partition("\n")[0].removesuffix(".")


def _packaged_hint(name: str) -> str:
    return f"; the packaged config of this name is --config={name}" if name in _files() else ""


def _unknown_name(name: str) -> str:
    """The message for an unknown name: the nearest packaged config, all of them, and how to pass a path."""
    configs = packaged_configs()
    near = nearest(name, configs)
    width = max(map(len, configs))
    return "\n".join(
        [
            f"--config: no packaged config {name!r}{f'; did you mean {near!r}?' if near else ''}",
            *(f"  {known:{width}}  {description}" for known, description in configs.items()),
            f"Write a file of your own as a path: --config=./{name or 'NAME'}.py",
        ]
    )
