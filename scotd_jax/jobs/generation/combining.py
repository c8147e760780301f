"""One answer out of several, each to another rationale of the same question: by vote, or by adding probabilities."""

import dataclasses
from collections.abc import Iterator

import numpy as np
from etils import epath

from scotd_jax.config import Sampling
from scotd_jax.distributed import hosts
from scotd_jax.errors import InputError
from scotd_jax.evaluation.marginalization import log_marginal
from scotd_jax.evaluation.voting import majority_vote
from scotd_jax.jobs.context import Run
from scotd_jax.jobs.generation.local import Asked, Given, Speaker, collect, read_all, speak
from scotd_jax.records import Response
from scotd_jax.sampling.likelihood import Candidates, score_candidates
from scotd_jax.tasks.prompt_formats import answer_forms, is_correct


def by_vote(
    run: Run, speaker: Speaker, asked: Asked, given: Given, sampling: Sampling, folder: epath.Path, set_name: str
) -> list[epath.Path]:
    """An answer to every rationale, and of each question's answers the one with most votes."""
    stem = f"{set_name}.each.responses"
    each = read_all(speak(run, speaker, asked, sampling, seed=run.config.seed, folder=folder, stem=stem, given=given))
    said: dict[str, list[Response]] = {}
    for row in each:
        said.setdefault(row.question_id, []).append(row)

    def work(done) -> tuple[int, Iterator[list[Response]]]:
        rows = []
        for answers in hosts.local_share([answers for id_, answers in said.items() if (id_, 0) not in done]):
            winner = majority_vote([row.answer for row in answers])
            first = next(row for row in answers if row.answer == winner)
            rows.append(dataclasses.replace(first, sample_index=0, sampling=f"vote over {len(answers)} rationales"))
        return len(rows), iter([rows])

    return collect(run, work, folder, "  votes", f"{set_name}.responses", list(asked))


def by_marginal(
    run: Run, speaker: Speaker, asked: Asked, given: Given, sampling: Sampling, folder: epath.Path, set_name: str
) -> list[epath.Path]:
    """Of every question the answer whose probability, summed over the rationales, is largest."""
    for question, _ in asked.values():
        if not question.choices:
            raise InputError(f"question {question.id!r} has no choices to sum over; use combine='vote'")
    forms = {id_: answer_forms(question) for id_, (question, _) in asked.items()}

    def work(done) -> tuple[int, Iterator[list[Response]]]:
        missing = hosts.local_share([id_ for id_ in asked if (id_, 0) not in done])
        return len(missing), rows(missing)

    def rows(missing: list[str]) -> Iterator[list[Response]]:
        wanted = []
        for id_ in missing:
            question, task = asked[id_]
            end = speaker.style(task).end  # a stop string; where there is none the end token ends an answer
            last = [] if end else [speaker.tokenizer.eos_id]
            responses = [speaker.tokenizer.encode(form + end) + last for form in forms[id_]]
            wanted += [Candidates(id_, speaker.prompt_ids(question, task, text), responses) for text in given[id_]]
        found: dict[str, list[np.ndarray]] = {id_: [] for id_ in missing}
        sizes = {"batch_size": sampling.batch_size, "bucket": sampling.bucket, "mesh": run.own_mesh}
        for batch in score_candidates(speaker.model, speaker.params, wanted, **sizes):
            for id_, log_p in batch:
                found[id_].append(log_p)
        yield [answer(id_, log_marginal(np.stack(log_p))) for id_, log_p in found.items()]

    def answer(id_: str, log_p: np.ndarray) -> Response:
        question, best = asked[id_][0], int(log_p.argmax())
        said = forms[id_][best]
        return Response(
            question_id=id_,
            sample_index=0,
            text=said,
            rationale=given[id_][0],
            answer=said,
            correct=is_correct(said, question),
            finish_reason="stop",
            logprob=round(float(log_p[best]), 4),
            num_tokens=len(speaker.tokenizer.encode(said)) + 1,
            model=speaker.name,
            sampling=f"summed over {len(given[id_])} rationales",
        )

    return collect(run, work, folder, "  summed", f"{set_name}.responses", list(asked))
