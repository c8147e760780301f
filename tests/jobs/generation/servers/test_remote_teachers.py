"""Teachers of the papers' configs on a server or behind batch files: rationales, and an arm of the report."""

import json
from pathlib import Path

import pytest

from configs import common
from scotd_jax import config as c
from scotd_jax.config.eval_specs import eval_specs
from scotd_jax.errors import InputError
from scotd_jax.jobs.context import RunContext, make_context
from scotd_jax.jobs.evaluate import evaluate
from scotd_jax.jobs.graph import chain
from scotd_jax.jobs.report_parts.run_results import run_results
from scotd_jax.jobs.sample import sample
from scotd_jax.running import run
from scotd_jax.workdir import Workdir
from tests.helpers.fake_server import completion, serving

PAPERS = ("scotd", "imdb", "transfer", "step_by_step", "scicot", "pretrained")
URL = "http://localhost:8000/v1"
OBQA = "task=obqa,student=opt-125m,runlocal"


def load(name: str, settings: str) -> c.Config:
    return c.from_mapping(c.Config, c.sibling(common.__file__, name).get_config(settings))


@pytest.mark.parametrize("name", PAPERS)
@pytest.mark.parametrize("runlocal", ["", ",runlocal"])
def test_every_config_takes_a_teacher_on_a_server_as_an_arm(name, runlocal):
    if name == "pretrained" and not runlocal:
        with pytest.raises(InputError, match=f"server={URL} generates the teacher's responses, but they are imported"):
            load(name, f"server={URL}")
        return
    for server, kind in ((URL, c.ServerSource), ("batch", c.BatchSource)):
        config = load(name, f"server={server},teacher=qwen3-1.7b{runlocal}")
        chain(config)
        assert {type(source) for source in config.rationales.values()} <= {kind, c.ModelSource}
        for source in config.rationales.values():
            if isinstance(source, c.ModelSource):
                assert source.model.student, "only students generate here"
            else:
                assert (source.server.url, source.server.model) == (URL if server == URL else "", "Qwen/Qwen3-1.7B")
                assert (source.server.kind, source.think) == ("chat", "strip")
                assert source.sampling.n <= (2 if runlocal else 30)
        teacher = config.rationales["teacher_reported"]
        assert (type(teacher), teacher.questions) == (kind, config.evals["teacher"].eval_sets)


@pytest.mark.parametrize(
    ("settings", "message"),
    [
        ("server=localhost:8000", "Server.url: expected http"),
        ("server=batch,server_kind=chats", "server_kind=chats: expected auto, completions, chat"),
        ("server=batch,responses=x.jsonl", "server=batch generates the teacher's responses, but they are imported"),
        ("key_env=OPENAI_API_KEY", "key_env and server_kind are for teachers on a server; set server too"),
        ("server_kind=chat", "key_env and server_kind are for teachers on a server; set server too"),
        (f"server={URL},key_env=sk-secret", "Server.key_env: expected the NAME of an environment variable"),
    ],
)
def test_wrong_settings_of_servers_are_refused(settings, message):
    with pytest.raises(InputError, match=message):
        load("scotd", settings)


def teacher_accuracy(context: RunContext) -> float:
    """Evaluates the teacher and returns its accuracy in the report."""
    evaluate(context, "teacher")
    [result] = run_results(context, "teacher", eval_specs(context.config)["teacher"])
    assert (result.name, result.role) == ("teacher, few-shot", "teacher")
    [scores] = result.results.values()
    return scores["accuracy"]


def test_teacher_on_a_server_is_scored_on_the_reported_questions(tmp_path):
    """The stand-in server always answers (a)."""
    with serving() as fake:
        context = make_context(load("scotd", f"{OBQA},server={fake.url},teacher=mine"), Workdir(str(tmp_path)))
        sample(context, "teacher_reported")
    questions = [question for question, _ in context.reported_questions("obqa.test").values()]
    assert teacher_accuracy(context) == sum(q.answer == "(a)" for q in questions) / len(questions)
    assert len(fake.bodies) == len(questions)
    for body in fake.bodies:
        assert (body["model"], body["temperature"]) == ("mine", 0)
        assert body["prompt"].count("So the answer is: ") == 5, "few-shot examples"


@pytest.mark.slow
def test_requests_of_all_batch_files_are_written_at_once(tmp_path):
    """The first command names the requests of all sets, and after their results the teacher is an arm."""
    config = load("scotd", f"{OBQA},server=batch")
    arguments = c.plain(config), str(tmp_path), ("sample",), (), ""
    with pytest.raises(InputError) as missing:
        run(*arguments)
    names = ("sampled", "greedy", "teacher_reported")
    assert [line.partition(":")[0] for line in str(missing.value).splitlines()] == [
        f"config.rationales.{name}" for name in names
    ]
    for name in names:
        answer_requests(tmp_path / "rationales" / name / "batch")
    run(*arguments)
    context = make_context(config, Workdir(str(tmp_path)))
    questions = [question for question, _ in context.reported_questions("obqa.test").values()]
    assert teacher_accuracy(context) == sum(q.answer == "(a)" for q in questions) / len(questions)


def answer_requests(folder: Path) -> None:
    """Writes the results of all request files of a folder, as `vllm run-batch` does."""
    requests = [json.loads(line) for line in (folder / "requests-00000.jsonl").read_text().splitlines()]
    results = [
        {"custom_id": each["custom_id"], "response": {"status_code": 200, "body": json.loads(completion(each["body"]))}}
        for each in requests
    ]
    (folder / "results.jsonl").write_text("".join(json.dumps(result) + "\n" for result in results))
