"""Thinking blocks of local models; those of remote models are tested in servers/test_live.py."""

import pytest

from scotd_jax import config as c
from scotd_jax.errors import InputError
from scotd_jax.jobs.context import make_context
from scotd_jax.jobs.generation.thinking import ThinkingBlocks
from scotd_jax.sampling.requests import Sample
from scotd_jax.workdir import Workdir
from tests.helpers.chat_model import chat_config, prompted

DEEP = "<think>\nWet.\n\nOr dry?</think>\n\nIt rains. So the answer is: (a)\n\nQ: more"
RESPONSE = "It rains. So the answer is: (a)"


@pytest.mark.parametrize(
    ("text", "think", "expected"),
    [
        (DEEP, "strip", (RESPONSE, "It rains.", "(a)", "stop")),
        (DEEP, "rationale", (RESPONSE, "Wet.\n\nOr dry?", "(a)", "stop")),
        (DEEP, "keep", (DEEP, None, None, "length")),
        ("<think>Wet", "strip", ("<think>Wet", None, None, "length")),
        (f"{RESPONSE}\n\nQ: more", "strip", (RESPONSE, "It rains.", "(a)", "stop")),
        ("\nIt rains. So", None, ("\nIt rains. So", None, None, "length")),
    ],
)
def test_thinking_blocks_of_a_local_model(chat_home, tmp_path, text, think, expected):
    run = make_context(chat_config(chat_home), Workdir(str(tmp_path)))
    question, task = run.questions.by_id(("home.train",))["home/train/1"]
    spec = c.ModelSource(think=think or "")
    model = prompted(run, c.Model(path=f"{chat_home}/model"), thinking=ThinkingBlocks.of(spec, "config.r", "m"))
    assert model.stop_strings({question.id: (question, task)}) == (() if think else ("\n\n",))
    row = model.respond(Sample(question.id, 0, text, "length", -1.0, 5, ()), question, task, "greedy")
    assert (row.text, row.rationale, row.answer, row.finish_reason) == expected


def test_response_that_is_only_thinking(chat_home, tmp_path):
    run = make_context(chat_config(chat_home), Workdir(str(tmp_path)))
    question, task = run.questions.by_id(("home.train",))["home/train/1"]
    thinking = ThinkingBlocks.of(c.ModelSource(), "config.rationales.r", "m")
    model = prompted(run, c.Model(path=f"{chat_home}/model"), thinking=thinking)
    sample_ = Sample(question.id, 0, "<think>", "stop", -1.0, 5, ())
    with pytest.raises(InputError, match=r"^config\.rationales\.r\.think: m generates <think> blocks; .*rationale$"):
        model.respond(sample_, question, task, "greedy")
    # When a student is evaluated, its response is unchanged.
    student = prompted(run, c.Model(path=f"{chat_home}/model"))
    assert student.respond(sample_, question, task, "greedy").text == "<think>"
