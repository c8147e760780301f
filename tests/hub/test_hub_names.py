"""The table of short names, and its use in the configs of the papers."""

import re

import pytest

from configs import common, scicot, scotd
from scotd_jax import config as c
from scotd_jax.errors import InputError
from scotd_jax.hub.hub_names import HUB_NAMES, preset_name
from scotd_jax.models.registry import PRESETS


def test_every_preset_of_a_published_model_has_a_hub_name_of_its_own():
    published = {name for name in PRESETS if not name.endswith("-tiny")}
    assert {preset_name(name) for name in HUB_NAMES} == published <= HUB_NAMES.keys()
    assert len(set(HUB_NAMES.values())) == len(HUB_NAMES)
    assert all(re.fullmatch(r"[\w.-]+/[\w.-]+", name) for name in HUB_NAMES.values())


def test_configs_of_the_papers_use_hub_names():
    config = c.from_mapping(c.Config, scotd.get_config("task=obqa,student=opt-125m,teacher=opt-1.3b"))
    assert {student.model.path for student in config.students.values()} == {"facebook/opt-125m"}
    assert config.rationales["sampled"].model.path == "facebook/opt-1.3b"
    config = c.from_mapping(c.Config, scicot.get_config("student=flan-t5-small"))
    assert "google/flan-t5-small" in {student.model.path for student in config.students.values()}


def test_exported_students_are_pushed_to_repositories_of_their_own():
    config = c.from_mapping(c.Config, scotd.get_config("push=ann/obqa"))
    assert config.push_to_hub == {"export n30": "ann/obqa"}
    config = c.from_mapping(c.Config, scicot.get_config("push=ann/arc"))
    exported = [name for name, student in config.students.items() if student.export]
    assert config.push_to_hub == {f"export {name}": f"ann/arc-{name}" for name in exported}
    assert len(exported) > 1


def test_weights_is_a_folder_with_one_directory_per_name():
    config = c.from_mapping(c.Config, scotd.get_config("student=opt-125m,weights=models"))
    assert {student.model.path for student in config.students.values()} == {"models/opt-125m"}
    assert config.rationales["sampled"].model.path == "models/opt-13b"


@pytest.mark.parametrize("name", ["facebook/opt-125m@v1", "/models/mine", "../models/mine"])
def test_other_hub_names_and_folders_are_taken_as_they_are(name):
    assert common.model(name, common.parse_settings("")) == c.Model(path=name)


def test_unknown_short_name_is_refused():
    with pytest.raises(InputError, match=r"'opt-125' .*did you mean 'opt-125m'\?.*A Hub name \(OWNER/NAME\)"):
        common.model("opt-125", common.parse_settings(""))
