"""Names of question sets: "TASK.SPLIT", or a fold of a split.

"csqa.train@0/5" is the first of five folds of a split and "csqa.train@!0/5" the other four. Folds serve cross-fitting:
a model trained on "@!0/5" generates for "@0/5", so no response comes from a question in its training data. A hash of
the question's text determines the fold, so copies of a question are always in the same fold.
"""

import hashlib
import re
from collections.abc import Sequence
from typing import NamedTuple

from scotd_jax.errors import InputError

_NAME = re.compile(r"(?P<task>.+)\.(?P<split>[^.@]+)(@(?P<others>!?)(?P<fold>\d+)/(?P<folds>\d+))?")


class QuestionSet(NamedTuple):
    """A parsed name: fold `fold` of `folds`, or, with `others`, all folds but that one."""

    task: str
    split: str
    fold: int = 0
    folds: int = 1
    others: bool = False

    @classmethod
    def parse(cls, name: str, where: str = "question set") -> "QuestionSet":
        """Parses a name. Raises InputError if it is malformed; `where` begins the message."""
        found = _NAME.fullmatch(name)
        if not found:
            raise InputError(f"{where}: {name!r} should be TASK.SPLIT, or TASK.SPLIT@0/5 or @!0/5 for a fold of it")
        if not found["folds"]:
            return cls(found["task"], found["split"])
        fold, folds = int(found["fold"]), int(found["folds"])
        if fold >= folds:
            raise InputError(f"{where}: {name!r}: there is no fold {fold} of {folds}; folds are numbered from 0")
        return cls(found["task"], found["split"], fold, folds, bool(found["others"]))

    def contains(self, text: str) -> bool:
        """Returns whether the question with this text belongs to the set."""
        digest = hashlib.blake2b(" ".join(text.split()).encode(), digest_size=8).digest()
        return (int.from_bytes(digest, "big") % self.folds == self.fold) != self.others


def file_stem(set_name: str) -> str:
    """Returns the set name for use in file names, with "-of-" in place of the slash of a fold."""
    return set_name.replace("/", "-of-")


def covers(set_names: Sequence[str], name: str) -> bool:
    """Returns whether a question set is one of some sets, or a fold of one."""
    return name in set_names or name.partition("@")[0] in set_names
