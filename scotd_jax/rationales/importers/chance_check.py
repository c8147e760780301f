"""Checks that imported answers are better than guessing: a corpus joined in the wrong order agrees at chance level."""

from scotd_jax.records import Response

MIN_ROWS = 50  # minimum number of rows with choices and a gold answer; there is no test with fewer
SIGNIFICANCE = 0.01  # level of the one-sided binomial test


class ChanceCheck:
    """Compares the accuracy of responses to multiple-choice questions with that of guessing."""

    def __init__(self) -> None:
        self._rows = self._correct = self._unparsed = 0
        self._expected_by_chance = 0.0  # expected number of correct guesses

    def add(self, choices: int, response: Response) -> None:
        """Counts a response to a question with this number of choices."""
        if choices > 1 and response.correct is not None:
            self._rows += 1
            self._correct += response.correct
            self._unparsed += response.answer is None
            self._expected_by_chance += 1 / choices

    def refusal(self) -> str | None:
        """Returns why the corpus is refused; None if its accuracy is significantly above chance or it is too small."""
        if self._rows < MIN_ROWS:
            return None
        from scipy.stats import binom

        chance = self._expected_by_chance / self._rows
        if binom.sf(self._correct - 1, self._rows, chance) < SIGNIFICANCE:
            return None
        cause = "its rows were probably joined to the questions in the wrong order"
        if 2 * self._unparsed > self._rows:
            cause = (
                f"in {self._unparsed} rows no answer could be parsed: they probably do not use the marker of the "
                "task's format (answer_pattern: a regular expression with one group)"
            )
        return (
            f"{self._correct} of {self._rows} answers agree with the gold ones ({self._correct / self._rows:.1%}), no "
            f"better than chance ({chance:.1%}): {cause}. To import it all the same: option allow_chance=True"
        )
