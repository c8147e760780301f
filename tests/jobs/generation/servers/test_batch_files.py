"""Tests of the sample job with batch files: results in any order, and requests for missing samples only."""

import json
import random
from pathlib import Path

import pytest

from scotd_jax import config as c
from scotd_jax.errors import InputError
from scotd_jax.jobs.context import make_context
from scotd_jax.jobs.generation.servers import batch_files
from scotd_jax.jobs.generation.servers.requests import keyed_seed
from scotd_jax.jobs.graph import chain
from scotd_jax.jobs.sample import sample
from scotd_jax.rationales.store import read_responses
from scotd_jax.records import Question, Response, to_json
from scotd_jax.tasks.instructions import REASON
from scotd_jax.workdir import Workdir
from tests.helpers.cli import run_cli

# An id may contain "#", which separates it from the sample index in a custom_id.
IDS = ["home/train/0", "home/train/b#1", "home/train/2"]
N = 4
NAMES = [(id_, k) for id_ in IDS for k in range(N)]


@pytest.fixture
def home(tmp_path) -> Path:
    """Returns a folder with three questions."""
    (tmp_path / "task").mkdir()
    questions = [Question(id_, "home", "train", f"{id_}? (a) one (b) two", ("one", "two"), "(a)") for id_ in IDS]
    (tmp_path / "task/train.jsonl").write_text("".join(to_json(q) + "\n" for q in questions))
    return tmp_path


def run(home: Path, **fields) -> list[Response]:
    """Runs the job and returns the responses."""
    task = c.Task(kind="jsonl", path=str(home / "task"))
    server = c.Server(**{"model": "served"} | fields.pop("server", {}))
    fields = {"server": server, "sampling": c.Sampling(n=N, max_new_tokens=16)} | fields
    source = c.BatchSource(questions=("home.train",), **fields)
    config = c.Config(tasks={"home": task}, rationales={"sampled": source}, seed=3)
    chain(config)
    sample(make_context(config, Workdir(str(home / "w"))), "sampled")
    return list(read_responses(sorted((home / "w/rationales/sampled").glob("responses-*.jsonl"))))


def folder(home: Path) -> Path:
    return home / "w/rationales/sampled/batch"


def requests(home: Path) -> list[dict]:
    """Returns the requests in all files."""
    return [json.loads(line) for p in sorted(folder(home).glob("requests-*")) for line in p.read_text().splitlines()]


def names(requested: list[dict]) -> list[tuple[str, int]]:
    """Returns the question id and sample index of each request."""
    parts = [row["custom_id"].rpartition("#") for row in requested]
    return [(id_, int(number)) for id_, _, number in parts]


def result(request: dict, text: str = "Yes. So the answer is: (a)") -> dict:
    """Returns a result line as `vllm run-batch` and OpenAI write it."""
    choice = {"message": {"role": "assistant", "content": text}} if "messages" in request["body"] else {"text": text}
    body = {"model": "m", "choices": [{"index": 0, "finish_reason": "stop"} | choice], "usage": {}}
    body["usage"]["completion_tokens"] = 6
    response = {"status_code": 200, "request_id": "r", "body": body}
    return {"id": f"id-{request['custom_id']}", "custom_id": request["custom_id"], "response": response, "error": None}


def answer(path: Path, rows: list[dict]) -> None:
    """Writes a file of results."""
    path.parent.mkdir(parents=True, exist_ok=True)
    path.write_text("".join(json.dumps(row) + "\n" for row in rows))


def test_requests_then_results(home):
    with pytest.raises(InputError, match=r"12 of 12 samples are missing.*requests-00000.jsonl.*vllm run-batch"):
        run(home)
    requested = requests(home)
    assert names(requested) == NAMES
    assert requested[5] == {
        "custom_id": "home/train/b#1#1",
        "method": "POST",
        "url": "/v1/completions",
        "body": {
            "model": "served",
            "prompt": "Q: home/train/b#1? (a) one (b) two\nA: ",
            "max_tokens": 16,
            "temperature": 1.0,
            "top_p": 1.0,
            "stop": ["\n\n"],
            "seed": keyed_seed(3, "home/train/b#1", 1),
        },
    }
    results = [result(r, f"I generate {r['custom_id']}. So the answer is: (a)") for r in requested]
    random.Random(0).shuffle(results)
    answer(folder(home) / "results-1.jsonl", results[:7])
    answer(folder(home) / "results-2.jsonl", results[7:])
    rows = run(home)
    assert [row.key for row in rows] == NAMES
    assert all(row.rationale == f"I generate {row.question_id}#{row.sample_index}." for row in rows)
    assert {(r.answer, r.correct, r.model, r.num_tokens) for r in rows} == {("(a)", True, "served", 6)}
    assert requests(home) == [], "no request remains"
    ledger = json.loads((home / "w/rationales/sampled/ledger.json").read_text())
    assert ledger["total"]["imported"] == 12
    assert run(home) == rows


def test_only_missing_samples_are_requested_again(home, capsys):
    with pytest.raises(InputError):
        run(home, path=f"{home}/back/*.jsonl")
    first = requests(home)
    failed = {"id": "x", "custom_id": first[0]["custom_id"], "response": None, "error": {"message": "expired"}}
    refused = result(first[1])
    refused["response"]["status_code"] = 500
    empty = result(first[2])
    empty["response"]["body"]["choices"] = []
    strange = result(first[3] | {"custom_id": "home/train/unknown#0"})
    beyond = result(first[3] | {"custom_id": f"{IDS[0]}#{N}"})
    twice = result(first[4], "No. So the answer is: (b)")
    rows = [failed, refused, empty, strange, beyond, *map(result, first[4:]), twice]
    answer(home / "back/one.jsonl", rows)
    with (home / "back/one.jsonl").open("a") as file:
        file.write('{"id": "cut in the mid')
    with pytest.raises(InputError, match="4 of 12 samples are missing.*add the result files at"):
        run(home, path=f"{home}/back/*.jsonl")
    stderr = capsys.readouterr().err
    assert (
        "8 of 15 rows imported (skipped: 3 failed, 1 no such question, 1 no such sample, 1 duplicate, 1 broken)"
        in stderr
    )
    assert "one.jsonl line 1: the request" in stderr
    assert requests(home) == first[:4]
    answer(home / "back/two.jsonl", [result(r) for r in first[:4]])
    rows = run(home, path=f"{home}/back/*.jsonl")
    assert [row.key for row in rows] == NAMES
    assert rows[4].answer == "(a)", "the first of two rows is stored"


def test_stored_responses_survive_the_removal_of_result_files(home):
    with pytest.raises(InputError):
        run(home)
    first = requests(home)
    answer(folder(home) / "results.jsonl", [result(r) for r in first[::2]])
    with pytest.raises(InputError, match="6 of 12"):
        run(home)
    (folder(home) / "results.jsonl").unlink()
    with pytest.raises(InputError, match="6 of 12"):
        run(home)
    assert requests(home) == first[1::2]


def test_request_files_obey_the_limits(home, monkeypatch):
    monkeypatch.setattr(batch_files, "MAX_REQUESTS", 5)
    with pytest.raises(InputError, match="requests-00000.jsonl, .*requests-00001.jsonl, .*requests-00002.jsonl"):
        run(home)
    whole = requests(home)
    assert [len(p.read_text().splitlines()) for p in sorted(folder(home).iterdir())] == [5, 5, 2]
    monkeypatch.setattr(batch_files, "MAX_REQUESTS", 50)
    size = len(json.dumps(whole[4]).encode()) + 1
    monkeypatch.setattr(batch_files, "MAX_BYTES", 3 * size)
    with pytest.raises(InputError):
        run(home)
    files = sorted(folder(home).iterdir())
    assert all(path.stat().st_size <= 3 * size for path in files)
    assert len(files) >= 4
    assert requests(home) == whole
    monkeypatch.setattr(batch_files, "MAX_BYTES", 10)
    with pytest.raises(InputError):
        run(home)
    assert requests(home) == whole, "a line over the limit is in a separate file"
    monkeypatch.undo()
    with pytest.raises(InputError):
        run(home)
    assert [p.name for p in folder(home).iterdir()] == ["requests-00000.jsonl"], "old request files are removed"


def test_chat_requests(home):
    with pytest.raises(InputError):
        run(home, server={"kind": "chat", "extra_body": {"stop": None}}, think="rationale")
    first = requests(home)
    assert {row["url"] for row in first} == {"/v1/chat/completions"}
    instruction = REASON.format(answer_sentence='"So the answer is: (a)" or "So the answer is: (b)"')
    content = f"home/train/0? (a) one (b) two\n{instruction}"
    assert first[0]["body"]["messages"] == [{"role": "user", "content": content}]
    assert "stop" not in first[0]["body"]
    rows = [result(r) for r in first]
    for row in rows:
        row["response"]["body"]["choices"][0]["message"]["reasoning_content"] = "Deep.\n\nThought."
    answer(folder(home) / "results.jsonl", rows)
    rows = run(home, server={"kind": "chat", "extra_body": {"stop": None}}, think="rationale")
    assert {(r.rationale, r.answer) for r in rows} == {("Deep.\n\nThought.", "(a)")}


CONFIG = '''"""A teacher with batch files, for a test."""

from scotd_jax import config as c


def get_config():
    task = c.Task(kind="jsonl", path={task!r})
    source = c.BatchSource(questions=("home.train",), server=c.Server(model="m"))
    return c.config_dict(c.Config(name="x", tasks={{"home": task}}, rationales={{"sampled": source}}))
'''


@pytest.mark.slow
def test_command_line(home):
    (home / "config.py").write_text(CONFIG.format(task=str(home / "task")))
    done = run_cli(f"--config={home / 'config.py'}", f"--workdir={home / 'w'}", "--jobs=sample")
    assert done.returncode == 2
    assert "error: config.rationales.sampled: 3 of 3 samples are missing; their requests are in " in done.stderr
    assert len(requests(home)) == 3
