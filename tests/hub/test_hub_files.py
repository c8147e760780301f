"""Models by their names on the Hub, with the real client and a hub on loopback: requests and error messages."""

import concurrent.futures
import fnmatch
import os
import re
import subprocess
import sys

import numpy as np
import pytest
from huggingface_hub import constants, file_download

import scotd_jax as scotd
from scotd_jax.errors import InputError
from scotd_jax.hub.download_progress import format_size
from scotd_jax.hub.hub_files import HubModel, fetch, missing_files, parse_hub_path, pin, without_commit
from scotd_jax.local_files import local_copy
from scotd_jax.models.hf import weight_map
from scotd_jax.models.hf.loading import load_config, load_pretrained
from scotd_jax.tokenization import Tokenizer
from tests.helpers.cli import ROOT
from tests.helpers.hf_cases import words
from tests.helpers.loopback_hub import TOKEN, connected

# The files of the repository ann/tiny that the package reads.
READ = {"config.json", "generation_config.json", "model.safetensors", "tokenizer.json", "tokenizer_config.json"}


def config_only(names):
    return [name for name in names if name == "config.json"]


def downloads(requests: list[str]) -> list[str]:
    """Returns the names of the files whose contents were requested."""
    return [request.rpartition("/")[2] for request in requests if re.match("GET .*/resolve/", request)]


@pytest.mark.parametrize("path", ["gs://bucket/model", "/models/mine", "../mine", "a/b/c", "opt-125m", "mine@v1", ""])
def test_other_paths_are_no_hub_names(path):
    assert parse_hub_path(path) is None
    assert pin(path) == path


def test_hub_name_has_an_optional_revision():
    assert parse_hub_path("google/t5-v1_1-base") == HubModel("google/t5-v1_1-base", "main")
    assert parse_hub_path("a/b@refs/pr/1") == HubModel("a/b", "refs/pr/1")


def test_displayed_name_has_no_commit():
    assert without_commit(f"a/b@{'0' * 40}") == without_commit("a/b") == "a/b"
    assert without_commit("/models/mine") == "/models/mine"


def test_local_folder_goes_before_a_name(hub, tiny_model, tmp_path, monkeypatch):
    """A local folder ann/tiny takes precedence over the repository."""
    monkeypatch.chdir(tmp_path)
    (tmp_path / "ann").mkdir()
    (tmp_path / "ann/tiny").symlink_to(tiny_model)
    assert pin("ann/tiny") == "ann/tiny"
    load_pretrained("ann/tiny")
    assert hub.take_requests() == []


def test_model_by_name_equals_its_folder_and_only_read_files_are_requested(hub, tiny_model, tmp_path):
    commit = hub.repositories["ann/tiny"].revisions["main"]
    model = scotd.load_pretrained("ann/tiny")
    requests = hub.take_requests()
    assert sorted(downloads(requests)) == sorted(READ)
    assert requests[0] == "GET /api/models/ann/tiny/revision/main"
    others = {request for request in requests[1:] if "/resolve/" not in request}
    assert others == {f"GET /api/models/ann/tiny/tree/{commit}"}
    for name, value in weight_map.flatten(load_pretrained(tiny_model)[1]).items():
        np.testing.assert_array_equal(weight_map.flatten(model.params)[name], value, err_msg=name)
    assert model.tokenizer.fingerprint() == words().fingerprint()
    load_pretrained(f"ann/tiny@{commit}")
    Tokenizer.load(f"ann/tiny@{commit}")
    assert hub.take_requests() == [], "all of a commit is in the cache"


def test_revision_is_read_as_it_was(hub):
    """A tag keeps its commit when the branch main moves on."""
    repository = hub.repositories["ann/tiny"]
    old = repository.revisions["main"]
    repository.revisions["v1"] = old
    repository.commit(repository.files | {"config.json": b'{"model_type": "new"}'})
    assert pin("ann/tiny@v1") == f"ann/tiny@{old}"
    assert load_config("ann/tiny@v1").kind == "opt"
    with pytest.raises(InputError, match="ann/tiny/config.json: model_type is 'new'"):
        load_config("ann/tiny")


FLAX, TORCH = "flax_model*msgpack*", "pytorch_model*bin*"


@pytest.mark.slow
@pytest.mark.parametrize("family", ["opt", "t5-v1.1"])
@pytest.mark.parametrize(
    ("patterns", "read"),
    [
        (("model.safetensors", FLAX, TORCH, f"sharded/{FLAX}"), "model.safetensors"),
        ((FLAX, TORCH), FLAX),
        ((f"sharded/{FLAX}", TORCH), FLAX),
        ((TORCH,), TORCH),
        ((f"sharded/{TORCH}",), TORCH),
    ],
)
def test_one_format_of_the_weights_is_downloaded(hub, family, patterns, read):
    folder = ROOT / "tests/models/hf/published" / family
    files = {file.name: file.read_bytes() for pattern in patterns for file in folder.glob(pattern)}
    hub.add(f"ann/{family}", files | {"config.json": (folder / "config.json").read_bytes()})
    found = weight_map.flatten(load_pretrained(f"ann/{family}")[1])
    expected = sorted(name for name in files if fnmatch.fnmatch(name, read))
    assert sorted(downloads(hub.take_requests())) == ["config.json", *expected]
    hub.add("ann/reference", {name: (folder / name).read_bytes() for name in ("config.json", "model.safetensors")})
    for name, value in weight_map.flatten(load_pretrained("ann/reference")[1]).items():
        assert found[name].tobytes() == value.tobytes(), name


def test_tokenizer_without_its_fast_form_is_read_from_vocabulary_and_merges(hub):
    files = hub.repositories["ann/tiny"].files
    slow = {
        "config.json": files["config.json"],
        "vocab.json": b'{"<pad>": 0, "</s>": 1, "a": 2}',
        "merges.txt": b"#version: 0.2\n",
    }
    hub.add("ann/slow", slow | {"model.safetensors": b"unread", "README.md": b"unread"})
    assert Tokenizer.load("ann/slow").size == 3
    assert sorted(downloads(hub.take_requests())) == ["config.json", "merges.txt", "vocab.json"]


@pytest.mark.parametrize(
    ("path", "message"),
    [
        ("facebook/opt-125", r"facebook/opt-125: neither a local folder \(in .*\) nor a repository at http.* that you "
         r"may read; did you mean 'facebook/opt-125m'\? If it is private, set HF_TOKEN"),
        ("ann/tiny@v9", "ann/tiny: has no branch, tag or commit 'v9'; http.*/ann/tiny/tree/main lists them"),
        ("ann/gated", "ann/gated: access is restricted: accept the terms at http.*/ann/gated .* set HF_TOKEN"),
        ("ann/private", "ann/private: neither .* check the spelling. If it is private, set HF_TOKEN"),
        ("a--b/c", r"a--b/c: neither a local folder \(in .*\) nor a valid name"),
        ("ann/dataset", "ann/dataset@[0-9a-f]{40}: expected model.safetensors, .*; found no weights"),
    ],
)  # fmt: skip
def test_repository_that_cannot_be_read_is_explained(hub, path, message):
    files = hub.repositories["ann/tiny"].files
    hub.add("ann/gated", files, gated=True)
    hub.add("ann/private", files, private=True)
    hub.add("ann/dataset", {"config.json": files["config.json"]})
    with pytest.raises(InputError, match=message):
        load_pretrained(path)


def test_token_is_sent_and_opens_private_repositories_but_is_never_written(hub, tmp_path, capfd):
    hub.add("ann/private", hub.repositories["ann/tiny"].files, private=True)
    hub.add("ann/gated", hub.repositories["ann/tiny"].files, gated=True)
    with connected(hub, tmp_path / "cache", token=TOKEN):
        load_pretrained("ann/private")
        with pytest.raises(InputError, match="restricted: .*, and check that HF_TOKEN is a valid token") as refused:
            load_pretrained("ann/gated")
    with connected(hub, tmp_path / "cache", token="hf_wrong"), pytest.raises(InputError, match="check that HF_TOKEN"):
        load_pretrained("ann/private@other")
    written = [path.read_bytes() for path in tmp_path.rglob("*") if path.is_file()]
    assert written
    assert not any(TOKEN.encode() in content for content in written)
    output = capfd.readouterr()
    assert TOKEN not in output.out + output.err + str(refused.value)


def test_environment_variables_select_hub_cache_and_token(hub, tmp_path):
    hub.add("ann/private", {"config.json": b"{}"}, private=True)
    code = "from scotd_jax.hub.hub_files import *; print(fetch(parse_hub_path('ann/private'), list))"
    settings = {"HF_ENDPOINT": hub.url, "HF_HOME": str(tmp_path / "home"), "HF_TOKEN": TOKEN, "HF_HUB_OFFLINE": "0"}
    other = {key: value for key, value in os.environ.items() if not key.startswith("HF_")}
    done = subprocess.run([sys.executable, "-c", code], env=other | settings, capture_output=True, text=True, cwd=ROOT)
    assert done.returncode == 0, done.stderr
    assert done.stdout.strip().startswith(f"{tmp_path}/home/hub/models--ann--private/snapshots/")
    assert TOKEN not in done.stdout + done.stderr
    assert not any(TOKEN.encode() in path.read_bytes() for path in tmp_path.rglob("*") if path.is_file())


def test_download_that_breaks_off_is_resumed(hub, monkeypatch):
    monkeypatch.setattr(file_download.time, "sleep", lambda seconds: None)
    monkeypatch.setattr(constants, "DOWNLOAD_CHUNK_SIZE", 1000)
    hub.broken["model.safetensors"] = 2
    with local_copy("ann/tiny", lambda names: ["model.safetensors"]) as folder:
        content = (folder / "model.safetensors").read_bytes()
    assert content == hub.repositories["ann/tiny"].files["model.safetensors"]
    assert downloads(hub.requests) == ["model.safetensors"] * 3
    first, second = hub.ranges  # whole chunks are kept
    assert 0 < first <= len(content) // 2 < second < len(content)


def test_interrupted_download_keeps_its_complete_files(hub, monkeypatch):
    monkeypatch.setattr(file_download.time, "sleep", lambda seconds: None)
    hub.broken["model.safetensors"] = 100
    with pytest.raises(InputError, match="ann/tiny: the transfer broke off .*; the same command downloads the missing"):
        load_pretrained("ann/tiny")
    hub.broken.clear()
    hub.take_requests()
    load_pretrained("ann/tiny")
    assert downloads(hub.take_requests()) == ["model.safetensors"]


def test_offline_uses_the_cache_and_states_what_it_lacks(hub, tmp_path):
    load_config("ann/tiny")
    hub.take_requests()
    with connected(hub, tmp_path / "cache", offline=True):
        assert load_config("ann/tiny").kind == "opt"
        with pytest.raises(InputError, match=r"ann/tiny: .* nor complete in the cache .*, and HF_HUB_OFFLINE is set"):
            load_pretrained("ann/tiny")
        with pytest.raises(InputError, match=r"run `hf download ann/other --revision=main` where there is a network"):
            load_config("ann/other")
    assert hub.take_requests() == []


def test_offline_without_a_listing_uses_the_files_in_the_cache(hub, tmp_path):
    """As after `hf download ann/tiny config.json model.safetensors`, which stores no listing."""
    for name in ("config.json", "model.safetensors"):
        file_download.hf_hub_download("ann/tiny", name)
    with connected(hub, tmp_path / "cache", offline=True):
        load_pretrained("ann/tiny")
        with pytest.raises(InputError, match="ann/tiny@.*: no tokenizer found"):
            Tokenizer.load("ann/tiny")


def test_unreachable_hub_is_explained(hub, monkeypatch):
    monkeypatch.setattr(constants, "ENDPOINT", "http://127.0.0.1:9")
    with pytest.raises(InputError, match="ann/tiny: .*, and http://127.0.0.1:9 cannot be reached; check the network"):
        load_config("ann/tiny")


def test_missing_files_are_listed_with_sizes_and_nothing_is_downloaded(hub, tmp_path):
    model = parse_hub_path(pin("ann/tiny"))
    size = len(hub.repositories["ann/tiny"].files["config.json"])
    assert missing_files(model, config_only) == {"config.json": size}
    assert downloads(hub.take_requests()) == []
    assert not list((tmp_path / "cache").rglob("config.json"))
    fetch(model, config_only)
    assert missing_files(model, config_only) == {}
    hub.add("ann/gated", {"config.json": b"{}"}, gated=True)
    with pytest.raises(InputError, match="ann/gated: access is restricted"):
        missing_files(parse_hub_path("ann/gated"), config_only)


def test_large_download_has_progress_in_megabytes(hub, capfd):
    hub.add("ann/large", {"config.json": b"{}", "model.safetensors": b"0" * 3_000_000})
    fetch(parse_hub_path("ann/large"), lambda names: ["model.safetensors"])
    assert re.search(r"fetching ann/large: 3 MB for model.safetensors in ", capfd.readouterr().err)
    fetch(parse_hub_path("ann/large"), config_only)
    assert capfd.readouterr().err == "fetched ann/large: config.json (2 B)\n"
    assert [format_size(size) for size in (999, 2_346, 251_400_000, 13_000_000_000)] == [
        "999 B", "2.35 kB", "251 MB", "13 GB",
    ]  # fmt: skip


def test_concurrent_fetches_download_a_file_once(hub):
    """Threads stand for processes on one machine, which share file locks in the cache."""
    hub.add("ann/large", {"config.json": b"{}", "model.safetensors": b"0" * 3_000_000})
    with concurrent.futures.ThreadPoolExecutor(3) as pool:
        folders = list(pool.map(lambda _: fetch(HubModel("ann/large", "main"), list), range(3)))
    assert len(set(folders)) == 1
    assert sorted(downloads(hub.requests)) == ["config.json", "model.safetensors"]
