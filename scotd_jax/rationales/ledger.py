"""Where every response went: one bin each, counted per question, and the bins add up."""

from typing import Any

BINS = ("kept", "wrong", "unparsable", "truncated", "duplicate", "too_long", "not_selected")


class Ledger:
    """Counts of responses per bin and question.

    Responses are counted twice, independently: `receive` when one is read, `put` when it is decided where it goes.
    `check` compares the two.
    """

    def __init__(self) -> None:
        self._received: dict[str, int] = {}
        self._bins: dict[str, dict[str, int]] = {}

    def receive(self, question_id: str) -> None:
        """Counts one response that was read."""
        self._received[question_id] = self._received.get(question_id, 0) + 1

    def put(self, question_id: str, bin_: str) -> None:
        """Counts one response into a bin of `BINS`. Raises KeyError on any other."""
        if bin_ not in BINS:
            raise KeyError(f"{bin_!r} is not a bin; there are {', '.join(BINS)}")
        counts = self._bins.setdefault(question_id, {})
        counts[bin_] = counts.get(bin_, 0) + 1

    def check(self) -> None:
        """Raises RuntimeError unless, for every question, the bins hold as many responses as were read."""
        for question_id in self._received.keys() | self._bins.keys():
            received, binned = self._received.get(question_id, 0), sum(self._bins.get(question_id, {}).values())
            if received != binned:
                raise RuntimeError(f"ledger: question {question_id!r} has {received} responses, {binned} in the bins")

    @property
    def total(self) -> int:
        """Number of responses read."""
        return sum(self._received.values())

    @property
    def bins(self) -> dict[str, int]:
        """Responses per bin over all questions; every bin is there, in the order of `BINS`."""
        return {bin_: sum(counts.get(bin_, 0) for counts in self._bins.values()) for bin_ in BINS}

    def summary(self) -> str:
        """One line: how many responses were kept and which bins took the others."""
        kept, *others = self.bins.items()
        took = ", ".join(f"{count} {name}" for name, count in others if count)
        return f"{kept[1]} of {self.total} responses kept" + (f" ({took})" if took else "")

    def to_json(self) -> dict[str, Any]:
        """Plain data: `total`, `bins`, `questions` (answered, with_kept), and `per_question`: its non-empty bins.

        Raises RuntimeError as `check` does.
        """
        self.check()
        with_kept = sum("kept" in counts for counts in self._bins.values())
        return {
            "total": self.total,
            "bins": self.bins,
            "questions": {"answered": len(self._received), "with_kept": with_kept},
            "per_question": {
                question_id: {bin_: counts[bin_] for bin_ in BINS if bin_ in counts}
                for question_id, counts in sorted(self._bins.items())
            },
        }
