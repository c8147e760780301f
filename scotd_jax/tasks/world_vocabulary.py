"""Vocabulary of the embedded world: three question families with their states, operations and templates.

Every family has twelve states of two kinds, which the reasoning never mentions, and four operations. A question steps
through the days of a week: each day applies an operation, changes nothing ("rest") or ends the question ("stop"). All
texts are lower case with spaces between words and punctuation, so that one word is one token.
"""

import dataclasses


@dataclasses.dataclass(frozen=True)
class QuestionFamily:
    """States, operations and templates of one family.

    Attributes:
      name: name of the family; the first tag of its questions.
      states: the first six are of the kind that the spurious cue favours.
      operations: in order of decreasing frequency (FREQUENCIES).
      verb: verb of sentences whose subject is an operation.
      questions: templates with `{name}`, `{start}`, `{days}` (the operations day by day), and the options `{a}`, `{b}`.
      opening: template of the optional first sentence of a rationale.
    """

    name: str
    states: tuple[str, ...]
    operations: tuple[str, ...]
    verb: str
    questions: tuple[str, ...]
    opening: str


DAYS = ("monday", "tuesday", "wednesday", "thursday", "friday", "saturday", "sunday")
NAMES = ("dan", "mia", "tom", "eve", "sam", "amy")
FREQUENCIES = (4, 3, 2, 2)  # relative frequencies of a family's operations in questions

FAMILIES = (
    QuestionFamily(
        name="town",
        states=(
            *("dock", "pier", "mill", "bridge", "beach", "lake"),
            *("barn", "cafe", "tower", "chapel", "school", "market"),
        ),
        operations=("tram", "lift", "tunnel", "lane"),
        verb="reaches",
        questions=(
            "{name} is at the {start} and takes {days} . {a} or {b} ?",
            "from the {start} {name} takes {days} . does {name} end at {a} or {b} ?",
        ),
        opening="{name} is at {start} .",
    ),
    QuestionFamily(
        name="paint",
        states=(
            *("red", "orange", "yellow", "pink", "brown", "gold"),
            *("blue", "green", "violet", "grey", "black", "white"),
        ),
        operations=("salt", "chalk", "milk", "oil"),
        verb="gives",
        questions=(
            "{name} has {start} paint and adds {days} . {a} or {b} ?",
            "to the {start} paint {name} adds {days} . does it turn {a} or {b} ?",
        ),
        opening="the paint is {start} .",
    ),
    QuestionFamily(
        name="spell",
        states=(
            *("duck", "goat", "hen", "cow", "pig", "lamb"),
            *("wolf", "bear", "fox", "deer", "hawk", "frog"),
        ),
        operations=("rain", "moon", "wind", "fire"),
        verb="makes",
        questions=(
            "{name} has a {start} that meets {days} . {a} or {b} ?",
            "the {start} of {name} meets {days} . does it become {a} or {b} ?",
        ),
        opening="{name} has a {start} .",
    ),
)

# One day of a rationale. A day of rest has as many words as any other, so the length of a text does not grow with the
# number of steps, and a student with learned positions has been trained on all positions that longer chains use.
STEPS = (
    "from {state} the {day} {operation} {verb} {result} .",
    "{day} {operation} : {state} , then {result} .",
    "{day} : {state} by {operation} {verb} {result} .",
)
REST, REST_VERB = "rest", "keeps"
STOP = "stop"
ENDING = "{day} stop ."
FACT = "from {state} the {operation} {verb} {result} ."
