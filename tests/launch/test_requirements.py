"""requirements/: the hashed requirements are those of constraints.txt, complete, and of pypi.org's files alone."""

import importlib.metadata
import re
import tomllib
from pathlib import Path

import pytest
from packaging.markers import default_environment
from packaging.requirements import Requirement
from packaging.utils import canonicalize_name

ROOT = Path(__file__).parents[2]
PROJECT = tomllib.loads((ROOT / "pyproject.toml").read_text())["project"]
LINUX = {"sys_platform": "linux", "platform_system": "Linux", "os_name": "posix", "platform_machine": "x86_64"}
PYTHONS = {
    version: {**LINUX, "python_version": version, "python_full_version": f"{version}.0"}
    for version in ("3.11", "3.12", "3.13")
}


def entries(name: str) -> list[tuple[Requirement, list[str]]]:
    """The requirements of a file of requirements/ with their hashes."""
    text = (ROOT / "requirements" / f"{name}.txt").read_text().partition("\n")[2]
    blocks = re.split(r"^(?=[a-z])", text, flags=re.M)[1:]
    parsed = []
    for block in blocks:
        first, *rest = (line.strip().removesuffix(" \\") for line in block.splitlines())
        parsed.append((Requirement(first), rest))
    return parsed


def pins(requirements: list[Requirement], environment: dict[str, str]) -> dict[str, str]:
    """The versions that apply in an environment, by name."""
    return {
        canonicalize_name(requirement.name): str(requirement.specifier)
        for requirement in requirements
        if requirement.marker is None or requirement.marker.evaluate(environment)
    }


def constraints() -> list[Requirement]:
    lines = [
        line
        for name in ("constraints.txt", "requirements/constraints-cuda.txt")
        for line in (ROOT / name).read_text().splitlines()
    ]
    return [Requirement(line) for line in lines if line and not line.startswith("#")]


@pytest.mark.parametrize("name", ["base", "cuda", "gcs", "tpu"])
def test_every_requirement_is_pinned_with_hashes_and_names_no_host(name):
    text = (ROOT / "requirements" / f"{name}.txt").read_text()
    assert "://" not in text
    assert "--index" not in text
    assert "--find-links" not in text
    for requirement, hashes in entries(name):
        assert re.fullmatch(r"==[\w.]+", str(requirement.specifier)), requirement
        assert hashes, requirement
        assert all(re.fullmatch(r"--hash=sha256:[0-9a-f]{64}", line) for line in hashes), requirement


@pytest.mark.parametrize("python", PYTHONS)
@pytest.mark.parametrize("name", ["base", "cuda", "gcs", "tpu"])
def test_versions_are_those_of_the_constraints(name, python):
    expected = pins(constraints(), PYTHONS[python])
    found = pins([requirement for requirement, _ in entries(name)], PYTHONS[python])
    assert found
    assert {package: (version, expected.get(package)) for package, version in found.items()} == {
        package: (expected.get(package), expected.get(package)) for package in found
    }


def needed(requirement: Requirement, environment: dict[str, str], seen: set[str]) -> None:
    """Adds the installed packages that a requirement needs to `seen`."""
    name = canonicalize_name(requirement.name)
    if name in seen and not requirement.extras:
        return
    seen.add(name)
    for line in importlib.metadata.requires(name) or ():
        inner = Requirement(line)
        extras = requirement.extras or {""}
        if inner.marker is None or any(inner.marker.evaluate({**environment, "extra": extra}) for extra in extras):
            needed(inner, environment, seen)


def test_no_dependency_is_missing():
    environment = {**default_environment(), **LINUX}
    seen: set[str] = set()
    for line in PROJECT["dependencies"]:
        needed(Requirement(line), environment, seen)
    assert len(seen) > 50
    assert seen - set(pins([requirement for requirement, _ in entries("base")], environment)) == set()


def test_accelerators_add_their_libraries():
    assert "nvidia-cudnn-cu13" in pins([requirement for requirement, _ in entries("cuda")], PYTHONS["3.12"])
    assert "libtpu" in pins([requirement for requirement, _ in entries("tpu")], PYTHONS["3.12"])


def test_licences_of_all_packages_are_listed_as_the_packages_state_them():
    table = re.findall(r"^\| (.+?) \| (.+) \|$", (ROOT / "docs" / "dependencies.md").read_text(), flags=re.M)
    listed = {package: licence for licence, packages in table for package in packages.split(", ")}
    required = {
        name for file in ("base", "cuda", "gcs", "tpu") for name in pins([r for r, _ in entries(file)], PYTHONS["3.12"])
    }
    assert required - set(listed) == set()
    stated = {
        name: importlib.metadata.metadata(name).get("License-Expression")
        for name in required & {canonicalize_name(d.metadata["Name"]) for d in importlib.metadata.distributions()}
    }
    # NVIDIA's packages state a reference to the terms of the vendor. PyTorch's default wheel installs them.
    stated = {
        name: "terms of the vendor" if licence == "LicenseRef-NVIDIA-Proprietary" else licence
        for name, licence in stated.items()
        if licence
    }
    assert len(stated) > 20
    assert stated == {name: listed[name] for name in stated}
