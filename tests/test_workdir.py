"""An artefact is skipped, resumed or refused; work of two configs or versions never mixes."""

import json

import pytest

from scotd_jax.errors import InputError
from scotd_jax.workdir import FORMAT, Workdir


def test_artefact_is_resumed_until_complete_and_then_skipped(tmp_path):
    artefact = Workdir(str(tmp_path)).artefact("sample", "teacher")
    identity = {"spec": {"n": 30, "temperature": 0.7}}
    assert artefact.begin(identity)
    assert not artefact.complete
    assert artefact.begin(identity), "an interrupted run is resumed"
    with pytest.raises(InputError, match="run it first: --jobs=sample"):
        _ = artefact.digest
    artefact.finish({"rows": 3}, ["abc"])
    assert not artefact.begin(identity), "a complete one is skipped"
    manifest = json.loads((tmp_path / "rationales/teacher/manifest.json").read_text())
    assert manifest["complete"] is True
    assert manifest["format"] == FORMAT
    assert manifest["counts"] == {"rows": 3}
    assert manifest["versions"]["jax"]
    assert artefact.digest == manifest["digest"]


def test_another_configuration_is_refused_with_the_first_difference(tmp_path):
    artefact = Workdir(str(tmp_path)).artefact("sample", "teacher")
    artefact.begin({"spec": {"n": 30, "temperature": 0.7}})
    with pytest.raises(InputError, match=r"spec.temperature was 0.7 and is now 1.0.*--overwrite=sample:teacher"):
        artefact.begin({"spec": {"n": 30, "temperature": 1.0}})
    artefact.remove()
    assert artefact.begin({"spec": {"n": 30, "temperature": 1.0}})


def test_digest_covers_identity_and_content(tmp_path):
    digests = set()
    for name, content in (("a", ["1"]), ("b", ["1"]), ("c", ["2"])):
        artefact = Workdir(str(tmp_path)).artefact("build", name)
        artefact.begin({"spec": 1})
        artefact.finish({}, content)
        digests.add(artefact.digest)
    assert len(digests) == 2


def test_broken_manifest_is_refused_with_its_path(tmp_path):
    artefact = Workdir(str(tmp_path)).artefact("train", "s")
    artefact.begin({})
    (tmp_path / "students/s/manifest.json").write_text("{")
    with pytest.raises(InputError, match="students/s/manifest.json: not JSON"):
        artefact.begin({})


@pytest.mark.parametrize(("recorded", "found"), [({}, 1), ({"format": FORMAT + 1}, FORMAT + 1)])
def test_work_directory_of_another_version_is_refused(tmp_path, recorded, found):
    artefact = Workdir(str(tmp_path)).artefact("train", "s")
    artefact.path.mkdir(parents=True)
    old = {"complete": True, "digest": "0", "identity": {}, "versions": {"scotd_jax": "0.0.9"}}
    (artefact.path / "manifest.json").write_text(json.dumps(old | recorded))
    message = rf"students/s: has work directory format {found}, written by scotd_jax 0\.0\.9.*--overwrite=train:s"
    for use in (lambda: artefact.begin({}), lambda: artefact.complete, lambda: artefact.digest):
        with pytest.raises(InputError, match=message):
            use()
    artefact.remove()
    assert artefact.begin({})
