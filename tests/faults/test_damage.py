"""Damaged files of finished artefacts are named and refused, whatever the kind of file and of damage."""

import json
import random
from pathlib import Path

import pytest

from scotd_jax import artefact as artefacts
from scotd_jax import config as c
from scotd_jax import digests, main, subcommands
from scotd_jax.errors import InputError
from scotd_jax.jobs.inspection.integrity import format_verification, verify
from scotd_jax.models.hf.export import export_pretrained
from scotd_jax.rationales.store import ResponseWriter, read_responses
from scotd_jax.records import Response
from scotd_jax.workdir import Workdir
from tests.helpers.hf_cases import CONFIGS, random_params, words

FILES = {  # job -> its kinds of files
    "sample": ["responses-00000-of-00002.jsonl", "responses-00001-of-00002.jsonl", "ledger.json", "release/README.md"],
    "build": ["train-00000-of-00001.tfrecord", "train-00000-of-00001.tfrecord.index", "train.json", "ledger.json"],
    "train": ["checkpoints/6/params/d/0a", "checkpoints/6/_CHECKPOINT_METADATA", "metrics.jsonl"],
    "evaluate": ["w.test.responses.jsonl", "results.json"],
    "export": ["model.safetensors", "config.json", "tokenizer.json"],
}


def finished(workdir: Path, job: str) -> artefacts.Artefact:
    """Returns a finished artefact with two lines of digits in every file."""
    artefact = Workdir(str(workdir)).artefact(job, "x")
    artefact.begin({"spec": 1})
    for name in FILES[job]:
        (artefact.path / name).parent.mkdir(parents=True, exist_ok=True)
        (artefact.path / name).write_text(f"{name}\n" + "0123456789" * 4 + "\n")
    artefact.finish({"rows": 2}, ["content"])
    return artefact


# Files that belong to no artefact, or that no job reads.
OTHER_FILES = [
    "config.json",
    "models.json",
    "report/index.html",
    "report/lm_eval/x/results.json",
    "students/x/profile/plugins/profile/run/host.trace.json.gz",
    "students/x/tensorboard/events.out.tfevents.1.host",
]


def finished_workdir(folder: Path) -> None:
    """Makes a work directory with files of every kind. Checkpoints, which are loaded too, have a test of their own."""
    for job in FILES:
        finished(folder, job)
    for name in OTHER_FILES:
        (folder / name).parent.mkdir(parents=True, exist_ok=True)
        (folder / name).write_text(f"{name}\n" + "0123456789" * 4 + "\n")
    workdir = Workdir(str(folder))
    workdir.record("config.json", "models.json", "report", *workdir.artefact("train", "x").unread_folders)


def flip(path: Path) -> None:
    data = bytearray(path.read_bytes())
    data[len(data) // 2] ^= 1
    path.write_bytes(data)


OTHER_CONTENT, OTHER_SIZE = "has other content than the job wrote", r"has \d+ bytes instead of \d+"
DAMAGES = {  # kind -> how a file is damaged, and what the message states
    "flipped": (flip, OTHER_CONTENT),
    "cut": (lambda path: path.write_bytes(path.read_bytes()[:-3]), OTHER_SIZE),
    "deleted": (lambda path: path.unlink(), "is missing"),
    "emptied": (lambda path: path.write_bytes(b""), OTHER_SIZE),
    "reordered": (
        lambda path: path.write_text("".join(reversed(path.read_text().splitlines(keepends=True)))),
        OTHER_CONTENT,
    ),
    "replaced by a folder": (lambda path: (path.unlink(), path.mkdir()), "is missing"),
}


@pytest.mark.parametrize("job", FILES)
def test_every_kind_of_damage_to_every_kind_of_file_is_named(tmp_path, job):
    artefact = finished(tmp_path, job)
    for name in FILES[job]:
        path = tmp_path / artefact.path / name
        original = path.read_bytes()
        for damage, message in DAMAGES.values():
            damage(path)
            with pytest.raises(InputError, match=rf"{name}: {message}\. .*--overwrite={job}:x"):
                Workdir(str(tmp_path)).checked(job, "x")
            if path.is_dir():
                path.rmdir()
            path.write_bytes(original)
    assert Workdir(str(tmp_path)).checked(job, "x").files == sorted(FILES[job])


def test_two_exchanged_files_are_refused(tmp_path):
    """Each file is one that the job wrote, but has the name of the other."""
    one, two = (finished(tmp_path, "sample").path / name for name in FILES["sample"][:2])
    content = one.read_bytes()
    one.write_bytes(two.read_bytes())
    two.write_bytes(content)
    with pytest.raises(InputError, match=r"has other content than the job wrote \(and 1 more files"):
        Workdir(str(tmp_path)).checked("sample", "x")


def test_files_that_the_job_did_not_write_are_not_read(tmp_path):
    artefact = finished(tmp_path, "sample")
    (artefact.path / "responses-00002-of-00002.jsonl").write_text("{}\n")
    assert artefact.files == sorted(FILES["sample"])


def test_files_that_may_change_later_are_not_recorded(tmp_path):
    """`wandb sync --clean` removes files of a finished training, which is no damage."""
    artefact = Workdir(str(tmp_path)).artefact("train", "x")
    artefact.begin({})
    for name in ("metrics.jsonl", "wandb/run-1/run-1.wandb", "mlflow_run.txt", "profile/trace", "tensorboard/events"):
        (artefact.path / name).parent.mkdir(parents=True, exist_ok=True)
        (artefact.path / name).write_text("1")
    artefact.finish({})
    assert artefact.files == ["metrics.jsonl"]


@pytest.mark.slow
@pytest.mark.parametrize("kind", DAMAGES)
def test_no_damage_to_any_file_passes_verify(tmp_path, kind, monkeypatch):
    monkeypatch.setattr("scotd_jax.training.checkpoints.verify_checkpoints", lambda folder: iter(()))
    finished_workdir(tmp_path)
    assert {result.state for result in verify(str(tmp_path))} == {"intact"}
    passed, files = [], [path for path in sorted(tmp_path.rglob("*")) if path.is_file()]
    assert len(files) == sum(map(len, FILES.values())) + len(FILES) + len(OTHER_FILES) + 1
    for path in files:
        original = path.read_bytes()
        damage, _ = DAMAGES[kind]
        damage(path)
        found = [result for result in verify(str(tmp_path)) if result.state != "intact"]
        if len(found) != 1 or str(path) not in found[0].details:
            passed.append(str(path.relative_to(tmp_path)))
        if path.is_dir():
            path.rmdir()
        path.write_bytes(original)
    assert passed == []


def test_files_without_their_manifest_are_refused(tmp_path):
    """They would be taken for those of the present config."""
    artefact = finished(tmp_path, "sample")
    artefact.manifest_path.unlink()
    with pytest.raises(InputError, match="has files but no manifest.json.*--overwrite=sample:x"):
        artefact.begin({"spec": 2})
    artefact.remove()
    assert artefact.begin({"spec": 2})


def test_any_flipped_bit_of_a_manifest_is_refused(tmp_path):
    artefact = finished(tmp_path, "sample")
    original = artefact.manifest_path.read_bytes()
    expected, rng = artefact.manifest(), random.Random(0)
    for position in range(0, len(original), 23):
        data = bytearray(original)
        data[position] ^= 1 << rng.randrange(8)
        artefact.manifest_path.write_bytes(data)
        try:
            assert artefact.manifest() == expected, position  # a blank that became another one
        except InputError:
            continue


def test_large_files_are_compared_in_blocks_and_completely_on_demand(tmp_path, monkeypatch):
    monkeypatch.setattr(digests, "SAMPLED_ABOVE", 1000)
    monkeypatch.setattr(digests, "SAMPLE_BYTES", 10)
    monkeypatch.setattr(digests, "SAMPLES", 3)
    artefact = Workdir(str(tmp_path)).artefact("sample", "x")
    artefact.begin({})
    path = artefact.path / "responses-00000-of-00001.jsonl"
    content = bytes(i % 251 for i in range(3000))

    def written(position: int) -> None:
        path.write_bytes(content[:position] + b"\xff" + content[position + 1 :])

    path.write_bytes(content)
    artefact.finish({})
    artefact.check_files(full=True)
    for position in (0, 1500, 2999):  # inside the first, the middle and the last block
        written(position)
        with pytest.raises(InputError, match="has other content"):
            artefact.check_files()
    written(700)
    artefact.check_files()
    with pytest.raises(InputError, match="has other content"):
        artefact.check_files(full=True)


def test_artefacts_of_the_format_without_digests_are_recorded_when_they_are_read(tmp_path, capfd):
    artefact = finished(tmp_path, "build")
    manifest = json.loads(artefact.manifest_path.read_text())
    for key in ("files", "checksum"):
        del manifest[key]
    artefact.manifest_path.write_text(json.dumps(manifest | {"format": 2}))
    digest = artefact.digest
    assert not artefact.begin({"spec": 1}), "it stays complete"
    Workdir(str(tmp_path)).checked("build", "x")
    assert "recorded no digests of files; recorded now" in capfd.readouterr().err
    assert artefact.digest == digest
    flip(artefact.path / "train.json")
    with pytest.raises(InputError, match="train.json: has other content"):
        Workdir(str(tmp_path)).checked("build", "x")


def test_damage_is_found_before_an_artefact_is_extended(tmp_path):
    """An evaluation to which a set is added keeps the files of the others."""
    artefact = Workdir(str(tmp_path)).artefact("evaluate", "x")
    artefact.begin({"questions": {"a": 1}}, ("questions",))
    (artefact.path / "a.responses.jsonl").write_text("1")
    artefact.finish({})
    (artefact.path / "a.responses.jsonl").write_text("2")
    with pytest.raises(InputError, match=r"a.responses.jsonl: has other content"):
        artefact.begin({"questions": {"a": 1, "b": 1}}, ("questions",))


def test_verify_command_lists_all_artefacts(tmp_path):
    for job in FILES:
        if job != "train":  # its checkpoints are loaded, too: test_damaged_checkpoints.py
            finished(tmp_path, job)
    Workdir(str(tmp_path)).artefact("sample", "begun").begin({})
    (tmp_path / "rationales/.notes").write_text("not an artefact")
    output = subcommands.verify([str(tmp_path)])
    assert output.status == subcommands.OK
    assert "intact      " in output.text
    flip(tmp_path / "exports/x/model.safetensors")
    (tmp_path / "corpora/x/manifest.json").write_text("{")
    assert subcommands.verify([str(tmp_path)]).status == subcommands.INPUT_ERROR
    states = {Path(result.artefact).name + " " + result.state for result in verify(str(tmp_path))}
    assert states == {"x intact", "begun incomplete", "x damaged"}
    text = format_verification(verify(str(tmp_path)))
    assert "exports/x/model.safetensors: has other content" in text
    assert text.endswith("5 artefacts, 2 damaged")
    for arguments in ([], [str(tmp_path), "more"]):
        with pytest.raises(InputError, match="expected one work directory"):
            subcommands.verify(arguments)
    with pytest.raises(InputError, match="no artefact; expected the --workdir"):
        verify(str(tmp_path / "nothing"))


def test_damaged_part_of_an_unfinished_set_is_refused(tmp_path):
    """A digit that was flipped in a text once reached the corpus."""
    writer = ResponseWriter(tmp_path)
    rows = [Response("q", i, f"answer {i}", None, None, None, "stop", -1.0, 3, "m", "") for i in range(2)]
    writer.write(rows)
    [part] = (tmp_path / "parts").iterdir()
    content = part.read_bytes()
    for damaged in (content.replace(b"answer 1", b"answer 7"), content.splitlines(keepends=True)[0], b""):
        part.write_bytes(damaged)
        for read in (ResponseWriter(tmp_path).written_keys, lambda: ResponseWriter(tmp_path).merge(["q"], 1)):
            with pytest.raises(InputError, match=rf"{part.name}: damaged, .*its rows will be sampled again"):
                read()
    part.write_bytes(content)
    assert list(read_responses(ResponseWriter(tmp_path).merge(["q"], 1))) == rows


def test_jobs_refuse_damaged_inputs(tmp_path):
    """A deleted response file once gave a smaller corpus with exit status 0."""
    sizes = {"train": 8, "dev": 4, "test": 4, "unseen": 4, "longer": 4, "gold": 8, "statements": 4}
    model = c.Model(
        architecture="opt-tiny", overrides={"hidden_size": 32, "num_attention_heads": 2}, tokenizer="task:w"
    )
    config = c.Config(
        tasks={"w": c.Task(options=sizes)},
        rationales={"gold": c.TaskSource(questions=("w.gold",))},
        corpora={"gold": c.Corpus(rationales=("gold",), decontaminate=0)},
        students={"student": c.Student(model=model, corpus="gold", training=c.Training(steps=1))},
    )
    arguments = c.plain(config), str(tmp_path)
    main.run(*arguments, ("sample",), (), "")
    path = tmp_path / "rationales/gold/responses-00001-of-00004.jsonl"
    content = path.read_bytes()
    path.unlink()
    with pytest.raises(InputError, match="responses-00001-of-00004.jsonl: is missing.*--overwrite=sample:gold"):
        main.run(*arguments, ("build",), (), "")
    path.write_bytes(content)
    main.run(*arguments, ("build",), (), "")
    flip(tmp_path / "corpora/gold/ledger.json")  # which only the report reads
    with pytest.raises(InputError, match="ledger.json: has other content.*--overwrite=build:gold"):
        main.run(*arguments, ("report",), (), "")
    with pytest.raises(InputError, match="ledger.json: has other content"):
        main.run(*arguments, ("sample", "build"), (), "", verify=True)


def test_export_is_read_back_before_old_weights_are_removed(tmp_path, monkeypatch):
    config = CONFIGS["opt"]
    arguments = tmp_path, config, random_params(config, 0), words(), "# A model\n"
    export_pretrained(*arguments, max_shard_size=10_000)
    old = {path.name for path in tmp_path.glob("model-*.safetensors")}
    assert len(old) > 1

    def damaged(folder, described, full):
        assert {path.name for path in tmp_path.glob("model*.safetensors")} == {*old, "model.safetensors"}
        flip(tmp_path / "model.safetensors")
        return digests.find_damage(folder, described, full)

    monkeypatch.setattr("scotd_jax.models.hf.export.find_damage", damaged)
    with pytest.raises(InputError, match="model.safetensors: read back, it has other content"):
        export_pretrained(*arguments)
    monkeypatch.undo()
    export_pretrained(*arguments)
    assert {path.name for path in tmp_path.glob("model*")} == {"model.safetensors"}
