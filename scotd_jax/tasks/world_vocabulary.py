"""The words of the embedded world: three families of questions, their states, operations and wordings.

Every family has twelve states, of two kinds that the reasoning never mentions, and four operations. A question walks
through the days of a week: on each day an operation is met, or nothing happens ("rest"), or the walk ends ("stop").
All texts are lower case with blanks between words and punctuation, so that one word is one token.
"""

import dataclasses


@dataclasses.dataclass(frozen=True)
class QuestionFamily:
    """One family. The first six states are of the kind that the cue favours; operations come by falling frequency.

    `questions` and `openings` are templates: `{name}`, `{start}`, `{days}` (the week, day by day), `{a}` and `{b}`
    (the two options). `verb` is what an operation does in a sentence.
    """

    name: str
    states: tuple[str, ...]
    operations: tuple[str, ...]
    verb: str
    questions: tuple[str, ...]
    opening: str


DAYS = ("monday", "tuesday", "wednesday", "thursday", "friday", "saturday", "sunday")
NAMES = ("dan", "mia", "tom", "eve", "sam", "amy")
FREQUENCIES = (4, 3, 2, 2)  # of a family's operations, in questions and in statements alike

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

# One day of a rationale. A day of rest is worded as any other and takes as many words, so that a longer chain, which
# has fewer days of rest, is no longer as a text: a student with learned positions has seen all of them.
STEPS = (
    "from {state} the {day} {operation} {verb} {result} .",
    "{day} {operation} : {state} , then {result} .",
    "{day} : {state} by {operation} {verb} {result} .",
)
REST, REST_VERB = "rest", "keeps"
STOP = "stop"
ENDING = "{day} stop ."
FACT = "from {state} the {operation} {verb} {result} ."
