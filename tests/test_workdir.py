"""An artefact is skipped, gone on with, or refused; never mixed."""

import json

import pytest

from scotd_jax.errors import InputError
from scotd_jax.workdir import Workdir


def test_life_of_an_artefact(tmp_path):
    artefact = Workdir(str(tmp_path)).artefact("sample", "teacher")
    identity = {"spec": {"n": 30, "temperature": 0.7}}
    assert artefact.begin(identity)
    assert not artefact.complete
    assert artefact.begin(identity), "a cut run goes on"
    with pytest.raises(InputError, match="run it first: --jobs=sample"):
        _ = artefact.digest
    artefact.finish({"rows": 3}, ["abc"])
    assert not artefact.begin(identity), "a finished one is skipped"
    manifest = json.loads((tmp_path / "rationales/teacher/manifest.json").read_text())
    assert manifest["complete"] is True
    assert manifest["counts"] == {"rows": 3}
    assert manifest["versions"]["jax"]
    assert artefact.digest == manifest["digest"]


def test_another_configuration_is_refused_by_name(tmp_path):
    artefact = Workdir(str(tmp_path)).artefact("sample", "teacher")
    artefact.begin({"spec": {"n": 30, "temperature": 0.7}})
    with pytest.raises(InputError, match=r"spec.temperature was 0.7 and is now 1.0.*--overwrite=sample:teacher"):
        artefact.begin({"spec": {"n": 30, "temperature": 1.0}})
    artefact.remove()
    assert artefact.begin({"spec": {"n": 30, "temperature": 1.0}})


def test_the_digest_covers_what_was_made(tmp_path):
    digests = set()
    for name, content in (("a", ["1"]), ("b", ["1"]), ("c", ["2"])):
        artefact = Workdir(str(tmp_path)).artefact("build", name)
        artefact.begin({"spec": 1})
        artefact.finish({}, content)
        digests.add(artefact.digest)
    assert len(digests) == 2


def test_a_broken_manifest_is_named(tmp_path):
    artefact = Workdir(str(tmp_path)).artefact("train", "s")
    artefact.begin({})
    (tmp_path / "students/s/manifest.json").write_text("{")
    with pytest.raises(InputError, match="students/s/manifest.json: not JSON"):
        artefact.begin({})
