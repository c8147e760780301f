"""Prompts as the models see them, example responses by bin, and the report of a run that only sampled."""

import dataclasses
import re
from pathlib import Path

import pytest

from scotd_jax import config as c
from scotd_jax.corpus.reader import CorpusReader
from scotd_jax.errors import InputError
from scotd_jax.jobs.build import build
from scotd_jax.jobs.context import RunContext, make_context
from scotd_jax.jobs.generation.prompting import prompt_settings, source_prompt_settings
from scotd_jax.jobs.generation.servers.remote_model import make_remote_model
from scotd_jax.jobs.inspection.commands import show_examples, show_prompts
from scotd_jax.jobs.inspection.prompts import PLACEHOLDER, prompt_views
from scotd_jax.jobs.inspection.responses import response_bin, response_sets
from scotd_jax.jobs.report import report
from scotd_jax.jobs.sample import sample
from scotd_jax.rationales.store import ResponseWriter
from scotd_jax.records import Response
from scotd_jax.reporting.data import PromptView
from scotd_jax.reporting.plain_text import WIDTH, format_prompts
from scotd_jax.workdir import Workdir
from tests.helpers.cli import run_cli
from tests.helpers.html_page import Page

SIZES = {"train": 8, "dev": 4, "test": 4, "unseen": 4, "longer": 4, "gold": 8, "statements": 4}
TINY = c.Model(
    architecture="opt-tiny", overrides={"hidden_size": 32, "num_attention_heads": 2, "ffn_dim": 64}, tokenizer="task:w"
)
SERVER = c.Server(url="http://localhost:1/v1", model="big", kind="chat")


def config(**students: c.Student) -> c.Config:
    """Returns a config with a local and a remote teacher, two corpora and three students.

    The prompts of the student "reader" contain rationales.
    """
    without_rationales = {"student": c.Student(TINY, "gold", eval_sets=("w.test",)), "twin": c.Student(TINY, "gold")}
    return c.Config(
        tasks={"w": c.Task(options=SIZES)},
        rationales={
            "gold": c.TaskSource(("w.gold",)),
            "sampled": c.ModelSource(("w.train",), c.Model(student="student"), c.Sampling(n=2, max_new_tokens=8)),
            "remote": c.ServerSource(("w.train",), SERVER, system="Be brief."),
        },
        corpora={
            "gold": c.Corpus(rationales=("gold",), decontaminate=0),
            "infer": c.Corpus("infer", rationales=("sampled",)),
        },
        students=without_rationales
        | {"reader": c.Student(TINY, "infer", eval_sets=("w.test",), rationales_from=("sampled",))}
        | students,
    )


def context(folder: Path) -> RunContext:
    return make_context(config(), Workdir(str(folder)))


def view(run: RunContext, role: str, name: str) -> PromptView:
    [found] = [view for view in prompt_views(run, 1) if view.role == role and name in view.names]
    return found


def test_views_show_the_tokens_of_teacher_corpus_and_evaluation(tmp_path):
    run = context(tmp_path)
    tokenizer = run.models.tokenizer(TINY)
    sample(run, "gold")
    build(run, "gold")
    example = CorpusReader(run.artefact("build", "gold").path, "train")[0]
    trained = view(run, "student in training", "student")
    assert trained.names == ("student", "twin")
    assert trained.question_id == example.question_id
    assert trained.prompt == tokenizer.decode_with_special_tokens(example.prompt)
    assert trained.target == tokenizer.decode_with_special_tokens(example.responses[0])
    assert (trained.prompt_tokens, trained.target_tokens) == (len(example.prompt), len(example.responses[0]))
    assert trained.prompt.startswith("</s>") or trained.prompt.startswith("<s>")
    assert trained.target.endswith("</s>")
    for role, name, set_name, settings in (
        ("teacher", "sampled", "w.train", source_prompt_settings(run.config, run.config.rationales["sampled"], "r")),
        ("student under evaluation", "student", "w.test", prompt_settings(run.config, c.Model(student="student"))),
    ):
        question, task = next(iter(run.questions.by_id((set_name,)).values()))
        ids = tokenizer.prompt_ids(run.prompt_builder(settings).prompt(question, task), "opt")
        found = view(run, role, name)
        assert (found.question_id, found.prompt_tokens) == (question.id, len(ids))
        assert found.prompt == tokenizer.decode_with_special_tokens(ids)
        assert "</s>" in found.ends


def test_remote_models_show_the_turns_that_are_sent(tmp_path):
    run = context(tmp_path)
    question, task = next(iter(run.questions.by_id(("w.train",)).values()))
    remote = make_remote_model(run, run.config.rationales["remote"], 0, "r")
    found = view(run, "teacher", "remote")
    assert found.prompt_tokens is None
    assert found.prompt == "\n".join(
        f"[{turn['role']}]\n{turn['content']}" for turn in remote.request_body(question, task, 0)["messages"]
    )
    assert found.prompt.startswith("[system]\nBe brief.\n[user]\n")


def test_placeholder_stands_for_rationales_that_do_not_exist_yet(tmp_path):
    text = show_prompts(config(), None, 1)
    [block] = re.findall(r"student under evaluation reader: .*?(?=\n\n|$)", text, re.DOTALL)
    assert PLACEHOLDER in block
    assert "</s>" in block or "<s>" in block
    own = dataclasses.replace(config(), corpora=config().corpora | {"gold": c.Corpus(rationales=("remote",))})
    assert f"{PLACEHOLDER} stands for a rationale" in show_prompts(own, None, 1)
    assert not list(tmp_path.iterdir())


def test_text_fits_100_columns_and_shows_line_ends_and_blanks():
    long = "a word " * 40
    views = [PromptView("teacher", ("t",), "about", "q/1", f"Q: {long}\n\nA: ", 3, "It is (a)\n\n", 4, ("\n\n",))]
    text = format_prompts(views)
    assert all(len(line) <= WIDTH for line in text.splitlines())
    assert "     | A:\N{OPEN BOX}\n" in text
    assert "     | \N{RETURN SYMBOL}\n" in text
    assert "loss | It is (a)\N{RETURN SYMBOL}\nloss | \N{RETURN SYMBOL}" in text
    assert r"a response ends with '\n\n'" in text
    # Without marks and margins the text is complete.
    quoted = [line[7:] for line in text.splitlines() if line.startswith("     | ")]
    assert " ".join(quoted).count("word") == 40


RESPONSE = Response("", 0, "It is (a)", "It is", "(a)", True, "stop", -1.0, 4, "m", "greedy")


@pytest.mark.parametrize(
    ("changes", "bin_"),
    [
        ({}, "correct"),
        ({"correct": None}, "answered"),
        ({"correct": False}, "wrong"),
        ({"rationale": ""}, "no rationale"),
        ({"rationale": None, "correct": False}, "no rationale"),
        ({"answer": None, "correct": False}, "rationale only"),
        ({"answer": None, "rationale": None, "correct": False}, "unparsable"),
        ({"finish_reason": "length"}, "truncated"),
    ],
)
def test_every_response_is_in_one_bin(changes, bin_):
    assert response_bin(dataclasses.replace(RESPONSE, **changes)) == bin_


def write_responses(run: RunContext, name: str, rows: list[Response]) -> None:
    artefact = run.artefact("sample", name)
    artefact.begin({"name": name})
    writer = ResponseWriter(artefact.path)
    writer.write(rows)
    writer.merge(list(dict.fromkeys(row.question_id for row in rows)), 2)
    artefact.finish({"questions": 1, "responses": len(rows), "responses_max": 5, "correct": 3, "correct_share": 0.5})


def test_examples_are_a_few_of_every_bin(tmp_path):
    run = context(tmp_path)
    questions = list(run.questions.by_id(("w.train",)))
    rows = [
        dataclasses.replace(RESPONSE, question_id=id_, sample_index=i, correct=i < 3, text=f"text {id_} {i}")
        for id_ in questions
        for i in range(5)
    ]
    write_responses(run, "sampled", rows)
    [found] = response_sets(run, 2)
    assert found.summary == "40 responses: 24 correct, 16 wrong"
    assert [len(bin_.examples) for bin_ in found.bins.values()] == [2, 2]
    text = show_examples(run.config, str(tmp_path), 2)
    assert text.count("correct: w/train/") == text.count("wrong: w/train/") == 2
    for bin_ in found.bins.values():
        for example in bin_.examples:
            assert example.response in rows
            assert f"response | {example.response.text}" in text
    write_responses(run, "remote", [dataclasses.replace(RESPONSE, question_id="other/1")])
    with pytest.raises(InputError, match=r"remote: holds a response to 'other/1', which is no question of config\."):
        list(response_sets(run, 2))
    with pytest.raises(InputError, match="no complete set of responses; run it first: --jobs=sample"):
        show_examples(run.config, str(tmp_path / "empty"), 1)


def test_report_of_a_run_that_only_sampled_shows_prompts_and_responses(tmp_path):
    run = context(tmp_path)
    sample(run, "gold")
    report(run, "")
    page = Page((tmp_path / "report/index.html").read_text())
    words = page.words if isinstance(page.words, str) else " ".join(page.words)
    assert {"prompts", "responses"} <= set(page.ids)
    assert "Nothing has been evaluated yet." in words
    assert "8 responses: 8 correct" in words
    assert "not evaluated yet" in words
    assert "student in training student, twin" in words


@pytest.mark.slow
def test_commands_on_the_command_line(tmp_path):
    done = run_cli("show-prompts", "--config=tests/configs/small_chain.py", "--count=1", "--config.seed=1")
    assert done.returncode == 0, done.stderr
    assert "student in training" in done.stdout
    done = run_cli("--config=tests/configs/small_chain.py", f"--workdir={tmp_path}", "show-examples")
    assert done.returncode == 2
    assert f"error: show-examples: {tmp_path} has no complete set of responses" in done.stderr
    done = run_cli("show-prompt", "--config=tests/configs/small_chain.py")
    assert done.returncode == 2
    assert "unexpected argument 'show-prompt'; the commands are show-prompts, show-examples" in done.stderr
