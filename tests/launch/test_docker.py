"""launch/docker: the Dockerfile fits the repository, and its installation is pinned for every platform.

The image is not built, since that needs a Docker daemon and a network. A fake `python` records the commands of the
installation.
"""

import json
import os
import re
import subprocess
import tomllib
from pathlib import Path

import pytest

ROOT = Path(__file__).parents[2]
FOLDER = ROOT / "launch" / "docker"
PROJECT = tomllib.loads((ROOT / "pyproject.toml").read_text())["project"]
DOCKERFILE = re.sub(r"\\\n|^#.*\n", "", (FOLDER / "Dockerfile").read_text(), flags=re.M)
INSTRUCTIONS = [line.split(maxsplit=1) for line in DOCKERFILE.splitlines() if line.strip()]


def values(instruction: str) -> list[str]:
    return [value for name, value in INSTRUCTIONS if name == instruction]


def test_copied_paths_exist_and_reach_the_builder():
    ignore = (FOLDER / "Dockerfile.dockerignore").read_text().splitlines()
    sent = [line.removeprefix("!") for line in ignore if line.startswith("!")]
    copied = [source for value in values("COPY") for source in value.split()[:-1]]
    assert ignore[1] == "*", "everything else stays outside"
    assert {"scotd_jax", "configs", "constraints.txt"} <= set(copied)
    for path in copied:
        assert (ROOT / path).exists(), path
        assert any(Path(path).is_relative_to(parent) for parent in sent), path
    assert all(any(Path(path).is_relative_to(parent) for path in copied) for parent in sent), "sent but not used"


def test_image_runs_the_command_without_root_and_writes_into_volumes():
    (entry,), (user,), (volumes,) = values("ENTRYPOINT"), values("USER"), values("VOLUME")
    assert json.loads(entry) == ["scotd-jax"]
    assert set(json.loads(entry)) <= set(PROJECT["scripts"])
    assert int(user) > 0
    (home,) = [value.partition("=")[2] for value in values("ENV") if value.startswith("HF_HOME=")]
    for path in (values("WORKDIR")[-1], home):
        assert any(Path(path).is_relative_to(volume) for volume in json.loads(volumes)), path
    order = [name for name, _ in INSTRUCTIONS]
    assert order.index("USER") > max(i for i, name in enumerate(order) if name in ("RUN", "COPY"))


def test_build_arguments_hold_no_secrets():
    names = {value.partition("=")[0] for value in values("ARG")}
    assert names == {"PYTHON", "PLATFORM", "TORCH_INDEX"}


@pytest.fixture
def install(tmp_path):
    """Runs install.sh with a fake `python`, and returns the process and the recorded commands."""
    fake = tmp_path / "python"
    fake.write_text(f'#!/bin/sh\necho "$PWD: $*" >> {tmp_path}/commands\nexit "${{STATUS:-0}}"\n')
    fake.chmod(0o755)

    def run(*arguments: str, **environment: str) -> tuple[subprocess.CompletedProcess[str], list[str]]:
        (tmp_path / "commands").write_text("")
        done = subprocess.run(
            [FOLDER / "install.sh", *arguments],
            env={**os.environ, "PATH": f"{tmp_path}:{os.environ['PATH']}", **environment},
            capture_output=True,
            text=True,
            check=False,
        )
        return done, (tmp_path / "commands").read_text().splitlines()

    return run


@pytest.mark.parametrize("platform", ["cpu", "cuda", "tpu"])
def test_installation_of_a_platform_is_pinned(install, platform):
    done, (requirements, torch, package) = install(platform, TORCH_INDEX="https://index/cpu")
    assert done.returncode == 0
    accelerator = "" if platform == "cpu" else f" -r requirements/{platform}.txt"
    files = f"-r requirements/base.txt -r requirements/gcs.txt{accelerator}"
    assert requirements == f"{ROOT}: -m pip install --require-hashes {files}"
    assert torch == f"{ROOT}: -m pip install --no-deps --index-url https://index/cpu -c constraints.txt torch"
    assert package == f"{ROOT}: -m pip install -c constraints.txt .[gcs,torch]"
    assert {"cpu", "gcs", "torch", platform} <= {"cpu", *PROJECT["optional-dependencies"]}


def test_installation_stops_at_an_unknown_platform_and_at_an_error_of_pip(install):
    for arguments in ((), ("gpu",)):
        done, commands = install(*arguments)
        assert done.returncode == 2
        assert "expected the platform cpu, cuda or tpu" in done.stderr
        assert commands == []
    done, commands = install("cpu", STATUS="1")
    assert done.returncode == 1
    assert len(commands) == 1


def test_every_package_is_pinned_once():
    pins = {}
    for name in ("constraints.txt", "requirements/constraints-cuda.txt"):
        for line in (ROOT / name).read_text().splitlines():
            if not line.startswith("#"):
                package, version, python = re.fullmatch(r"([\w.-]+)==([\w.]+)(; python_version .+)?", line).groups()
                key = re.sub(r"[-_.]+", "-", package).lower(), python
                assert key not in pins, f"{name}: {package} has the versions {pins[key]} and {version}"
                pins[key] = version
    assert ("nvidia-cudnn-cu13", None) in pins
