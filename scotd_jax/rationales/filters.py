"""Which responses a student learns from (SCoTD, section 3), and a ledger of all others.

A response is asked these questions in this order; the first that it fails decides its bin:

    not_selected  is its question one of the corpus, and its sample one of the first n?
    truncated     did it end by itself, and not at the token limit?
    unparsable    could an answer be parsed? (Not asked where the recipe uses none and keep is "all".)
    wrong         keep "correct": is that the gold answer? (keep "wrong": is it another? The others are not_selected)
    too_long      do prompt and target fit into the student's limits?
    duplicate     dedup: is its text new among those kept for the question?

What is left is kept. As n cuts before all filters, the corpus of a smaller n is a part of that of a larger one.
"""

from collections.abc import Callable, Iterable, Mapping

from scotd_jax.config import Corpus
from scotd_jax.errors import InputError
from scotd_jax.rationales.ledger import Ledger
from scotd_jax.records import Question, Response

TokenCounts = Callable[[Response], tuple[int, int]]


def sort_out(
    questions: Mapping[str, Question],
    responses: Iterable[Response],
    corpus: Corpus,
    token_counts: TokenCounts,
    needs_answer: bool = True,
) -> tuple[dict[str, list[Response]], Ledger]:
    """The responses that are kept, and the ledger of all.

    The result has the questions in the order of `questions`, without those of which nothing is kept, and each
    question's responses by sample index: it does not depend on the order in which responses come.
    `token_counts(response)` is the number of tokens of its prompt and of its target as the student reads them; it is
    called only for responses that got as far as `too_long`.

    Raises InputError on two responses of one name, and where `keep` needs a gold answer that is not known.
    """
    ledger = Ledger()
    by_question: dict[str, list[Response]] = {question_id: [] for question_id in questions}
    for response in responses:
        ledger.receive(response.question_id)
        if response.question_id in by_question:
            by_question[response.question_id].append(response)
        else:
            ledger.put(response.question_id, "not_selected")
    kept = {id_: sort_question(rows, corpus, token_counts, ledger, needs_answer) for id_, rows in by_question.items()}
    ledger.check()
    return {id_: rows for id_, rows in kept.items() if rows}, ledger


def sort_question(
    responses: Iterable[Response],
    corpus: Corpus,
    token_counts: TokenCounts,
    ledger: Ledger,
    needs_answer: bool = True,
) -> list[Response]:
    """The kept ones of all `responses` to one question, by sample index; each is put into a bin of `ledger`.

    Raises InputError as `sort_out` does.
    """
    kept: list[Response] = []
    texts: set[str] = set()
    last = None
    for response in sorted(responses, key=lambda r: r.sample_index):
        if response.name == last:
            raise InputError(f"sample {last[1]} of question {last[0]!r} comes twice among the responses")
        last = response.name
        bin_ = _bin(response, corpus, token_counts, needs_answer)
        if bin_ == "kept" and corpus.dedup and response.text in texts:
            bin_ = "duplicate"
        if bin_ == "kept":
            kept.append(response)
            texts.add(response.text)
        ledger.put(response.question_id, bin_)
    return kept


def _bin(response: Response, corpus: Corpus, token_counts: TokenCounts, needs_answer: bool) -> str:
    """The bin without regard to other responses."""
    if corpus.n and response.sample_index >= corpus.n:
        return "not_selected"
    if response.finish_reason == "length":
        return "truncated"
    if response.answer is None and needs_answer:
        return "unparsable"
    if corpus.keep != "all":
        if response.correct is None:
            raise InputError(
                f"question {response.question_id!r} has no gold answer, but keep={corpus.keep!r} compares with it: "
                "use keep='all'"
            )
        if corpus.keep == "correct" and not response.correct:
            return "wrong"
        if corpus.keep == "wrong" and response.correct:
            return "not_selected"
    prompt, target = token_counts(response)
    if prompt > corpus.max_prompt_tokens or target > corpus.max_response_tokens:
        return "too_long"
    return "kept"
