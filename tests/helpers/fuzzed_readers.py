"""All readers of files and answers, each with a valid input, for fuzzers (tests/faults/test_fuzz.py)."""

import contextlib
import dataclasses
import gzip
import io
import json
import struct
import urllib.request
from collections.abc import Callable, Iterator
from pathlib import Path
from typing import Any

from etils import epath

from scotd_jax import config as c
from scotd_jax.artefact import Artefact
from scotd_jax.corpus.description import FORMAT, read_description
from scotd_jax.corpus.tfrecord import TFRecordShard, TFRecordWriter
from scotd_jax.errors import InputError
from scotd_jax.jobs.generation.servers.client import ServerClient
from scotd_jax.jobs.predictions.prediction_files import read_predictions
from scotd_jax.jobs.predictions.question_files import load_questions
from scotd_jax.models.hf.loading import load_config, load_pretrained
from scotd_jax.rationales.importers.imported import SourceRow, parse_rows
from scotd_jax.rationales.importers.openai import parse_choices
from scotd_jax.rationales.importers.registry import IMPORTERS
from scotd_jax.rationales.store import read_responses
from scotd_jax.rationales.stored_responses import StoredResponses
from scotd_jax.records import Question, Response, to_json
from scotd_jax.strict_json import read_json
from scotd_jax.tasks.jsonl import jsonl
from scotd_jax.tasks.row_files import read_rows
from scotd_jax.tokenization import Tokenizer
from scotd_jax.training.checkpoint_record import CheckpointRecord, read_record
from scotd_jax.training.metrics import read_metrics
from scotd_jax.workdir import Workdir
from tests.helpers.hf_cases import CONFIGS, words
from tests.helpers.published_folders import PUBLISHED
from tests.rationales.importers.test_broken_rows import GOOD, write_files
from tests.rationales.importers.test_importers import importing


@dataclasses.dataclass(frozen=True)
class Reader:
    """A reader and a valid input.

    Attributes:
      document: the content to mutate.
      read: reads the mutated content; it may write files into the folder, which is the same for all inputs.
      prepare: writes other files that the reader needs into the folder.
      wrap: encodes the mutated content, as compression does.
    """

    document: bytes
    read: Callable[[Path, bytes], Any]
    prepare: Callable[[Path], Any] = lambda folder: None
    wrap: Callable[[bytes], bytes] = lambda content: content


def read_file(name: str, read: Callable[[Path], Any], document: bytes, **options: Any) -> Reader:
    """A reader of the file of this name."""

    def write_and_read(folder: Path, content: bytes) -> None:
        (folder / name).write_bytes(content)
        result = read(folder / name)
        if isinstance(result, Iterator):
            for _ in result:
                pass

    return Reader(document, write_and_read, **options)


def lines(*rows: Any) -> bytes:
    return b"".join(json.dumps(row).encode() + b"\n" for row in rows)


# --- valid documents -------------------------------------------------------------------------------------------------

QUESTION = Question("q/1", "w", "train", "What barks? (a) a dog (b) a cat", ("a dog", "a cat"), "(a)", "g", "c", ("t",))
ANSWER = "Dogs bark. So the answer is: (a)"
RESPONSES = "".join(
    to_json(Response("q", i, ANSWER, "Dogs bark.", "(a)", True, "stop", -1.5, 9, "m", "greedy")) + "\n" for i in (0, 1)
).encode()
PLAIN = [{"id": "q1", "question": "What barks?", "choices": ["dog", "cat"], "answer": "(a)", "context": "c"}]
LM_EVAL = {
    "doc_id": 0,
    "doc": {"question": "What barks?", "answerKey": "A"},
    "arguments": {
        "gen_args_0": {"arg_0": "Q: ...", "arg_1": " cat"},
        "gen_args_1": {"arg_0": "Q: ...", "arg_1": " dog"},
    },
    "filtered_resps": [["-1.5", "True"], ["-2.5", "False"]],
    "filter": "none",
    "acc": 1.0,
}
REPLY = {
    "id": "r",
    "model": "m",
    "usage": {"completion_tokens": 7},
    "choices": [
        {
            "index": i,
            "message": {"role": "assistant", "content": ANSWER, "reasoning_content": "Hm."},
            "logprobs": {"content": [{"token": "a", "logprob": -0.5}]},
            "finish_reason": "stop",
        }
        for i in (0, 1)
    ],
}
METRICS = lines({"step": 1, "loss": 2.5, "tokens": 12.0}, {"step": 2, "loss": 2.25, "tokens": 14.0})
DESCRIPTION = {
    "format": FORMAT,
    "balance": "questions",
    "counts": {"kept": 1},
    "meta": {},
    "files": [{"name": "train-00000-of-00001.tfrecord", "records": 1, "questions": 1, "bytes": 20, "ids": ""}],
}
CHECKPOINT = {
    "item_handlers": {},
    "custom_metadata": CheckpointRecord({"next_index": 3}, {}, {"params/a": "f 1"}).to_metadata(),
}


# --- readers that need more than one file ----------------------------------------------------------------------------


def manifest(folder: Path, form: int) -> bytes:
    """The manifest of a finished artefact; without checksum and files in the format before digests."""
    artefact = Artefact(epath.Path(folder), "sample", "x")
    artefact.begin({"spec": {"n": 1}, "questions": {"w": 2}}, ("questions",))
    (artefact.path / "responses-00000-of-00001.jsonl").write_bytes(RESPONSES)
    artefact.finish({"rows": 2}, ["content"])
    values = json.loads(artefact.manifest_path.read_text()) | {"format": form}
    return json.dumps({k: v for k, v in values.items() if form == 3 or k not in ("files", "checksum")}).encode()


def read_manifest(folder: Path, content: bytes) -> None:
    artefact = Artefact(epath.Path(folder), "sample", "x")
    artefact.path.mkdir(parents=True, exist_ok=True)
    artefact.manifest_path.write_bytes(content)
    for read in (lambda: artefact.digest, artefact.check_files):
        with contextlib.suppress(InputError):
            read()
    artefact.begin({"spec": {"n": 1}, "questions": {"w": 2}}, ("questions",))


def read_results(folder: Path, content: bytes) -> None:
    """Results are read only if they are those that the job wrote."""
    artefact = Workdir(str(folder)).artefact("evaluate", "x")
    if not artefact.complete:
        artefact.begin({})
        (artefact.path / "results.json").write_bytes(lines({"sets": {"w.test": {"accuracy": 0.5}}}))
        artefact.finish({})
    (artefact.path / "results.json").write_bytes(content)
    assert read_json(Workdir(str(folder)).checked("evaluate", "x").path / "results.json") == json.loads(content)


def read_stored(path: Path) -> None:
    with contextlib.closing(StoredResponses([epath.Path(path)], {"q": 0})) as stored:
        stored.read(0)


def write_shard(folder: Path) -> None:
    with TFRecordWriter(folder / "a.tfrecord") as writer:
        for record in (b"one", b"three"):
            writer.write(record)


def read_shard(path: Path) -> None:
    shard = TFRecordShard(path.with_name("a.tfrecord"))
    assert [shard[i] for i in range(len(shard))] == [b"one", b"three"]


def with_length(header: bytes) -> bytes:
    """A safetensors file with this header, its length, and the data of the valid file."""
    return struct.pack("<Q", len(header)) + header + VALID[8 + len(HEADER) :]


def read_weights(name: str, document: bytes | None = None, **options: Any) -> Reader:
    """The weights of a published model in a file of this name."""

    def prepare(folder: Path) -> None:
        (folder / "config.json").write_bytes((PUBLISHED / "opt/config.json").read_bytes())

    document = document or (PUBLISHED / "opt" / name).read_bytes()
    return read_file(name, lambda path: load_pretrained(path.parent), document, prepare=prepare, **options)


def read_tokenizer(folder: Path) -> Reader:
    words().save(folder)
    settings = (folder / "tokenizer_config.json").read_bytes()

    def prepare(folder: Path) -> None:
        (folder / "tokenizer_config.json").write_bytes(settings)

    return read_file("tokenizer.json", Tokenizer.load, (folder / "tokenizer.json").read_bytes(), prepare=prepare)


def read_reply(folder: Path, content: bytes) -> None:
    """A server's answer, and the responses in it."""
    del folder
    client = ServerClient(c.Server(url="http://localhost:1/v1", model="m", kind="chat", retries=0), "server", 0.0)

    class Opener(urllib.request.OpenerDirector):
        def open(self, *request: Any, **options: Any) -> Any:
            return contextlib.closing(io.BytesIO(content))

    client._opener = Opener()
    body = client.post({}, "q")
    for row in parse_rows([SourceRow("reply", 0, body)], lambda row: parse_choices(row, "q", None, None)):
        str(row)


def read_import(folder: Path, name: str) -> Reader:
    """An importer, and the join of its rows to questions."""
    path = write_files(folder, name, GOOD[name][0])

    def read(folder: Path, content: bytes) -> None:
        del folder
        path.write_bytes(content)
        rows, _ = importing(path, name, skip_bad=True, allow_chance=True)
        for row in rows:
            to_json(row).encode()

    return Reader(path.read_bytes(), read)


def read_tfrecord(folder: Path, name: str) -> Reader:
    write_shard(folder)
    return read_file(name, read_shard, (folder / name).read_bytes(), prepare=write_shard)


TABLE = b'id,question,answer\n1,What barks?,dog\n2,"What, then, meows?",cat\n'
VALID = (PUBLISHED / "opt/model.safetensors").read_bytes()
HEADER = VALID[8 : 8 + struct.unpack("<Q", VALID[:8])[0]]
# Functions that return a reader. They may write files into a folder, to read a valid input from it.
READERS: dict[str, Callable[[Path], Reader]] = {
    "responses": lambda folder: read_file("r.jsonl", lambda path: read_responses([path]), RESPONSES),
    "stored responses": lambda folder: read_file("r.jsonl", read_stored, RESPONSES),
    "question records": lambda folder: read_file(
        "train.jsonl",
        lambda path: jsonl("w", c.Task(kind="jsonl", path=str(path.parent)), 0).questions("train"),
        to_json(QUESTION).encode() + b"\n",
    ),
    "question rows": lambda folder: read_file("q.jsonl", lambda path: read_rows(epath.Path(path)), lines(*PLAIN)),
    "question list": lambda folder: read_file(
        "q.json", lambda path: read_rows(epath.Path(path)), json.dumps(PLAIN).encode()
    ),
    "question table": lambda folder: read_file("q.csv", lambda path: read_rows(epath.Path(path)), TABLE),
    "compressed questions": lambda folder: read_file(
        "q.jsonl.gz", lambda path: read_rows(epath.Path(path)), gzip.compress(lines(*PLAIN))
    ),
    "questions to score": lambda folder: read_file(
        "q.jsonl", lambda path: load_questions(str(path), None), lines(*PLAIN)
    ),
    "predictions": lambda folder: read_file(
        "p.jsonl", lambda path: read_predictions(epath.Path(path)), lines({"id": "q1", "text": ANSWER, "num_tokens": 3})
    ),
    "lm-eval samples": lambda folder: read_file(
        "p.jsonl", lambda path: read_predictions(epath.Path(path)), lines(LM_EVAL)
    ),
    **{f"importer {name}": (lambda folder, name=name: read_import(folder, name)) for name in IMPORTERS},
    "server reply": lambda folder: Reader(json.dumps(REPLY).encode(), read_reply),
    "manifest": lambda folder: Reader(manifest(folder, 3), read_manifest),
    "manifest without digests": lambda folder: Reader(manifest(folder, 2), read_manifest),
    "results": lambda folder: Reader(lines({"sets": {"w.test": {"accuracy": 0.5}}}), read_results),
    "metrics": lambda folder: read_file("metrics.jsonl", read_metrics, METRICS),
    "corpus description": lambda folder: read_file(
        "train.json", lambda path: read_description(path.parent, "train"), json.dumps(DESCRIPTION).encode()
    ),
    "corpus": lambda folder: read_tfrecord(folder, "a.tfrecord"),
    "index": lambda folder: read_tfrecord(folder, "a.tfrecord.index"),
    "checkpoint record": lambda folder: read_file(
        "_CHECKPOINT_METADATA", lambda path: read_record(epath.Path(path.parent)), json.dumps(CHECKPOINT).encode()
    ),
    **{
        f"config of {kind}": lambda folder, kind=kind: read_file(
            "config.json", lambda path: load_config(path.parent), json.dumps(CONFIGS[kind].to_hf()).encode()
        )
        for kind in ("opt", "t5-v1.1", "llama", "gemma3")
    },
    "tokenizer": read_tokenizer,
    "safetensors": lambda folder: read_weights("model.safetensors"),
    "header of safetensors": lambda folder: read_weights("model.safetensors", HEADER, wrap=with_length),
    "msgpack": lambda folder: read_weights("flax_model.msgpack"),
    "PyTorch file": lambda folder: read_weights("pytorch_model.bin"),
}
