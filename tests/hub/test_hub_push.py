"""Pushes of folders with the real client: one commit per change, and explained errors."""

import pytest

from scotd_jax.errors import InputError
from scotd_jax.hub.hub_push import check_push, push_folder
from tests.helpers.loopback_hub import TOKEN, connected

pytestmark = pytest.mark.filterwarnings("ignore:Use 'content=")  # by httpx, if Xet is disabled


@pytest.fixture
def folder(tmp_path):
    target = tmp_path / "export"
    target.mkdir()
    files = {"config.json": "{}", "model.safetensors": "weights", "manifest.json": "{}", ".part": "hidden"}
    for name, text in files.items():
        (target / name).write_text(text)
    return target


@pytest.fixture
def writer(hub, tmp_path):
    """A hub, with the token of an account that may write to it."""
    with connected(hub, tmp_path / "cache", token=TOKEN):
        check_push("ann/new", "model", create=True)
        yield hub


def push(folder):
    return push_folder(folder, "ann/new", "model", "export s", ["*.safetensors"])


def test_new_repository_is_private_and_gets_the_files(writer, folder):
    commit = push(folder)
    repository = writer.repositories["ann/new"]
    assert repository.private
    assert repository.revisions["main"] == commit
    assert repository.files == {"config.json": b"{}", "model.safetensors": b"weights"}


def test_unchanged_files_make_no_commit_and_old_weights_are_replaced(writer, folder):
    first = push(folder)
    assert push(folder) == first
    (folder / "model.safetensors").rename(folder / "model-00001-of-00001.safetensors")
    assert push(folder) != first
    assert set(writer.repositories["ann/new"].files) == {"config.json", "model-00001-of-00001.safetensors"}


def test_check_without_creation_accepts_a_missing_repository(writer):
    check_push("ann/later", "dataset", create=False)
    assert "ann/later" not in writer.repositories


def test_refused_upload_is_explained(writer, folder):
    writer.can_store = False
    with pytest.raises(InputError, match=r"ann/new: may not be written to or created \(403\); check that HF_TOKEN"):
        push(folder)
    assert writer.repositories["ann/new"].files == writer.uploads == {}


def test_disappeared_repository_is_explained(writer, folder):
    del writer.repositories["ann/new"]
    with pytest.raises(InputError, match=r"ann/new: may not be written to or created \(404\)"):
        push(folder)
