"""Names of question sets: "TASK.SPLIT", or a fold of one.

"csqa.train@0/5" is the first of five folds of a split and "csqa.train@!0/5" the four others.
Cross-fitting needs them: a model that learnt from "@!0/5" speaks on "@0/5", so that nothing it says comes from a
question it has seen. Which fold a question is in follows from its text, so that copies of one question are never on
both sides.
"""

import hashlib
import re
from typing import NamedTuple

from scotd_jax.errors import InputError

_NAME = re.compile(r"(?P<task>.+)\.(?P<split>[^.@]+)(@(?P<out>!?)(?P<fold>\d+)/(?P<folds>\d+))?")


class QuestionSet(NamedTuple):
    """What a name says: fold `fold` of `folds`, or with `others` all folds but that one."""

    task: str
    split: str
    fold: int = 0
    folds: int = 1
    others: bool = False

    @classmethod
    def parse(cls, name: str, where: str = "question set") -> "QuestionSet":
        """Raises InputError if `name` is no such name."""
        found = _NAME.fullmatch(name)
        if not found:
            raise InputError(f"{where}: {name!r} should be TASK.SPLIT, or TASK.SPLIT@0/5 or @!0/5 for a fold of it")
        if not found["folds"]:
            return cls(found["task"], found["split"])
        fold, folds = int(found["fold"]), int(found["folds"])
        if fold >= folds:
            raise InputError(f"{where}: {name!r}: there is no fold {fold} of {folds}; they count from 0")
        return cls(found["task"], found["split"], fold, folds, bool(found["out"]))

    def holds(self, text: str) -> bool:
        """Whether the question of that text is in the set."""
        digest = hashlib.blake2b(" ".join(text.split()).encode(), digest_size=8).digest()
        return (int.from_bytes(digest, "big") % self.folds == self.fold) != self.others
