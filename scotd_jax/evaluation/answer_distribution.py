"""Which options are named, and whether a model has collapsed: it names nearly the same option whatever the question is.

An option is the position of a choice, "(a)" for the first. If all questions offer the same choices, such as yes and no,
it is the text of the choice; without choices, it is the answer itself.

Guessing is the wrong comparison for a collapsed model: naming one option reaches the share of questions on which it is
right (`majority`), without reading any of them.
"""

import string
from collections import Counter
from collections.abc import Mapping, Sequence
from typing import Any

from scotd_jax.records import Question, Response, fold_spelling

COLLAPSED = 0.95  # share of the answers that name one option from which a model has collapsed
MIN_QUESTIONS = 20  # on fewer questions, equal answers may be chance
LISTED_ANSWERS = 8  # listed options of open questions, the most frequent ones

_NOT_OFFERED = ""


def answer_distribution(questions: Sequence[Question], grouped: Mapping[str, Sequence[Response]]) -> dict[str, Any]:
    """Computes which options the responses name, as plain JSON values.

    Args:
      questions: questions with a gold answer.
      grouped: an equal number of responses to every question, by its id.

    Returns:
      A dict of
        options: option -> named (share of the responses) and right (share of the questions),
        not_offered, unreadable: share of responses with an answer that is no choice, and without a parsable answer,
        majority: the option that is right most often, and the accuracy of always naming it,
        collapsed: None; or, if both are at least COLLAPSED, the shares of the responses that name one option (named),
          and of those that do where another option is right (named_where_wrong), with that option.
    """
    names = _choice_names(questions)
    pairs = [
        (_option(question.answer, question, names), _option(row.answer, question, names))
        for question in questions
        for row in grouped[question.id]
    ]
    right, named = Counter(gold for gold, _ in pairs), Counter(option for _, option in pairs)
    majority, frequency = right.most_common(1)[0]
    options = names or [option for option, _ in (right + named).most_common() if option is not None][:LISTED_ANSWERS]
    shares = {o: {"named": named[o] / len(pairs), "right": right[o] / len(pairs)} for o in options}
    return {
        "options": shares,
        "not_offered": named[_NOT_OFFERED] / len(pairs) if names else 0.0,
        "unreadable": named[None] / len(pairs),
        "majority": {"option": majority, "accuracy": frequency / len(pairs)},
        "collapsed": _find_collapse(pairs) if len(questions) >= MIN_QUESTIONS else None,
    }


def describe_collapse(answers: Mapping[str, Any]) -> str:
    """Returns in words that a model has collapsed; "" if it has not. `answers` is an `answer_distribution`."""
    collapse = answers["collapsed"]
    if collapse is None:
        return ""
    shares = (
        f"{100 * collapse['named']:.1f} % of all answers, {100 * collapse['named_where_wrong']:.1f} % where it is wrong"
    )
    return f"collapsed: it names {collapse['option']} ({shares})"


def _find_collapse(pairs: Sequence[tuple[str | None, str | None]]) -> dict[str, Any] | None:
    """The most frequent answer if nearly all responses give it, and nearly all do so where it is wrong.

    The second condition spares a model that is right on questions of which nearly all have one answer.
    """
    named = Counter(option for _, option in pairs if option)
    if not named:
        return None
    option, count = named.most_common(1)[0]
    where_wrong = [answer == option for gold, answer in pairs if gold != option]
    if not where_wrong or min(count / len(pairs), sum(where_wrong) / len(where_wrong)) < COLLAPSED:
        return None
    shares = {"named": count / len(pairs), "named_where_wrong": sum(where_wrong) / len(where_wrong)}
    return {"option": option, **shares}


def _choice_names(questions: Sequence[Question]) -> list[str]:
    """Names of the options: the choices that all questions offer, or letters; [] if a question has no choices."""
    if not all(question.choices for question in questions):
        return []
    if len({frozenset(map(fold_spelling, question.choices)) for question in questions}) == 1:
        return [fold_spelling(choice) for choice in questions[0].choices]
    return [_letter(position) for position in range(max(len(question.choices) for question in questions))]


def _option(answer: str | None, question: Question, names: Sequence[str]) -> str | None:
    """The option that an answer names; None without an answer, "" if it is no choice of the question."""
    if answer is None or not names:
        return answer and fold_spelling(answer)
    folded, texts = fold_spelling(answer), [fold_spelling(choice) for choice in question.choices]
    letters = [_letter(position) for position in range(len(texts))]
    position = next((found.index(folded) for found in (texts, letters) if folded in found), None)
    if position is None:
        return _NOT_OFFERED
    return texts[position] if texts[position] in names else letters[position]


def _letter(position: int) -> str:
    letters = string.ascii_lowercase
    return f"({letters[position] if position < len(letters) else position + 1})"
