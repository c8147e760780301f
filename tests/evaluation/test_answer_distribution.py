"""Distributions of answers, and students that name one option."""

import pytest

from scotd_jax.evaluation.answer_distribution import MIN_QUESTIONS, answer_distribution, describe_collapse
from scotd_jax.records import Question, Response


def distribution(gold: list[str], answers: list[str | None], choices=None) -> dict:
    """The distribution of one answer per question; `choices` of question i, by default two that differ by question."""
    questions, grouped = [], {}
    for i, (right, answer) in enumerate(zip(gold, answers, strict=True)):
        offered = (f"x{i}", f"y{i}") if choices is None else choices(i)
        questions.append(Question(f"q{i}", "t", "test", "?", offered, right))
        grouped[f"q{i}"] = [Response(f"q{i}", 0, "", None, answer, answer == right, "stop", 0.0, 1, "m", "")]
    return answer_distribution(questions, grouped)


def test_one_option_for_545_of_552_questions_is_a_collapse():
    # A label-only student on QuaRel: its accuracy is that of the option, not evidence of reasoning.
    gold = ["(a)"] * 300 + ["(b)"] * 252
    found = distribution(gold, ["(a)"] * 545 + ["(b)"] * 7)
    assert found["majority"] == {"option": "(a)", "accuracy": pytest.approx(300 / 552)}
    assert found["options"] == {
        "(a)": {"named": pytest.approx(545 / 552), "right": pytest.approx(300 / 552)},
        "(b)": {"named": pytest.approx(7 / 552), "right": pytest.approx(252 / 552)},
    }
    assert found["collapsed"] == {
        "option": "(a)",
        "named": pytest.approx(545 / 552),
        "named_where_wrong": pytest.approx(245 / 252),
    }
    assert describe_collapse(found) == "collapsed: it names (a) (98.7 % of all answers, 97.2 % where it is wrong)"


@pytest.mark.parametrize(
    ("gold", "answers"),
    [
        (["(a)"] * 96 + ["(b)"] * 4, ["(a)"] * 96 + ["(b)"] * 4),  # right, although nearly all answers are equal
        (["(a)"] * 50 + ["(b)"] * 50, ["(b)"] * 50 + ["(a)"] * 50),  # always wrong, but not always the same
        (["(a)"] * 50 + ["(b)"] * 50, ["(a)"] * 94 + ["(b)"] * 6),
        (["(a)"] * 50 + ["(b)"] * 50, ["(a)"] * 90 + [None] * 10),  # 10 % unreadable: these are reported as such
        (["(a)"] * 40, ["(a)"] * 40),  # no question on which the option is wrong
        ((["(a)", "(b)"] * MIN_QUESTIONS)[: MIN_QUESTIONS - 1], ["(a)"] * (MIN_QUESTIONS - 1)),  # too few questions
        (["(a)", "(b)"] * 20, [None] * 40),
    ],
)
def test_other_distributions_are_no_collapse(gold, answers):
    found = distribution(gold, answers)
    assert found["collapsed"] is None
    assert describe_collapse(found) == ""


def test_options_are_texts_if_all_questions_offer_the_same():
    found = distribution(
        ["yes", "no", "Yes", "no"], ["No", "no", None, "maybe"], lambda i: ("yes", "no") if i % 2 else ("No", "yes")
    )
    assert found["options"] == {"no": {"named": 0.5, "right": 0.5}, "yes": {"named": 0.0, "right": 0.5}}
    assert (found["not_offered"], found["unreadable"]) == (0.25, 0.25)


def test_options_are_positions_if_choices_differ():
    found = distribution(["x0", "y1", "x2"], ["y0", "y1", "x0"])
    assert found["options"] == {
        "(a)": {"named": 0.0, "right": pytest.approx(2 / 3)},
        "(b)": {"named": pytest.approx(2 / 3), "right": pytest.approx(1 / 3)},
    }
    assert found["not_offered"] == pytest.approx(1 / 3)
    many = distribution(["c0-29", "c1-29"], ["c0-27", "c1-27"], lambda i: tuple(f"c{i}-{k}" for k in range(30)))
    assert many["options"]["(28)"]["named"] == many["options"]["(30)"]["right"] == 1.0


def test_open_questions_list_the_most_frequent_answers():
    gold = [str(i) for i in range(30)]
    found = distribution(gold, ["7"] * 30, lambda i: ())
    assert next(iter(found["options"])) == "7"
    assert len(found["options"]) == 8
    assert found["not_offered"] == 0.0
    assert found["majority"]["accuracy"] == pytest.approx(1 / 30)
    assert found["collapsed"]["option"] == "7"


def test_every_sample_counts():
    question = Question("q", "t", "test", "?", ("x", "y"), "x")
    rows = [
        Response("q", k, "", None, answer, answer == "x", "stop", 0.0, 1, "m", "") for k, answer in enumerate("xyy")
    ]
    found = answer_distribution([question], {"q": rows})
    assert [entry["named"] for entry in found["options"].values()] == pytest.approx([1 / 3, 2 / 3])
