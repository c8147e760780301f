"""Tests of the sample job with a live server: requests, missing samples, failures, kill -9, and a real server."""

import dataclasses
import importlib.util
import json
import signal
import socket
import subprocess
import sys
import time
import urllib.request
from pathlib import Path

import pytest

from scotd_jax import config as c
from scotd_jax.errors import InputError
from scotd_jax.jobs.context import make_context
from scotd_jax.jobs.generation.servers import live
from scotd_jax.jobs.generation.servers.remote_model import RemoteModel, make_remote_model
from scotd_jax.jobs.generation.servers.requests import keyed_seed
from scotd_jax.jobs.graph import chain
from scotd_jax.jobs.sample import sample
from scotd_jax.rationales.importers.imported import ImportedResponse
from scotd_jax.rationales.store import read_responses
from scotd_jax.records import Question, Response, to_json
from scotd_jax.workdir import Workdir
from tests.helpers.cli import ROOT, environment, run_cli
from tests.helpers.fake_server import completion, error, serving

N = 5
SECRET = "sk-very-secret"
EXEMPLARS = [("What is wet? (a) rain (b) sand", "Rain is water."), ("What is dry? (a) sand (b) rain", "Sand is dust.")]


@pytest.fixture(autouse=True)
def short_pauses(monkeypatch):
    monkeypatch.setattr(live, "FIRST_PAUSE", 0.002)


@pytest.fixture
def home(tmp_path) -> Path:
    """A folder with twelve questions and two exemplars."""
    (tmp_path / "task").mkdir()
    questions = [
        Question(f"home/train/{i}", "home", "train", f"What is {i}? (a) one (b) two", ("one", "two"), "(a)")
        for i in range(12)
    ]
    (tmp_path / "task/train.jsonl").write_text("".join(to_json(q) + "\n" for q in questions))
    rows = [{"text": t, "choices": ["x", "y"], "answer": "(a)", "rationale": r} for t, r in EXEMPLARS]
    (tmp_path / "exemplars.jsonl").write_text("".join(json.dumps(row) + "\n" for row in rows))
    return tmp_path


def make(home: Path, url: str, sampling: c.Sampling | None = None, server: dict | None = None, **fields) -> c.Config:
    """Returns a config with one set of responses from a server; `fields` are further fields of the source."""
    task = c.Task(kind="jsonl", path=str(home / "task"), exemplars=str(home / "exemplars.jsonl"))
    spec = c.ServerSource(
        questions=("home.train",),
        server=c.Server(**{"url": url, "model": "served", "timeout": 5.0, "retries": 2} | (server or {})),
        sampling=sampling or c.Sampling(n=N, max_new_tokens=16),
    )
    return c.Config(tasks={"home": task}, rationales={"sampled": dataclasses.replace(spec, **fields)}, seed=3)


def run(home: Path, url: str, **fields) -> list[Response]:
    """Runs the job and returns the responses."""
    config = make(home, url, **fields)
    chain(config)
    sample(make_context(config, Workdir(str(home / "w"))), "sampled")
    return list(read_responses(sorted((home / "w/rationales/sampled").glob("responses-*.jsonl"))))


def stored(home: Path) -> list[Response]:
    """Returns the responses of an interrupted job."""
    return list(read_responses(sorted((home / "w/rationales/sampled/parts").glob("*.jsonl"))))


def names() -> set[tuple[str, int]]:
    """Returns the question id and sample index of every response of a complete set."""
    return {(f"home/train/{i}", k) for i in range(12) for k in range(N)}


def test_one_request_holds_all_samples_of_a_question(home):
    with serving() as fake:
        rows = run(home, fake.url)
    assert {row.key for row in rows} == names()
    assert len(rows) == len(names())
    assert len(fake.bodies) == 12
    by_prompt = {body["prompt"]: body for body in fake.bodies}
    seed = keyed_seed(3, "home/train/0", 0)
    assert by_prompt["Q: What is 0? (a) one (b) two\nA: "] == {
        "model": "served",
        "prompt": "Q: What is 0? (a) one (b) two\nA: ",
        "max_tokens": 16,
        "temperature": 1.0,
        "top_p": 1.0,
        "n": N,
        "stop": ["\n\n"],
        "seed": seed,
    }
    text = f"Seed {seed} choice 2. So the answer is: (a)"
    expected = Response("home/train/0", 2, text, text[: text.index(" So")], "(a)", True, "stop", 0.0, 0, "served", "")
    assert rows[2] == dataclasses.replace(expected, sampling="temperature=1")
    manifest = json.loads((home / "w/rationales/sampled/manifest.json").read_text())
    assert manifest["complete"]
    assert manifest["identity"]["spec"]["server"] == {"model": "served", "kind": "completions", "extra_body": {}}


def test_finished_set_needs_no_server_and_its_address_may_change(home):
    with serving() as fake:
        rows = run(home, fake.url)
    assert run(home, "http://elsewhere:1/v1", server={"concurrency": 3}) == rows
    with pytest.raises(InputError, match="spec.server.model was 'served'"):
        run(home, fake.url, server={"model": "other"})


def test_prompts_are_those_of_local_models(home):
    config = make(home, "http://x/v1", few_shot=2)
    context = make_context(config, Workdir(str(home / "w")))
    questions = context.questions.by_id(("home.train",))
    question, task = questions["home/train/0"]
    text = make_remote_model(context, config.rationales["sampled"], 0, "r").request_body(question, task, 0)["prompt"]
    own = context.questions.few_shot_prompt(task, task.format, 2, chat=False) + task.format.prompt(question)
    assert text == own
    assert text.startswith(f"Q: {EXEMPLARS[0][0]}\nA: Rain is water. So the answer is: (a)\n\nQ: What is dry?")


def test_chat_requests_hold_examples_as_turns(home):
    with serving() as fake:
        rows = run(home, fake.url, few_shot=2, server={"kind": "chat"})
    assert fake.paths == ["/v1/chat/completions"] * 12
    assert {row.key for row in rows} == names()
    messages = next(b["messages"] for b in fake.bodies if "What is 7?" in b["messages"][-1]["content"])
    assert [m["role"] for m in messages] == ["user", "assistant"] * 2 + ["user"]
    assert messages[1]["content"] == "Rain is water. So the answer is: (a)"
    assert messages[4]["content"] == "What is 7? (a) one (b) two"


def test_missing_choices_are_requested_again(home):
    def script(number, body):  # at most two choices, and sometimes none
        return 200, {}, completion(body, min(2, body.get("n", 1))) if number % 5 else b'{"choices": []}'

    with serving(script) as fake:
        rows = run(home, fake.url, server={"retries": 12})
    assert {row.key for row in rows} == names()
    assert len({row.text for row in rows}) == len(rows), "a missing choice is requested with another seed"


def test_surplus_choices_are_ignored(home):
    with serving(lambda number, body: (200, {}, completion(body, 9))) as fake:
        assert {row.key for row in run(home, fake.url)} == names()


@pytest.mark.parametrize(("fields", "sizes"), [({"server": {"n_per_request": 2}}, {2, 1}), ({}, {1})])
def test_requests_are_as_large_as_allowed(home, fields, sizes):
    """A greedy sample is always requested alone."""
    sampling = c.Sampling(n=N, temperature=1.0 if fields else 0.0)
    with serving() as fake:
        rows = run(home, fake.url, sampling=sampling, **fields)
    assert {body.get("n", 1) for body in fake.bodies} == sizes
    assert {row.key for row in rows} == names()


def test_number_of_simultaneous_requests_is_limited(home):
    with serving(lambda number, body: time.sleep(0.1)) as fake:
        run(home, fake.url, server={"concurrency": 3})
    assert fake.max_in_flight == 3


def test_transient_failures_of_all_kinds_are_retried(home):
    """A third of all requests fails in a way that a retry resolves."""
    faults = [error(500), "close", "cut", error(429, Retry_After="0"), (200, {}, b"{"), error(503)]

    def script(number, body):
        return faults[number // 3 % len(faults)] if number % 3 == 0 else None

    with serving(script) as fake:
        rows = run(home, fake.url, server={"retries": 12, "n_per_request": 1})
    assert {row.key for row in rows} == names()
    assert len(fake.bodies) > len(rows)


def test_other_requests_continue_after_refused_ones(home, capsys):
    def script(number, body):
        return error(400, "too long") if "What is 3?" in body["prompt"] or "What is 11?" in body["prompt"] else None

    with serving(script) as fake:
        with pytest.raises(InputError, match=r"10 samples are missing, 2 requests failed.*400.*too long.*same command"):
            run(home, fake.url)
        assert len(stored(home)) == 50
        assert "no reply for home/train/3: http" in capsys.readouterr().err
        fake.script = lambda number, body: None
        fake.bodies.clear()
        rows = run(home, fake.url)
        assert len(fake.bodies) == 2, "only missing samples are requested"
    assert {row.key for row in rows} == names()


def test_wrong_key_stops_the_job_and_appears_nowhere(home, monkeypatch, capsys):
    monkeypatch.setenv("MY_KEY", SECRET)
    server = {"key_env": "MY_KEY", "concurrency": 2}

    def script(number, body):
        return error(401, f"Incorrect API key provided: {SECRET}")

    with serving(script) as fake:
        with pytest.raises(InputError, match="60 samples .*401.*Incorrect API key provided: ") as caught:
            run(home, fake.url, server=server)
        assert len(fake.bodies) <= 4
        fake.script = lambda number, body: None
        rows = run(home, fake.url, server=server)
    assert {row.key for row in rows} == names()
    assert set(fake.keys) == {f"Bearer {SECRET}"}
    output = capsys.readouterr()
    assert SECRET not in str(caught.value) + output.out + output.err
    for file in home.rglob("*"):
        assert file.is_dir() or SECRET not in file.read_text(), file


def test_outage_ends_the_job_early(home, monkeypatch):
    monkeypatch.setattr(live, "MAX_EQUAL_FAILURES", 4)
    with serving(lambda number, body: error(500) if number > 8 else None) as fake:
        with pytest.raises(InputError, match="and the rest was not requested.*status 500"):
            run(home, fake.url, server={"concurrency": 2, "retries": 1, "n_per_request": 1})
        assert len(fake.bodies) < 25
        assert len(stored(home)) == 9
        fake.script = lambda number, body: None
        assert {row.key for row in run(home, fake.url)} == names()


@pytest.mark.slow
def test_replies_without_text_are_abandoned_after_the_retries(home):
    body = json.dumps({"choices": [{"text": None, "finish_reason": "content_filter"}]}).encode()
    with serving(lambda number, _: (200, {}, body)) as fake:
        with pytest.raises(InputError, match="60 samples are missing, 12 requests failed.*contain no text"):
            run(home, fake.url)
        assert len(fake.bodies) == 12 * 3


def test_finish_reason_and_logprob_of_choices_are_stored(home):
    logprobs = {"token_logprobs": [-0.5, -0.25, -1.0]}
    with serving(lambda number, body: (200, {}, completion(body, finish_reason="length", logprobs=logprobs))) as fake:
        rows = run(home, fake.url)
    assert {(r.finish_reason, r.logprob, r.num_tokens) for r in rows} == {("length", -1.75, 3)}


def test_usage_counts_tokens_of_single_sample_requests(home):
    with serving() as fake:
        rows = run(home, fake.url, server={"n_per_request": 1})
    assert {r.num_tokens for r in rows} == {7}


def remote(home: Path, **fields) -> tuple[RemoteModel, tuple]:
    """Returns the model behind a server, and (question 0, its task)."""
    config = make(home, "http://x/v1", **fields)
    context = make_context(config, Workdir(str(home / "w")))
    model = make_remote_model(context, config.rationales["sampled"], 0, "r")
    return model, context.questions.by_id(("home.train",))["home/train/0"]


def test_text_is_cut_at_stop_strings(home):
    model, question_and_task = remote(home)
    row = model.respond(
        ImportedResponse("w", 0, "Yes. So the answer is: (a)\n\nQ: More", finish_reason="length"), *question_and_task, 4
    )
    assert (row.text, row.answer, row.finish_reason) == ("Yes. So the answer is: (a)", "(a)", "stop")


@pytest.mark.parametrize(
    ("think", "text", "rationale"),
    [
        ("strip", "Yes. So the answer is: (a)", "Yes."),
        ("rationale", "Yes. So the answer is: (a)", "First.\n\nThen."),
    ],
)
def test_thinking_blocks_are_treated_as_configured(home, think, text, rationale):
    response = ImportedResponse("w", 0, "<think>First.\n\nThen.</think>Yes. So the answer is: (a)")
    model, question_and_task = remote(home, think=think)
    row = model.respond(response, *question_and_task, 0)
    assert (row.text, row.rationale, row.answer) == (text, rationale, "(a)")
    cut = model.respond(ImportedResponse("w", 0, "<think>First. So the answer is: (a)"), *question_and_task, 0)
    assert (cut.rationale, cut.answer, cut.correct, cut.finish_reason) == (None, None, False, "length")
    strict_model, question_and_task = remote(home)
    with pytest.raises(InputError, match="choose a treatment: think="):
        strict_model.respond(response, *question_and_task, 0)


CONFIG = '''"""A teacher behind a server, for a test."""

from scotd_jax import config as c


def get_config():
    task = c.Task(kind="jsonl", path={task!r})
    server = c.Server(url={url!r}, model={model!r}, n_per_request=2, concurrency=2, extra_body={extra!r})
    sampling = c.Sampling(n={n}, max_new_tokens=24)
    source = c.ServerSource(questions=("home.train",), server=server, sampling=sampling)
    return c.config_dict(c.Config(name="x", tasks={{"home": task}}, rationales={{"sampled": source}}, seed=3))
'''


def flags(home: Path, url: str, model: str = "served", n: int = N, **extra: str) -> list[str]:
    config = home / "config.py"
    config.write_text(CONFIG.format(task=str(home / "task"), url=url, model=model, n=n, extra=extra))
    return [f"--config={config}", f"--workdir={home / 'w'}", "--jobs=sample"]


@pytest.mark.slow
def test_kill_9_loses_no_response_and_requests_none_twice(home):
    parts = home / "w/rationales/sampled/parts"
    with serving(lambda number, body: time.sleep(0.1)) as fake:
        command = [sys.executable, "-m", "scotd_jax.main", *flags(home, fake.url)]
        process = subprocess.Popen(command, cwd=ROOT, env=environment(), stderr=subprocess.DEVNULL)
        while process.poll() is None and len(list(parts.glob("*.jsonl"))) < 4:
            time.sleep(0.005)
        process.send_signal(signal.SIGKILL)
        assert process.wait() == -signal.SIGKILL, "the process ended before it was killed, so nothing was tested"
        before = stored(home)
        time.sleep(0.3)  # until the server has answered the requests of the killed process
        fake.bodies.clear()
        done = run_cli(*flags(home, fake.url))
        assert done.returncode == 0, done.stderr
        again: dict[str, int] = {}  # prompt -> number of samples requested after the kill
        for body in fake.bodies:
            again[body["prompt"]] = again.get(body["prompt"], 0) + body.get("n", 1)
    assert 0 < len(before) < len(names())
    # prompt -> number of samples stored before the kill
    had = {f"Q: What is {i}? (a) one (b) two\nA: ": 0 for i in range(12)}
    for row in before:
        had[f"Q: What is {row.question_id.rpartition('/')[2]}? (a) one (b) two\nA: "] += 1
    assert {prompt: N - count for prompt, count in had.items() if count < N} == again
    rows = {row.key: row for row in read_responses(sorted((home / "w/rationales/sampled").glob("responses-*.jsonl")))}
    assert rows.keys() == names()
    assert all(rows[row.key] == row for row in before), "earlier rows are unchanged"


@pytest.mark.slow
def test_command_line_reports_what_is_wrong(home):
    with serving(lambda number, body: error(404, "no such model")) as fake:
        done = run_cli(*flags(home, fake.url))
    assert done.returncode == 2
    assert f"{fake.url}/completions: status 404" in done.stderr
    assert "no such model" in done.stderr
    assert "Traceback" not in done.stderr


@pytest.fixture(scope="module")
def transformers_server(shared_data):
    """`transformers serve` with a trained model of 260 thousand parameters: its URL and the model's name there."""
    checkpoint = shared_data / "checkpoints" / "stories260K"
    if not checkpoint.is_dir():
        pytest.skip(f"{checkpoint} not present")
    needed = ("torch", "fastapi", "uvicorn", "openai", "pydantic")  # the last four are transformers[serving]
    if missing := [name for name in needed if importlib.util.find_spec(name) is None]:
        pytest.skip(f"`transformers serve` needs {', '.join(needed)}; there is no {', '.join(missing)}")
    with socket.socket() as s:
        s.bind(("127.0.0.1", 0))
        port = s.getsockname()[1]
    start = "from transformers.cli.transformers import main; main()"
    command = [sys.executable, "-c", start, "serve", str(checkpoint), "--port", str(port), "--device", "cpu"]
    process = subprocess.Popen([*command, "--host", "127.0.0.1"], stdout=subprocess.DEVNULL, stderr=subprocess.DEVNULL)
    try:
        deadline = time.monotonic() + 120
        while True:
            try:
                with urllib.request.urlopen(f"http://127.0.0.1:{port}/health", timeout=5):
                    break
            except OSError:
                assert process.poll() is None, "`transformers serve` ended"
                assert time.monotonic() < deadline, "`transformers serve` does not answer"
                time.sleep(0.2)
        yield f"http://127.0.0.1:{port}/v1", str(checkpoint)
    finally:
        process.terminate()
        process.wait()


@pytest.mark.exhaustive
def test_real_server_with_a_real_model(home, transformers_server):
    """The server ignores `n`, so every reply has one choice and the missing ones are requested again. It also decodes
    greedily at any temperature, unless the checkpoint or the request overrides this."""
    url, model = transformers_server
    sampled = json.dumps({"do_sample": True, "eos_token_id": 2})
    done = run_cli(*flags(home, url, model, n=2, generation_config=sampled))
    assert done.returncode == 0, done.stderr
    rows = list(read_responses(sorted((home / "w/rationales/sampled").glob("responses-*.jsonl"))))
    assert {row.key for row in rows} == {(f"home/train/{i}", k) for i in range(12) for k in range(2)}
    assert all(row.text and 0 < row.num_tokens <= 24 for row in rows)
    assert len({row.text for row in rows}) > 12, "samples of a question differ"
