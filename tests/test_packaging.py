"""The installed package: contents of the wheel, and packaged configs that are found by name from any folder."""

import json
import os
import subprocess
import sys
import zipfile
from pathlib import Path

import pytest
from hatchling.builders.wheel import WheelBuilder

from scotd_jax.config.packaged import packaged_configs, resolve_config
from scotd_jax.errors import InputError

ROOT = Path(__file__).parents[1]


@pytest.fixture(scope="module")
def wheel(tmp_path_factory) -> zipfile.ZipFile:
    """The wheel of this checkout. Building it writes nothing into the checkout."""
    (path,) = WheelBuilder(str(ROOT)).build(directory=str(tmp_path_factory.mktemp("wheel")), versions=["standard"])
    with zipfile.ZipFile(path) as archive:
        yield archive


def files(folder: str, pattern: str) -> set[str]:
    return {path.relative_to(ROOT).as_posix() for path in (ROOT / folder).rglob(pattern) if path.is_file()}


def test_wheel_has_the_package_with_its_data_and_the_configs(wheel):
    package = files("scotd_jax", "*.py")
    package |= files("scotd_jax/tasks/exemplars", "*.jsonl") | files("scotd_jax/reporting/templates", "*")
    package |= files("scotd_jax/distributed", "*.toml")
    configs = files("configs", "*.py") | files("configs/data", "*") | files("configs/lm_eval", "*.yaml")
    names = {name for name in wheel.namelist() if ".dist-info/" not in name}
    assert names == package | {f"scotd_jax/{name}" for name in configs}
    assert len(configs) > 30
    for name in names:
        source = ROOT / (name.removeprefix("scotd_jax/") if name.startswith("scotd_jax/configs/") else name)
        assert wheel.read(name) == source.read_bytes(), name


def test_wheel_declares_the_command_and_the_extras(wheel):
    (commands,) = [name for name in wheel.namelist() if name.endswith(".dist-info/entry_points.txt")]
    (metadata,) = [name for name in wheel.namelist() if name.endswith(".dist-info/METADATA")]
    assert "scotd-jax = scotd_jax.main:cli" in wheel.read(commands).decode()
    lines = wheel.read(metadata).decode().splitlines()
    assert {"Provides-Extra: cuda", "Provides-Extra: tpu", "License-File: LICENSE", "Version: 0.1.0"} <= set(lines)


def test_editable_installation_refers_to_the_checkout(tmp_path):
    (path,) = WheelBuilder(str(ROOT)).build(directory=str(tmp_path), versions=["editable"])
    with zipfile.ZipFile(path) as archive:
        (file,) = [name for name in archive.namelist() if ".dist-info/" not in name]
        assert archive.read(file).decode() == str(ROOT), "neither the package nor the configs are copied"


LOAD_ALL = """
import json, runpy
from scotd_jax import config
from scotd_jax.config.packaged import packaged_configs, resolve_config

paths = {name: resolve_config(name) for name in packaged_configs()}
loaded = [config.from_mapping(config.Config, runpy.run_path(path)["get_config"]("runlocal")) for path in paths.values()]
data = [task.path for config in loaded for task in config.tasks.values() if task.path]
print(json.dumps([paths, data]))
"""


def test_configs_of_the_wheel_load_in_a_folder_with_files_of_the_same_names(wheel, tmp_path):
    site, here = tmp_path / "site", tmp_path / "here"
    wheel.extractall(site)
    for name in ("configs/__init__.py", "common.py", "scotd.py", "world.py"):
        (here / name).parent.mkdir(parents=True, exist_ok=True)
        (here / name).write_text("raise ValueError('a file of the user')")
    done = subprocess.run(
        [sys.executable, "-c", LOAD_ALL],
        cwd=here,
        env=os.environ | {"PYTHONPATH": str(site)},
        stdout=subprocess.PIPE,
        text=True,
        check=True,
    )
    paths, data = json.loads(done.stdout)
    assert paths == {name: f"{site}/scotd_jax/configs/{name}.py" for name in packaged_configs()}
    assert data
    assert all(Path(path).is_dir() and path.startswith(f"{site}/scotd_jax/configs/data/") for path in data)


def test_a_bare_name_is_a_packaged_config_and_a_path_is_a_file(tmp_path, monkeypatch):
    monkeypatch.chdir(tmp_path)
    Path("world.py").write_text("")
    assert resolve_config("world") == f"{ROOT}/configs/world.py"
    assert resolve_config("scotd:task=quarel,weights=C:") == f"{ROOT}/configs/scotd.py:task=quarel,weights=C:"
    assert resolve_config("world.py:seed=1") == "world.py:seed=1"
    assert resolve_config("./world.py") == "./world.py"


def test_unknown_names_list_the_packaged_configs():
    with pytest.raises(InputError) as error:
        resolve_config("sctod:task=quarel")
    first, *known, last = str(error.value).splitlines()
    assert first == "--config: no packaged config 'sctod'; did you mean 'scotd'?"
    assert [line.split()[0] for line in known] == list(packaged_configs())
    assert all(len(line.split()) > 5 for line in known)
    assert last == "Write a file of your own as a path: --config=./sctod.py"
    with pytest.raises(InputError, match="no packaged config 'common'"):
        resolve_config("common")  # shared by configs, without get_config


def test_missing_files_name_the_packaged_config(tmp_path, monkeypatch):
    monkeypatch.chdir(tmp_path)
    with pytest.raises(InputError, match=r"no config file at 'configs/imdb.py'; the packaged config .* --config=imdb$"):
        resolve_config("configs/imdb.py:data=data")
    with pytest.raises(InputError, match=r"no config file at 'mine.py'$"):
        resolve_config("mine.py")
    Path("folder.py").mkdir()
    with pytest.raises(InputError, match="no config file at 'folder.py'"):
        resolve_config("folder.py")
