"""Hostile and broken input ends in InputError, in every reader, and never in another exception or a hang."""

import contextlib
import json
import struct
from collections.abc import Callable
from pathlib import Path

import numpy as np
import pytest
from etils import epath

from scotd_jax import config as c
from scotd_jax.artefact import Artefact, is_folder_name
from scotd_jax.corpus.description import FORMAT, read_description
from scotd_jax.corpus.tfrecord import TFRecordShard, TFRecordWriter, index_path, write_offsets
from scotd_jax.errors import InputError
from scotd_jax.jobs.preparation.config_checks import check_config
from scotd_jax.models.hf.export import export_pretrained
from scotd_jax.models.hf.loading import load_config, load_pretrained
from scotd_jax.rationales.importers.imported import BadRow
from scotd_jax.rationales.importers.row_readers import read_json_lines
from scotd_jax.rationales.store import read_responses
from scotd_jax.rationales.stored_responses import StoredResponses
from scotd_jax.records import Response, to_json
from scotd_jax.tokenization import Tokenizer
from scotd_jax.training.metrics import read_metrics
from scotd_jax.workdir import Workdir
from tests.helpers.hf_cases import CONFIGS, random_params, words

RESPONSE = Response("q", 0, "text", None, "(a)", True, "stop", -1.5, 3, "m", "greedy")

# Documents that no reader accepts, whatever it expects.
BROKEN = {
    "empty": b"",
    "cut": b'{"a": "b',
    "not UTF-8": b'{"a": "\xff"}',
    "NUL": b'{"a": "\0"}',
    "lone surrogate": b'{"a": "\\ud800"}',
    "duplicate key": b'{"a": 1, "a": 2}',
    "NaN": b'{"a": NaN}',
    "infinity": b'{"a": -Infinity}',
    "overflow": b'{"a": 1e999}',
    "400 digits": b'{"a": ' + b"9" * 400 + b"}",
    "5000 digits": b'{"a": ' + b"9" * 5000 + b"}",
    "deep list": b'{"a": ' + b"[" * 100_000,
    "deep object": b'{"a": ' * 100_000,
    "a list": b"[]",
    "a number": b"0",
    "a text": b'"a"',
    "null": b"null",
    "blanks": b" \t",
    "text": b"hello",
}


def _read_manifest(folder: Path, content: bytes) -> None:
    artefact = Artefact(epath.Path(folder), "sample", "x")
    artefact.path.mkdir(parents=True, exist_ok=True)
    artefact.manifest_path.write_bytes(content)
    artefact.manifest()
    _ = artefact.complete
    _ = artefact.digest


def _read_responses(folder: Path, content: bytes) -> None:
    (folder / "r.jsonl").write_bytes(content + b"\n")
    list(read_responses([folder / "r.jsonl"]))


def _read_stored_responses(folder: Path, content: bytes) -> None:
    (folder / "r.jsonl").write_bytes(content + b"\n")
    with contextlib.closing(StoredResponses([epath.Path(folder / "r.jsonl")], {"q": 0})) as stored:
        stored.read(0)


def _read_metrics(folder: Path, content: bytes) -> None:
    (folder / "metrics.jsonl").write_bytes(content + b"\n")
    read_metrics(folder / "metrics.jsonl")


def _read_description(folder: Path, content: bytes) -> None:
    (folder / "train.json").write_bytes(content)
    read_description(folder, "train")


def _read_index(folder: Path, content: bytes) -> None:
    with TFRecordWriter(folder / "a.tfrecord") as writer:
        writer.write(b"data")
    index_path(folder / "a.tfrecord").write_bytes(content + b"\n" + struct.pack("<2Q", 0, 20))
    TFRecordShard(folder / "a.tfrecord")


def _read_models(folder: Path, content: bytes) -> None:
    (folder / "models.json").write_bytes(content)
    assert Workdir(str(folder)).pinned_models(), "an empty object is allowed"


def _read_model_config(folder: Path, content: bytes) -> None:
    (folder / "config.json").write_bytes(content)
    load_config(folder)


def _read_weight_index(folder: Path, content: bytes) -> None:
    _model(folder)
    (folder / "model.safetensors").unlink(missing_ok=True)
    (folder / "model.safetensors.index.json").write_bytes(content)
    load_pretrained(folder)


def _read_weights(folder: Path, content: bytes) -> None:
    _model(folder)
    (folder / "model.safetensors").write_bytes(struct.pack("<Q", len(content)) + content)
    load_pretrained(folder)


def _read_tokenizer(folder: Path, content: bytes) -> None:
    (folder / "tokenizer.json").write_bytes(content)
    Tokenizer.load(folder)


def _read_generation_config(folder: Path, content: bytes) -> None:
    _model(folder)
    (folder / "generation_config.json").write_bytes(content)
    Tokenizer.load(folder)


def _model(folder: Path) -> None:
    if not (folder / "config.json").exists():
        export_pretrained(folder, CONFIGS["opt"], random_params(CONFIGS["opt"], 0), words(), "")


READERS: list[Callable[[Path, bytes], None]] = [
    _read_manifest,
    _read_responses,
    _read_stored_responses,
    _read_metrics,
    _read_description,
    _read_index,
    _read_models,
    _read_model_config,
    _read_weight_index,
    _read_weights,
    _read_tokenizer,
    _read_generation_config,
]


def _marks(reader: Callable) -> list:
    """Readers that import transformers or export a model first are slow."""
    return [pytest.mark.slow] if reader in (_read_weight_index, _read_weights, _read_tokenizer) else []


@pytest.mark.parametrize(
    "reader", [pytest.param(r, marks=_marks(r), id=r.__name__.removeprefix("_read_")) for r in READERS]
)
def test_broken_documents_are_refused_by_every_reader(tmp_path, reader):
    for name, content in BROKEN.items():
        if reader is _read_metrics and name == "empty":
            continue  # a line without content is one of the next cases
        with pytest.raises(InputError) as error:
            reader(tmp_path, content)
        assert str(error.value), name


def changed(**fields) -> bytes:
    return json.dumps(json.loads(to_json(RESPONSE)) | fields).encode()


@pytest.mark.parametrize(
    ("fields", "message"),
    [
        ({"sample_index": -1}, "field 'sample_index' should be at least 0, found -1"),
        ({"sample_index": 2**63}, "field 'sample_index' should be"),
        ({"num_tokens": -5}, "field 'num_tokens' should be at least 0"),
        ({"logprob": 0.5}, "field 'logprob' should be a log-probability, at most 0, found 0.5"),
        ({"logprob": 10**18}, "field 'logprob' should be"),
        ({"finish_reason": "stopp"}, "field 'finish_reason' should be 'stop' or 'length', found 'stopp'"),
        ({"finish_reason": ""}, "field 'finish_reason'"),
        ({"correct": 1}, "field 'correct' should be bool"),
        ({"text": None}, "field 'text' should be str"),
        ({"text": ["a"]}, "field 'text' should be str"),
        ({"sample_index": 0.0}, "field 'sample_index' should be int"),
        ({"more": 1}, "unknown field 'more'"),
    ],
)
def test_values_that_no_job_writes_are_refused(tmp_path, fields, message):
    for reader in (_read_responses, _read_stored_responses):
        with pytest.raises(InputError, match=message) as error:
            reader(tmp_path, changed(**fields))
        assert "r.jsonl line 1" in str(error.value)
    _read_responses(tmp_path, changed(logprob=1e-4, text="\u202e\u0000 \U0001f600 \u2028"))  # rounding; any text


@pytest.mark.parametrize(
    "line",
    [b'{"loss": 1.0}', b'{"step": "3"}', b'{"step": 1, "loss": "low"}', b'{"step": 1, "loss": null}', b'{"step": 1.5}'],
)
def test_metrics_of_another_form_are_refused(tmp_path, line):
    with pytest.raises(InputError, match=r'metrics.jsonl line 2: expected \{"step": N, NAME: NUMBER, ...\}'):
        _read_metrics(tmp_path, b'{"step": 1, "loss": 2.5}\n' + line)


@pytest.mark.parametrize(
    ("field", "values"),
    [
        ("hidden_size", (0, -8, 2**40, 10**18, 1.5, "8", True)),
        ("num_hidden_layers", (0, -1, 2000)),
        ("num_attention_heads", (0, -2, 2**30)),
        ("vocab_size", (0, -1, 2**31)),
        ("max_position_embeddings", (0, -1, 2**62)),
        ("ffn_dim", (0, -1, 2**40)),
    ],
)
def test_absurd_sizes_are_refused_before_anything_is_built(tmp_path, field, values):
    valid = {**CONFIGS["opt"].to_hf()}
    for value in values:
        (tmp_path / "config.json").write_text(json.dumps(valid | {field: value}))
        with pytest.raises(InputError, match=field):
            load_config(tmp_path)


def test_corpus_description_of_another_form_is_refused(tmp_path):
    file = {"name": "train-00000-of-00001.tfrecord", "records": 1, "questions": 1, "bytes": 20, "ids": ""}
    valid = {"format": FORMAT, "balance": "questions", "counts": {}, "meta": {}, "files": [file]}
    _read_description(tmp_path, json.dumps(valid).encode())
    changes = [{"balance": 1}, {"counts": []}, {"meta": None}, {"files": {}}, {"files": [1]}, {"files": [{}]}]
    of_files = [{"records": -1}, {"bytes": 2**63}, {"questions": "1"}, {"name": "/etc/x.tfrecord"}, {"ids": 1}]
    of_files += [{"name": name} for name in ("../x.tfrecord", "a\0.tfrecord", "x.json", 3)]
    for change in [*changes, *({"files": [file | change]} for change in of_files)]:
        with pytest.raises(InputError, match="train.json: fields are missing or of a wrong type"):
            _read_description(tmp_path, json.dumps(valid | change).encode())


@pytest.mark.parametrize("offsets", [[0, 30, 20], [20, 0], [0, 10]])
def test_index_whose_offsets_do_not_increase_is_refused(tmp_path, offsets):
    with TFRecordWriter(tmp_path / "a.tfrecord") as writer:
        writer.write(b"data")
    head = {"format": "scotd_jax.tfrecord_index.1", "records": len(offsets) - 1, "bytes": 20}
    write_offsets(index_path(tmp_path / "a.tfrecord"), np.asarray(offsets).tolist(), head)
    with pytest.raises(InputError, match="offsets do not increase to the size of the file"):
        TFRecordShard(tmp_path / "a.tfrecord")


@pytest.mark.parametrize("name", ["/etc", "../x", "a/b", "a\\b", "..", ".", ".lock", "a\0b", "a\nb", "x" * 300])
def test_names_that_leave_their_folder_are_refused(tmp_path, name):
    """An absolute name once was a folder to write to, and one that --overwrite erased."""
    assert not is_folder_name(name)
    with pytest.raises(InputError, match="not the name of a folder"):
        Workdir(str(tmp_path)).artefact("train", name)
    config = c.Config(tasks={"w": c.Task()}, rationales={name: c.TaskSource(questions=("w.gold",))})
    with pytest.raises(InputError, match="config.rationales: the name .* becomes a folder"):
        check_config(config)


def test_broken_rows_of_imported_files_are_bad_rows(tmp_path):
    """They stop the import, or are counted with --skip-bad."""
    broken = {name: content for name, content in BROKEN.items() if name in ("deep list", "5000 digits", "not UTF-8")}
    (tmp_path / "rows.jsonl").write_bytes(b"\n".join([*broken.values(), b'{"a": 1}']))
    rows = list(read_json_lines(epath.Path(tmp_path / "rows.jsonl")))
    assert [isinstance(row, BadRow) for row in rows] == [*(True for _ in broken), False]
