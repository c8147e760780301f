"""Runs with models of the Hub: pinned commits, downloads before the first step, the dry run, and pushes."""

import dataclasses
import json
import re

import numpy as np
import pytest
import transformers

import scotd_jax as scotd
from configs import common
from configs import scotd as scotd_config
from scotd_jax import config as c
from scotd_jax import main, subcommands
from scotd_jax.dry_run import format_preview, preview
from scotd_jax.errors import InputError
from scotd_jax.jobs import graph
from scotd_jax.jobs.graph import Step
from scotd_jax.jobs.preparation.config_checks import check_config
from scotd_jax.jobs.preparation.hub_models import fetch_models, files_to_fetch, pin_models, pins
from scotd_jax.models.hf import weight_map
from scotd_jax.models.hf.loading import load_pretrained
from scotd_jax.tasks.question_loader import QuestionLoader
from scotd_jax.workdir import Workdir
from tests.helpers.corpora import question, responses, write_questions
from tests.helpers.loopback_hub import TOKEN, connected

pytestmark = pytest.mark.usefixtures("fast_compilation")
SMALL_FILES = {"config.json", "generation_config.json", "tokenizer.json", "tokenizer_config.json"}
GREEDY = c.Sampling(temperature=0.0, max_new_tokens=4, batch_size=2)


@pytest.fixture
def config(tmp_path) -> c.Config:
    """A student that starts from ann/tiny, and a teacher ann/teacher with the tokenizer of ann/tiny."""
    questions = [question(i) for i in range(4)]
    write_questions(tmp_path / "t", train=questions, test=[question(0, "test")])
    rows = "".join(json.dumps(dataclasses.asdict(row)) + "\n" for row in responses(questions, 2))
    (tmp_path / "rows.jsonl").write_text(rows)
    training = c.Training(steps=1, batch_size=8, startup_check=False, optimizer=c.Optimizer(warmup_steps=0))
    return c.Config(
        tasks={"t": c.Task(kind="jsonl", path=str(tmp_path / "t"))},
        rationales={
            "imported": c.FileSource(questions=("t.train",), path=str(tmp_path / "rows.jsonl"), release="jsonl"),
            "teacher": c.ModelSource(
                questions=("t.test",), model=c.Model(path="ann/teacher", tokenizer="ann/tiny@v1"), sampling=GREEDY
            ),
        },
        corpora={"c": c.Corpus(rationales=("imported",))},
        students={"s": c.Student(c.Model(path="ann/tiny"), corpus="c", training=training, export=True)},
    )


@pytest.fixture
def teacher(hub):
    """Returns the hub, with a tag v1 of ann/tiny and with the repository ann/teacher."""
    repository = hub.repositories["ann/tiny"]
    repository.revisions["v1"] = repository.revisions["main"]
    hub.add("ann/teacher", repository.files)
    return hub


def pinned(hub, name: str) -> str:
    """Returns the name of a repository with its newest commit."""
    return f"{name}@{hub.repositories[name].revisions['main']}"


def test_names_are_pinned_once_and_recorded(teacher, config, tmp_path, capfd):
    workdir = Workdir(str(tmp_path / "run"))
    first = pin_models(config, workdir, graph.chain(config))
    assert first.students["s"].model.path == pinned(teacher, "ann/tiny")
    assert first.rationales["teacher"].model.path == pinned(teacher, "ann/teacher")
    assert first.rationales["teacher"].model.tokenizer == pinned(teacher, "ann/tiny")
    assert dataclasses.replace(first, students={}, rationales={}) == dataclasses.replace(
        config, students={}, rationales={}
    )
    assert len(teacher.take_requests()) == 3
    assert f"model ann/tiny: commit {pinned(teacher, 'ann/tiny')[9:]}" in capfd.readouterr().err
    workdir.save_pinned_models(pins(config, first))
    teacher.repositories["ann/tiny"].commit({"README.md": b"later"})
    assert pin_models(config, workdir, graph.chain(config)) == first
    assert pin_models(config, workdir, [Step("report", "")]) == first, "a command that reads no model has its commit"
    assert teacher.take_requests() == []
    assert pin_models(config, Workdir(str(tmp_path / "other")), graph.chain(config)).students != first.students


def test_tokenizers_of_tasks_are_pinned_and_downloaded_before_the_first_step(teacher, config, tmp_path):
    """They truncate questions: another tokenizer would give other questions, and a corpus of them."""
    tasks = {"t": dataclasses.replace(config.tasks["t"], max_tokens=9, tokenizer="ann/tiny")}
    config = dataclasses.replace(config, tasks=tasks, rationales={}, corpora={}, students={})
    workdir, steps = Workdir(str(tmp_path / "run")), [Step("report", "")]
    first = pin_models(config, workdir, steps)
    assert first.tasks["t"].tokenizer == pinned(teacher, "ann/tiny")
    assert pins(config, first) == {"ann/tiny": pinned(teacher, "ann/tiny")}
    [files] = files_to_fetch(first, steps).values()
    assert set(files) == SMALL_FILES
    fetch_models(first, steps)
    teacher.take_requests()
    assert len(QuestionLoader(first.tasks, 0).questions("t.train")) == 4
    assert teacher.take_requests() == []


def test_local_folder_of_a_name_is_stated(hub, config, tmp_path, monkeypatch, capfd):
    monkeypatch.chdir(tmp_path)
    (tmp_path / "ann/tiny").mkdir(parents=True)
    config = dataclasses.replace(config, rationales={})
    assert pin_models(config, Workdir("run"), [Step("train", "s")]) == config
    assert capfd.readouterr().err == "model ann/tiny: the local folder of this name, not the repository on the Hub\n"
    assert hub.take_requests() == []


def test_paths_that_no_step_reads_are_not_resolved(hub, config, tmp_path):
    """The report of a work directory needs no models, so their paths may be invalid on this machine."""
    steps = [Step("sample", "imported"), Step("report", "")]
    assert pin_models(config, Workdir(str(tmp_path / "run")), steps) == config
    assert hub.take_requests() == []


def test_damaged_record_of_commits_is_refused(config, tmp_path):
    (tmp_path / "models.json").write_text('{"ann/tiny": 5}')
    with pytest.raises(InputError, match=r"models.json: expected \{.*; remove the file"):
        pin_models(config, Workdir(str(tmp_path)), graph.chain(config))


@pytest.mark.slow
def test_only_what_steps_read_is_downloaded(teacher, config, tmp_path):
    students = {"s": dataclasses.replace(config.students["s"], eval_sets=("t.test",))}
    evals = {
        "before": c.EvalSpec("s", ("t.test",), checkpoint="initial"),
        "choices": c.EvalSpec(eval_sets=("t.test",), responses="teacher", read="choices"),
        "text": c.EvalSpec(eval_sets=("t.test",), responses="teacher"),
    }
    config = dataclasses.replace(config, students=students, evals=evals)
    config = pin_models(config, Workdir(str(tmp_path / "run")), graph.chain(config))
    tiny, weights = config.students["s"].model.path, {"model.safetensors"}

    def files(*steps):
        return {str(model): set(found) for model, found in files_to_fetch(config, [Step(*s) for s in steps]).items()}

    assert files(("sample", "imported"), ("report", ""), ("evaluate", "text")) == {}
    assert files(("build", "c")) == files(("evaluate", "s")) == files(("export", "s")) == {tiny: SMALL_FILES}
    assert files(("train", "s")) == files(("evaluate", "before")) == {tiny: SMALL_FILES | weights}
    teacher_files = {"config.json", "generation_config.json"} | weights
    teacher_path = config.rationales["teacher"].model.path
    assert files(("sample", "teacher")) == files(("evaluate", "choices"))
    assert files(("sample", "teacher")) == {teacher_path: teacher_files, tiny: SMALL_FILES}
    fetch_models(config, [Step("build", "c")])
    assert files(("train", "s"), ("build", "c")) == {tiny: weights}


@pytest.mark.slow
def test_dry_run_lists_the_files_and_downloads_nothing(teacher, config, tmp_path):
    steps = graph.chain(config)
    run = preview(config, str(tmp_path / "run"), steps, [], skip_bad=False)
    text = format_preview(run)
    tiny = pinned(teacher, "ann/tiny")
    assert f"run       train s          after the download of {tiny}" in text
    size = len(teacher.repositories["ann/tiny"].files["model.safetensors"])
    assert re.search(rf"to download from {tiny}: .*\n(  .*\n)*  +{size / 1000:.3g} kB  model.safetensors", text)
    assert not any("/resolve/" in request for request in teacher.take_requests())
    assert not (tmp_path / "run").exists()
    fetch_models(pin_models(config, Workdir(str(tmp_path / "run")), graph.chain(config)), steps)
    listed = {name for files in run.downloads.values() for name in files}
    downloaded = {r.rpartition("/")[2] for r in teacher.take_requests() if re.match("GET .*/resolve/", r)}
    assert downloaded == listed
    assert preview(config, str(tmp_path / "run"), steps, [], skip_bad=False).downloads == {}


def test_config_of_a_paper_lists_exactly_what_it_downloads(hub, tmp_path):
    """The hub serves tiny models under the names of the teacher and the students of SCoTD."""
    files = hub.repositories["ann/tiny"].files
    for name in ("facebook/opt-125m", "facebook/opt-13b"):
        hub.add(name, files | {"flax_model.msgpack": b"unread", "pytorch_model.bin": b"unread"})
    config_dict = scotd_config.get_config(f"task=obqa,student=opt-125m,data={common.INVENTED_DATA}")
    output = subcommands.dry_run(config_dict, str(tmp_path / "run"), (), (), "")
    assert output.status == subcommands.OK
    listed = re.findall(r"^(?:to download from (\S+): |  +\S+ k?B  (\S+)$)", output.text, re.MULTILINE)
    names = [repo or file for repo, file in listed]
    every = ["config.json", "generation_config.json", "tokenizer_config.json", "tokenizer.json", "model.safetensors"]
    repositories = [pinned(hub, name) for name in ("facebook/opt-13b", "facebook/opt-125m")]
    assert sorted(names) == sorted([*repositories, *every, *every])
    hub.take_requests()
    config = c.from_mapping(c.Config, config_dict)
    fetch_models(pin_models(config, Workdir(str(tmp_path / "run")), graph.chain(config)), graph.chain(config))
    requested = [r.removeprefix("GET /") for r in hub.take_requests() if re.match("GET .*/resolve/", r)]
    downloaded = {tuple(re.split("/resolve/[0-9a-f]+/", request)) for request in requested}
    assert downloaded == {(repo.partition("@")[0], name) for repo in repositories for name in every}
    assert len(requested) == len(downloaded)


def push_config(config, **pushes: str) -> c.Config:
    """Returns the config with these pushes; the key export_s stands for the step "export s"."""
    steps = {name.replace("_", " "): repo for name, repo in pushes.items()}
    return dataclasses.replace(config, rationales={"imported": config.rationales["imported"]}, push_to_hub=steps)


@pytest.mark.parametrize(
    ("pushes", "message"),
    [
        ({"export_other": "ann/s"}, "'export other' is not a step with files to push; did you mean 'export s'"),
        ({"train_s": "ann/s"}, "'train s' is not a step with files to push"),
        ({"export_s": "just-a-name"}, r"\['export s'\]: expected a repository, OWNER/NAME, found 'just-a-name'"),
        ({"export_s": "ann/s@v1"}, "expected a repository"),
    ],
)
def test_push_of_an_unknown_step_or_to_no_repository_is_refused(config, pushes, message):
    with pytest.raises(InputError, match=message):
        check_config(push_config(config, **pushes))


def run_all(config, tmp_path):
    main.run(c.config_dict(config), str(tmp_path / "run"), (), (), "")


def test_missing_or_insufficient_token_is_found_before_any_work(hub, config, tmp_path):
    config = push_config(config, export_s="ann/s")
    with pytest.raises(InputError, match="ann/s: there is no token; set HF_TOKEN to a token .* that may write it"):
        run_all(config, tmp_path)
    with connected(hub, tmp_path / "cache", token="hf_wrong"), pytest.raises(InputError, match="may not be written"):
        run_all(config, tmp_path)
    with connected(hub, tmp_path / "cache", token=TOKEN):
        with pytest.raises(InputError, match=r"bob/s: may not be written to or created \(403\); check that HF_TOKEN"):
            run_all(push_config(config, export_s="bob/s"), tmp_path)
        hub.can_write = False
        hub.add("ann/s", {}, private=True)
        with pytest.raises(InputError, match=r"ann/s: may not be written to or created \(403\)"):
            run_all(config, tmp_path)
        with pytest.raises(InputError, match=r"ann/s: may not be written"):
            preview(config, str(tmp_path / "run"), graph.chain(config), [], skip_bad=False)
    assert not (tmp_path / "run").exists()
    assert hub.repositories["ann/s"].files == {}


@pytest.mark.slow
@pytest.mark.filterwarnings("ignore:Use 'content=")  # by httpx, if huggingface_hub uploads without Xet
def test_chain_pushes_once_and_transformers_loads_the_export_by_name(hub, config, tmp_path, capfd):
    config = push_config(config, export_s="ann/s", build_c="ann/corpus", sample_imported="ann/rows")
    with connected(hub, tmp_path / "cache", token=TOKEN):
        run_all(config, tmp_path)
        assert all(hub.repositories[name].private for name in ("ann/s", "ann/corpus", "ann/rows"))
        exported = hub.repositories["ann/s"].files
        local = {path.name: path.read_bytes() for path in (tmp_path / "run/exports/s").iterdir()}
        del local["manifest.json"]
        assert exported == local
        card = exported["README.md"].decode()
        assert "from_pretrained('ann/s')" in card
        assert 'base_model: "ann/tiny"' in card
        assert {"README.md", "data/train-00000-of-00001.jsonl"} == set(hub.repositories["ann/rows"].files)
        corpus = hub.repositories["ann/corpus"].files
        assert sum(name.endswith(".tfrecord") for name in corpus) == 4
        assert "manifest.json" not in corpus
        manifest = json.loads((tmp_path / "run/exports/s/manifest.json").read_text())
        assert manifest["pushed"]["commit"] == hub.repositories["ann/s"].revisions["main"]
        student = json.loads((tmp_path / "run/students/s/manifest.json").read_text())
        assert student["identity"]["spec"]["model"]["path"] == pinned(hub, "ann/tiny")
        assert student["identity"]["model"]["weights"] == "model.safetensors"

        hub.take_requests()
        capfd.readouterr()
        run_all(config, tmp_path)
        assert hub.take_requests() == []
        assert capfd.readouterr().err.count("already pushed to ann/") == 3

        model = transformers.AutoModelForCausalLM.from_pretrained("ann/s")
        tokenizer = transformers.AutoTokenizer.from_pretrained("ann/s")
        ours = weight_map.flatten(load_pretrained("ann/s")[1])
        theirs = model.state_dict()["model.decoder.layers.0.fc1.weight"].numpy()
        np.testing.assert_array_equal(ours["layers/0/mlp/up/kernel"], theirs.T)
        loaded = scotd.load_pretrained("ann/s")
        assert loaded.tokenizer.prompt_ids("one two", "opt") == tokenizer("one two").input_ids
    written = [path.read_bytes() for path in tmp_path.rglob("*") if path.is_file()]
    assert not any(TOKEN.encode() in content for content in written)
