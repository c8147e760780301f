"""An artefact is skipped, resumed or refused; work of two configs or versions never mixes."""

import json

import pytest

from scotd_jax.artefact import FORMAT, StopBeforeWork
from scotd_jax.errors import InputError
from scotd_jax.workdir import Workdir


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
    (artefact.path / "responses-00000-of-00001.jsonl").write_text("")
    with pytest.raises(InputError, match=r"spec.temperature was 0.7 and is now 1.0.*--overwrite=sample:teacher"):
        artefact.begin({"spec": {"n": 30, "temperature": 1.0}})
    artefact.remove()
    assert artefact.begin({"spec": {"n": 30, "temperature": 1.0}})


def test_folder_without_results_is_begun_anew(tmp_path, capfd):
    artefact = Workdir(str(tmp_path)).artefact("train", "s")
    artefact.begin({"spec": {"steps": 30}})
    (artefact.path / "parameters.txt").write_text("")
    (artefact.path / "checkpoints").mkdir()
    with pytest.raises(StopBeforeWork) as preview:
        Workdir(str(tmp_path), dry_run=True).artefact("train", "s").begin({"spec": {"steps": 40}})
    assert preview.value.state == "run"
    other = Workdir(str(tmp_path)).artefact("train", "s")
    assert other.begin({"spec": {"steps": 40}})
    assert "begun anew: spec.steps has changed" in capfd.readouterr().err
    with pytest.raises(InputError, match="another process with another configuration works in this folder"):
        artefact.finish({})
    (artefact.path / "checkpoints/7").mkdir()
    (artefact.path / "checkpoints/7/arrays").write_text("")
    with pytest.raises(InputError, match="spec.steps was 40 and is now 30"):
        artefact.begin({"spec": {"steps": 30}})


def test_change_for_which_an_artefact_is_remade(tmp_path):
    """An artefact is made again if only entries in `remade_for` have changed."""
    artefact = Workdir(str(tmp_path)).artefact("export", "s")
    artefact.begin({"student": 1, "evaluation": 1})
    (artefact.path / "model.safetensors").write_text("")
    artefact.finish({})
    assert artefact.begin({"student": 1, "evaluation": 2}, remade_for=("evaluation",))
    artefact.finish({})
    assert not artefact.begin({"student": 1, "evaluation": 2}, remade_for=("evaluation",))
    with pytest.raises(InputError, match="student was 1 and is now 2"):
        artefact.begin({"student": 2, "evaluation": 1}, remade_for=("evaluation",))


def test_entries_by_set_may_be_added_and_dropped_but_not_changed(tmp_path):
    """The entry `questions` has one value per question set; only changed values are refused."""
    workdir = Workdir(str(tmp_path))

    def begin(settings, **questions):
        return workdir.artefact("evaluate", "s").begin({"settings": settings, "questions": questions}, ("questions",))

    def finish(settings, **questions):
        artefact = workdir.artefact("evaluate", "s")
        assert artefact.begin({"settings": settings, "questions": questions}, ("questions",))
        (artefact.path / "results.json").write_text("{}")
        artefact.finish({})
        return artefact.digest

    first = finish(1, test="a", unseen="b")
    assert not begin(1, test="a", unseen="b")
    assert finish(1, test="a") != first
    assert not begin(1, test="a")
    for settings, questions in ((2, {"test": "a"}), (1, {"test": "c"}), (1, {"test": "a", "unseen": "c"})):
        with pytest.raises(InputError, match="made by another configuration"):
            begin(settings, **questions)
    assert not begin(1, test="a"), "a refused command changes nothing"
    assert begin(1, test="a", contrast="d")
    assert finish(1, test="a", unseen="b") == first


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


def test_commands_are_kept_once_in_their_order(tmp_path):
    workdir = Workdir(str(tmp_path))
    assert workdir.commands() == []
    for command in ("scotd-jax --config=world", "scotd-jax --config=world --jobs=report", "scotd-jax --config=world"):
        workdir.save_command(command)
    assert workdir.commands() == ["scotd-jax --config=world", "scotd-jax --config=world --jobs=report"]
    (tmp_path / "commands.json").write_text('{"a": 1}')
    with pytest.raises(InputError, match="commands.json: expected a list of command lines"):
        workdir.save_command("x")
