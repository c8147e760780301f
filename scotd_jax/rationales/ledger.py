"""Where every response went: one bin each, counted per question and per source, and the bins add up at every stage."""

from collections.abc import Mapping
from typing import Any

BINS = (
    "kept",
    "wrong",
    "unparsable",
    "truncated",
    "too_short",
    "too_long",
    "duplicate",
    "near_duplicate",
    "contaminated",
    "over_cap",
    "not_selected",
)
# In their order; each is named after the field of config.Corpus that decides it, where there is one.
STAGES = (
    "questions",
    "n",
    "truncated",
    "unparsable",
    "keep",
    "tokens",
    "dedup",
    "near_duplicates",
    "decontaminate",
    "cap",
    "rationale",
)


class Ledger:
    """Counts of responses per bin, question, source (the model that spoke) and stage.

    Responses are counted three times, independently: `receive` when one is read, `stage` when a filter sees some, and
    `put` when it is decided where one goes. `check` compares the three.
    """

    def __init__(self) -> None:
        self._received: dict[str, int] = {}
        self._bins: dict[str, dict[str, int]] = {}
        self._sources: dict[str, dict[str, int]] = {}
        self._source_totals: dict[str, int] = {}
        self._stages: dict[str, list[int]] = {}

    def receive(self, question_id: str, source: str = "", count: int = 1) -> None:
        """Counts responses that were read."""
        _add(self._received, question_id, count)
        _add(self._source_totals, source, count)

    def put(self, question_id: str, bin_: str, source: str = "", count: int = 1) -> None:
        """Counts responses into a bin of `BINS`. Raises KeyError on any other."""
        if bin_ not in BINS:
            raise KeyError(f"{bin_!r} is not a bin; there are {', '.join(BINS)}")
        _add(self._bins.setdefault(question_id, {}), bin_, count)
        _add(self._sources.setdefault(source, {}), bin_, count)

    def record_stage(self, name: str, came: int, dropped: int) -> None:
        """Counts responses that came to a stage of `STAGES`, and those of them that went no further."""
        if name not in STAGES:
            raise KeyError(f"{name!r} is not a stage; there are {', '.join(STAGES)}")
        counts = self._stages.setdefault(name, [0, 0])
        counts[0] += came
        counts[1] += dropped

    def merge(self, report: Mapping[str, Any]) -> None:
        """Adds another ledger, given as its `to_json`."""
        for question_id, counts in report["per_question"].items():
            _add(self._received, question_id, sum(counts.values()))
            for bin_, count in counts.items():
                _add(self._bins.setdefault(question_id, {}), bin_, count)
        for source, facts in report["sources"].items():
            _add(self._source_totals, source, facts["total"])
            for bin_, count in facts["bins"].items():
                _add(self._sources.setdefault(source, {}), bin_, count)
        for stage in report["stages"]:
            self.record_stage(stage["stage"], stage["in"], stage["dropped"])

    def check(self) -> None:
        """Raises RuntimeError unless the bins hold as many responses as were read, for every question and source, and
        every stage received what the one before it let pass."""
        for what, received, bins in (
            ("question", self._received, self._bins),
            ("source", self._source_totals, self._sources),
        ):
            for name in received.keys() | bins.keys():
                came, binned = received.get(name, 0), sum(bins.get(name, {}).values())
                if came != binned:
                    raise RuntimeError(f"ledger: {what} {name!r} has {came} responses, {binned} in the bins")
        left = self.total
        for name, came, dropped in self._in_order():
            if came != left:
                raise RuntimeError(f"ledger: {came} responses came to stage {name!r}, the one before let {left} pass")
            left -= dropped
        if self._stages and left != self.bins["kept"]:
            raise RuntimeError(f"ledger: {left} responses passed all stages, {self.bins['kept']} are kept")

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
        """Plain data: `total`, `bins`, `questions` (answered, with_kept), `stages` (in order: in, dropped, out),
        `sources` (per model: total, its non-empty bins) and `per_question`: its non-empty bins.

        Raises RuntimeError as `check` does.
        """
        self.check()
        with_kept = sum("kept" in counts for counts in self._bins.values())
        return {
            "total": self.total,
            "bins": self.bins,
            "questions": {"answered": len(self._received), "with_kept": with_kept},
            "stages": [
                {"stage": name, "in": came, "dropped": dropped, "out": came - dropped}
                for name, came, dropped in self._in_order()
            ],
            "sources": {
                source: {"total": total, "bins": _ordered(self._sources[source])}
                for source, total in sorted(self._source_totals.items())
            },
            "per_question": {question_id: _ordered(counts) for question_id, counts in sorted(self._bins.items())},
        }

    def _in_order(self) -> list[tuple[str, int, int]]:
        return [(name, *self._stages[name]) for name in STAGES if name in self._stages]


def _add(counts: dict[str, int], key: str, count: int) -> None:
    counts[key] = counts.get(key, 0) + count


def _ordered(counts: Mapping[str, int]) -> dict[str, int]:
    return {bin_: counts[bin_] for bin_ in BINS if bin_ in counts}
