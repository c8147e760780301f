"""Instructions for instruction-tuned models, and parsing of answers in the wordings of such models."""

import dataclasses

import pytest

from scotd_jax.errors import InputError
from scotd_jax.records import Question
from scotd_jax.tasks.answer_patterns import parse_chat
from scotd_jax.tasks.instructions import LABEL, REASON, check_instruction, default_instruction
from scotd_jax.tasks.prompt_formats import FORMATS, answer_forms
from scotd_jax.tasks.recipes import RECIPES

LETTERED = Question("t/s/1", "t", "s", "What floats? (a) cork (b) a stone", ("cork", "a stone"), "(a)")
WORDED = Question("t/s/2", "t", "s", "Is it wet?", ("yes", "no"), "no")
NUMBER = Question("t/s/3", "t", "s", "What is 2 + 2?", (), "4")
OPEN = Question("t/s/4", "t", "s", "Where is Paris?", (), "France")
MANY = Question("t/s/5", "t", "s", "Which letter?", tuple("pqrstuvwx"), "(i)")


@pytest.mark.parametrize(
    ("question", "sentence"),
    [
        (LETTERED, '"So the answer is: (a)" or "So the answer is: (b)"'),
        (WORDED, '"So the answer is: yes" or "So the answer is: no"'),
        (NUMBER, '"So the answer is: NUMBER"'),
        (OPEN, '"So the answer is: ANSWER"'),
    ],
)
def test_instruction_states_the_answer_sentence_of_the_format(question, sentence):
    prompt_format = dataclasses.replace(FORMATS["scotd"], instruction=REASON)
    assert prompt_format.prompt(question) == (f"Q: {question.text}\n{REASON.format(answer_sentence=sentence)}\nA: ")
    # A response that follows the instruction is parsed.
    if question.choices:
        for form, quoted in zip(answer_forms(question), sentence.split(" or "), strict=True):
            assert prompt_format.parse(f"It is light. {quoted[1:-1]}", question) == ("It is light.", form)


def test_instruction_lists_a_few_of_many_answers():
    prompt_format = dataclasses.replace(FORMATS["t5"], instruction=LABEL)
    expected = "Question: Which letter? Write only the answer: (a) or (b) or (c) or (d) or (e) or .... Answer: "
    assert prompt_format.prompt(MANY) == expected


def test_context_alone_is_followed_by_the_instruction():
    prompt_format = dataclasses.replace(FORMATS["scotd"], instruction="Go on.")
    assert prompt_format.prompt(Question("q", "t", "s", "", context="Once")) == "Once\nGo on."


def test_default_instruction_fits_the_recipe():
    found = {name: default_instruction(recipe) for name, recipe in RECIPES.items()}
    assert found["scotd"] == REASON
    assert found["label"] == found["teacher_label"] == LABEL
    assert {found[name] for name in ("answer_first", "step_by_step", "rationale")} == {""}


@pytest.mark.parametrize(
    ("instruction", "message"),
    [("End with {answer}.", "w: unknown field {answer}; did you mean 'answers'"), ("{", "w: '{' is not a valid")],
)
def test_invalid_instructions_are_refused(instruction, message):
    with pytest.raises(InputError, match=message.replace("{", r"\{")):
        check_instruction(instruction, "w")


@pytest.mark.parametrize(
    ("text", "rationale", "answer"),
    [
        ("Cork is light. So the answer is: (a)", "Cork is light.", "(a)"),
        ("Cork is light.\n\nSo the answer is (a).", "Cork is light.", "(a)"),
        ("Cork is light.\n\n**So the answer is: (A)**\n\nAnything else?", "Cork is light.", "(a)"),
        ('Cork is light. "so the answer is: b"', "Cork is light.", "(b)"),
        ("So the answer is: a stone.", "", "(b)"),
        ("So the answer is: (a)? No. So the answer is: (b)", "So the answer is: (a)? No.", "(b)"),
        ("So the answer is: (a) or (b).", "", None),
        ("So the answer is: (a), (b).", "", None),
        ("So the answer is: (B) A stone.", "", "(b)"),
        ("So the answer is: b. a stone", "", "(b)"),
        ("So the answer is: (a) a stone", "", None),
        ("So the answer is:\n(a)", "", "(a)"),
        ("So the answer is: (c)", "", None),
        ("It is light. The correct answer is (a) cork, because it is light.", "It is light.", "(a)"),
        ("The answer is (a). I hope this helps!", "", "(a)"),
        ("It floats.\nAnswer: **B**", "It floats.", "(b)"),
        ("The answer is light.", "", None),
        ("It may be (a).", None, None),
    ],
)
def test_answer_sentences_in_other_wordings(text, rationale, answer):
    assert parse_chat(text, LETTERED) == (rationale, answer)


def test_blank_lines_of_a_rationale_do_not_end_its_target():
    assert FORMATS["scotd"].paragraph("One.\n\n\nTwo.\n\nThree.") == "One.\nTwo.\nThree."
    assert FORMATS["t5"].paragraph("One.\n\nTwo.") == "One.  Two."
