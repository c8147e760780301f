"""Tests of prompt formats, of jsonl and multiple-choice tasks, and of the registry."""

import json

import pytest
from hypothesis import given
from hypothesis import strategies as st

from scotd_jax import config
from scotd_jax.errors import InputError
from scotd_jax.records import Question, Response, to_json
from scotd_jax.tasks.base import LoadedTask
from scotd_jax.tasks.prompt_formats import FORMATS, Parsed, get_prompt_format, is_correct
from scotd_jax.tasks.registry import load_task

LETTERED = Question("t/s/1", "t", "s", "What floats? (a) cork (b) a stone", ("cork", "a stone"), "(a)")
WORDED = Question("t/s/2", "t", "s", "cork or stone ?", ("cork", "stone"), "cork")
OPEN = Question("t/s/3", "t", "s", "What is 2 + 2?", (), "4")
UNLABELLED = Question("t/s/4", "t", "s", "cork or stone ?", ("cork", "stone"))


def test_scotd_format_matches_the_official_code():
    scotd = FORMATS["scotd"]
    assert scotd.prompt(LETTERED) == "Q: What floats? (a) cork (b) a stone\nA: "
    assert scotd.target("\nCork is light.\n", "(a)") == "Cork is light. So the answer is: (a)\n\n"
    assert scotd.target(None, "(a)") == "(a)\n\n"
    assert scotd.stops == ("\n\n",)


def test_only_the_scotd_format_has_newlines():
    for name in ("t5", "plain"):
        prompt_format = FORMATS[name]
        assert "\n" not in prompt_format.prompt(WORDED) + prompt_format.target("light", "cork")
        assert prompt_format.stops == ()


def test_context_precedes_the_question_and_is_the_prompt_without_one():
    passage = Question("t/s/5", "t", "s", "Does it float?", context="Cork is light.")
    assert FORMATS["scotd"].prompt(passage) == "Q: Cork is light.\nDoes it float?\nA: "
    plain = Question("t/s/6", "t", "s", "", context="cork is")
    assert FORMATS["plain"].prompt(plain) == "cork is"
    assert FORMATS["plain"].target("light .", None) == "light ."
    assert FORMATS["plain"].prompt(Question("t/s/7", "t", "s", "")) == ""


@pytest.mark.parametrize("name", FORMATS)
@given(rationale=st.text(st.characters(codec="utf-8", exclude_characters="\n:"), max_size=40))
def test_parse_inverts_target(name, rationale):
    prompt_format = FORMATS[name]
    rationale = rationale.replace("so the answer is", "").strip()
    for question in (LETTERED, WORDED, OPEN):
        text = prompt_format.target(rationale, question.answer)
        label = prompt_format.target(None, question.answer)
        assert prompt_format.parse(text, question) == Parsed(rationale, question.answer)
        assert prompt_format.parse(label, question) == Parsed(None, question.answer)


@pytest.mark.parametrize(
    ("text", "question", "expected"),
    [
        # The last marker counts, and the stop string ends the response.
        ("No. So the answer is: (b) wait. So the answer is: (a)", LETTERED, ("No. So the answer is: (b) wait.", "(a)")),
        ("Light. So the answer is: (a)\n\nQ: Next? So the answer is: (b)\n\n", LETTERED, ("Light.", "(a)")),
        # Leading newlines do not make the response empty.
        ("\n\nLight. So the answer is: (a)\n\n", LETTERED, ("Light.", "(a)")),
        # Case and spacing are ignored; the answer has the form of the question.
        ("Light. So the answer is:  (A) ", LETTERED, ("Light.", "(a)")),
        ("So the answer is: (a)", LETTERED, ("", "(a)")),
        # A label alone, as from a label-only student.
        ("(b)\n\n", LETTERED, (None, "(b)")),
        ("STONE", WORDED, (None, "stone")),
        # No valid form of an answer: unparsable, not wrong.
        ("(c)", LETTERED, (None, None)),
        ("cork", LETTERED, (None, None)),
        ("Light. So the answer is: (a) cork", LETTERED, ("Light.", None)),
        ("Light. So the answer is (a)", LETTERED, (None, None)),
        ("", LETTERED, (None, None)),
        # Without choices any text is an answer.
        ("Count. So the answer is: 5\n\n", OPEN, ("Count.", "5")),
        ("  ", OPEN, (None, None)),
        # Without a gold answer both forms are valid.
        ("(b)", UNLABELLED, (None, "(b)")),
        ("stone", UNLABELLED, (None, "stone")),
    ],
)
def test_parse(text, question, expected):
    assert FORMATS["scotd"].parse(text, question) == expected


def test_is_correct():
    assert is_correct("(a)", LETTERED) is True
    assert is_correct("(A)", LETTERED) is True
    assert is_correct("(b)", LETTERED) is False
    assert is_correct(None, LETTERED) is False
    assert is_correct("stone", UNLABELLED) is None


def test_unknown_formats_and_kinds_are_refused():
    with pytest.raises(InputError, match="'scot' is not a format; there are scotd, t5, chat, plain"):
        get_prompt_format("scot")
    with pytest.raises(InputError, match=r"config\.tasks\.mine\.kind: unknown kind 'jsnl'; did you mean 'jsonl'"):
        load_task("mine", config.Task(kind="jsnl"), 0)


# -- JSON lines ------------------------------------------------------------------------------------------------------


def write(path, *lines):
    path.write_text("".join(f"{line}\n" for line in lines))


def own(folder, **settings):
    """Returns the task "own" of the kind jsonl."""
    return load_task("own", config.Task(kind="jsonl", path=str(folder), **settings), 0)


def test_jsonl_reads_questions_and_gold_responses(tmp_path):
    gold = Response("t/s/1", 0, "x", "Light.", "(a)", True, "stop", 0.0, 3, "me", "hand")
    write(tmp_path / "train.jsonl", to_json(LETTERED), "", to_json(OPEN))
    write(tmp_path / "train.gold.jsonl", to_json(gold))
    write(tmp_path / "test.jsonl", to_json(WORDED))
    task = own(tmp_path)
    assert isinstance(task, LoadedTask)
    assert task.splits == ("test", "train")
    assert task.questions("train") == [LETTERED, OPEN]
    assert task.gold("train") == [gold]
    assert task.gold("test") == []
    assert own(tmp_path, limit=1).questions("train") == [LETTERED]
    assert own(tmp_path, format="plain").format == FORMATS["plain"]
    assert "Light. So the answer is: (a)\n\n" in list(task.texts())
    with pytest.raises(InputError, match="task 'own' has no split 'dev'; it has test, train"):
        task.questions("dev")


@pytest.mark.parametrize(
    ("line", "message"),
    [
        ("{broken", "train.jsonl line 2: not a JSON object"),
        ('{"id": "x"}', "train.jsonl line 2: field 'task' is missing"),
        (to_json(LETTERED), r"train.jsonl: the id 't/s/1' occurs twice"),
        (to_json(WORDED).replace('"answer": "cork"', '"answer": "(c)"'), r"train.jsonl line 2: the answer '\(c\)'"),
    ],
)
def test_jsonl_refuses_malformed_rows(tmp_path, line, message):
    write(tmp_path / "train.jsonl", to_json(LETTERED), line)
    with pytest.raises(InputError, match=message):
        own(tmp_path).questions("train")


def test_jsonl_refuses_missing_folders_and_splits(tmp_path):
    with pytest.raises(InputError, match=r"config\.tasks\.own\.path: .* holds no file SPLIT\.jsonl"):
        own(tmp_path / "nowhere")
    with pytest.raises(InputError, match="needs the folder"):
        load_task("own", config.Task(kind="jsonl"), 0)
    with pytest.raises(InputError, match=r"config\.tasks\.own\.options\.depth"):
        own(tmp_path, options={"depth": 3})
    write(tmp_path / "train.jsonl", to_json(WORDED))
    gold = Response("t/s/9", 0, "x", None, None, None, "stop", 0.0, 3, "me", "hand")
    write(tmp_path / "train.gold.jsonl", to_json(gold))
    with pytest.raises(InputError, match=r"train\.gold\.jsonl line 1: no question 't/s/9'"):
        own(tmp_path).questions("train")
    (tmp_path / "test.jsonl").write_bytes(b"\xff\xfe")
    with pytest.raises(InputError, match=r"test\.jsonl: not UTF-8 text"):
        own(tmp_path).questions("test")


# -- CommonsenseQA, OpenBookQA, ARC ----------------------------------------------------------------------------------


def row(identity="q1", labels="ABC", key="B", stem="Why do  cats purr?"):
    choices = [{"text": f"reason {i}", "label": label} for i, label in enumerate(labels)]
    return json.dumps({"answerKey": key, "id": identity, "question": {"choices": choices, "stem": stem}})


def choice_task(folder, **options):
    return load_task("arc", config.Task(kind="multiple_choice", path=str(folder), options=options), 0)


def test_multiple_choice_maps_keys_by_position(tmp_path):
    write(tmp_path / "easy.jsonl", row(), row("q2", "1234", "3"), row("q3", "ABCDE", "E"), row("q4", key=None))
    [letter, digit, fifth, unlabelled] = choice_task(tmp_path, files={"test": "easy.jsonl"}).questions("test")
    assert letter.text == "Why do cats purr? (a) reason 0 (b) reason 1 (c) reason 2"
    assert (letter.id, letter.split, letter.answer) == ("arc/test/q1", "test", "(b)")
    assert letter.choices == ("reason 0", "reason 1", "reason 2")
    assert (digit.answer, fifth.answer, unlabelled.answer) == ("(c)", "(e)", None)


def test_multiple_choice_in_block_layout(tmp_path):
    write(tmp_path / "dev.jsonl", row())
    [question] = choice_task(tmp_path, layout="block").questions("dev")
    assert question.text == "Why do cats purr?\nAnswer Choices:\n(a) reason 0\n(b) reason 1\n(c) reason 2"


@pytest.mark.parametrize(
    ("line", "message"),
    [
        ("[", r"dev\.jsonl line 2: not a JSON object"),
        ("[]", r"dev\.jsonl line 2: expected a JSON object, found '\[\]'"),
        ('{"id": "q2", "question": {"stem": 1, "choices": []}}', r"dev\.jsonl line 2: expected \{\"id\", .* TypeError"),
        ('{"id": "q2", "question": {"stem": "Why?"}}', r"dev\.jsonl line 2: expected .* KeyError: 'choices'"),
        (row("q2", key="D"), r"dev\.jsonl line 2: answerKey 'D' is not the label of a choice \(A, B, C\)"),
        (row("q2", labels="AAB"), r"dev\.jsonl line 2: expected choices with different labels"),
        (row("q1"), r"dev\.jsonl line 2: the id 'arc/dev/q1' occurs twice"),
    ],
)
def test_multiple_choice_refuses_malformed_rows(tmp_path, line, message):
    write(tmp_path / "dev.jsonl", row(), line)
    with pytest.raises(InputError, match=message):
        choice_task(tmp_path).questions("dev")


def test_multiple_choice_refuses_unknown_options(tmp_path):
    with pytest.raises(InputError, match=r"holds none of the files SPLIT\.jsonl"):
        choice_task(tmp_path)
    with pytest.raises(InputError, match=r"gone\.jsonl: no such file"):
        choice_task(tmp_path, files={"dev": "gone.jsonl"})
    with pytest.raises(InputError, match="layout: 'table' is not one of line, block"):
        choice_task(tmp_path, layout="table")
    with pytest.raises(InputError, match=r"options\.shuffle"):
        choice_task(tmp_path, shuffle=True)
