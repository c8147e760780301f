"""Ledger of imported files: every row is imported, or skipped for one reason; per file and in total."""

from typing import Any

from scotd_jax.records import Response

MAX_LOCATIONS = 5  # locations that are listed per reason
_OUTCOMES = ("right", "wrong", "no_answer", "no_gold", "no_rationale")


class ImportLedger:
    """Counts rows per file. A row is one response, or one record that could not be parsed.

    Rows are counted twice, independently: by `count_read`, and by `count_imported` or `count_skipped`. `check` compares
    the two.
    """

    def __init__(self, files: list[str]) -> None:
        self._files: dict[str, dict[str, Any]] = {
            file: {"read": 0, "imported": 0, "skipped": {}, **dict.fromkeys(_OUTCOMES, 0)} for file in files
        }
        self._questions: dict[str, set[str]] = {file: set() for file in files}

    def count_read(self, file: str) -> None:
        self._files[file]["read"] += 1

    def count_imported(self, file: str, response: Response) -> None:
        """Counts an imported response by its outcome (right, wrong, no answer, no gold) and a missing rationale."""
        self._files[file]["imported"] += 1
        self._files[file][_outcome(response)] += 1
        self._files[file]["no_rationale"] += not response.has_rationale
        self._questions[file].add(response.question_id)

    def count_skipped(self, file: str, reason: str, where: str) -> None:
        """Counts a skipped row; the first locations per reason are listed."""
        bin_ = self._files[file]["skipped"].setdefault(reason, {"rows": 0, "first": []})
        bin_["rows"] += 1
        if len(bin_["first"]) < MAX_LOCATIONS:
            bin_["first"].append(where)

    def check(self) -> None:
        """Checks that the counts agree.

        Raises:
          RuntimeError: unless, for every file, as many rows are imported or skipped as were read.
        """
        for file, counts in self._files.items():
            skipped = sum(bin_["rows"] for bin_ in counts["skipped"].values())
            if counts["read"] != counts["imported"] + skipped:
                found = f"{counts['read']} rows read, {counts['imported']} imported, {skipped} skipped"
                raise RuntimeError(f"import ledger: {file}: {found}")

    @property
    def num_skipped(self) -> int:
        """Number of skipped rows over all files."""
        return sum(bin_["rows"] for counts in self._files.values() for bin_ in counts["skipped"].values())

    def to_json(self) -> dict[str, Any]:
        """Returns the counts as JSON data.

        Returns:
          `total`, and `files` by name. Each of them has the counts `read` and `imported`; `skipped`, the number of rows
          by reason (for a file also the first locations); the responses by outcome (`right`, `wrong`, `no_answer`,
          `no_gold`); and the counts `no_rationale` and `questions`.

        Raises:
          RuntimeError: as `check` does.
        """
        self.check()
        total: dict[str, Any] = {"read": 0, "imported": 0, "skipped": {}, **dict.fromkeys(_OUTCOMES, 0)}
        for counts in self._files.values():
            for key in total:
                if key != "skipped":
                    total[key] += counts[key]
            for reason, bin_ in counts["skipped"].items():
                total["skipped"][reason] = total["skipped"].get(reason, 0) + bin_["rows"]
        total["questions"] = len(set().union(*self._questions.values()))
        files = {file: counts | {"questions": len(self._questions[file])} for file, counts in self._files.items()}
        return {"total": total, "files": files}

    def summary(self) -> str:
        """Returns one line: the numbers of rows imported, skipped (by reason), and without answer or rationale."""
        total = self.to_json()["total"]
        skipped = ", ".join(f"{rows} {reason}" for reason, rows in total["skipped"].items())
        lacking = f"{total['no_answer']} without an answer, {total['no_rationale']} without a rationale"
        return (
            f"{total['imported']} of {total['read']} rows imported"
            + (f" (skipped: {skipped})" if skipped else "")
            + (f"; {lacking}" if total["no_answer"] or total["no_rationale"] else "")
        )


def _outcome(response: Response) -> str:
    if response.answer is None:
        return "no_answer"
    if response.correct is None:
        return "no_gold"
    return "right" if response.correct else "wrong"
