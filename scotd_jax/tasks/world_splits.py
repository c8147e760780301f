"""Options of the embedded world, and the splits that follow from them: sizes, families, steps, held-out chains, cue."""

import dataclasses
from collections.abc import Sequence

from scotd_jax.errors import InputError
from scotd_jax.tasks import world_vocabulary as words
from scotd_jax.tasks.world_vocabulary import QuestionFamily

FamilyAndSteps = tuple[QuestionFamily, int]


@dataclasses.dataclass(frozen=True)
class WorldOptions:
    """Options of the world: the keys of `config.Task.options`."""

    train: int = 600  # questions in each split
    dev: int = 256
    test: int = 256  # and as many contrast questions
    unseen: int = 256
    longer: int = 256
    gold: int = 5000
    statements: int = 2000  # texts of several facts each
    facts: int = 8  # facts per text of `statements`
    days: int = 5  # maximum number of days of a question, without the day of the stop
    steps: tuple[int, ...] = (2, 3)  # operations per question
    longer_steps: tuple[int, ...] = (4, 5)
    unseen_pairs: tuple[str, ...] = ("town 3", "paint 2")  # family and number of steps
    cue: float = 0.75  # share of questions whose right option is of the favoured kind
    held_out: float = 0.25  # share of the chains that are in no training split


@dataclasses.dataclass(frozen=True)
class SplitSpec:
    """Content of a split of questions.

    Attributes:
      split: its name.
      count: number of questions.
      pairs: family and number of steps of the questions; the pairs are used in turn.
      held_out: whether its chains are held out; None allows any chain.
      cue: share of questions whose right option is of the favoured kind.
      contrast: whether to generate the `contrast` split along with it.
      gold: whether to generate gold rationales.
    """

    split: str
    count: int
    pairs: Sequence[FamilyAndSteps]
    held_out: bool | None
    cue: float
    contrast: bool = False
    gold: bool = False


def split_specs(options: WorldOptions) -> list[SplitSpec]:
    """Returns the splits of questions, in the order in which they are generated."""
    pairs = [(family, steps) for family in words.FAMILIES for steps in options.steps]
    unseen = [pair for pair in pairs if f"{pair[0].name} {pair[1]}" in options.unseen_pairs]
    seen = [pair for pair in pairs if pair not in unseen]
    longer = [(family, steps) for family in words.FAMILIES for steps in options.longer_steps]
    return [
        SplitSpec("train", options.train, seen, held_out=False, cue=options.cue),
        SplitSpec("dev", options.dev, seen, held_out=True, cue=options.cue),
        SplitSpec("test", options.test, seen, held_out=True, cue=options.cue, contrast=True),
        SplitSpec("unseen", options.unseen, unseen, held_out=True, cue=0.5),
        SplitSpec("longer", options.longer, longer, held_out=None, cue=0.5),
        SplitSpec("gold", options.gold, pairs, held_out=False, cue=options.cue, gold=True),
    ]


def check_pairs(spec: SplitSpec, options: WorldOptions, where: str) -> None:
    """Checks that the questions of a split can exist.

    Args:
      spec: the split.
      options: the options that it follows from.
      where: their config path, for messages.

    Raises:
      InputError: if the options leave no pair of family and number of steps for the split, or one with more steps than
        days.
    """
    if spec.count and not spec.pairs:
        raise InputError(
            f"{where}: no pair of family and number of steps remains for the {spec.count} questions of split "
            f"{spec.split!r}; there are steps={options.steps}, longer_steps={options.longer_steps} and "
            f"unseen_pairs={options.unseen_pairs}; change one of them, or set {spec.split}=0"
        )
    most = max((steps for _, steps in spec.pairs), default=0)
    if spec.count and most > options.days:
        raise InputError(
            f"{where}.days: {options.days} days have no room for the {most} steps of split {spec.split!r}, one a "
            f"day; expected at least {most}, or set {spec.split}=0"
        )
