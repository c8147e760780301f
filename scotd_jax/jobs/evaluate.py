"""The evaluate job: a student answers question sets in one of its ways, and all that it said is kept."""

import dataclasses
import json
from collections.abc import Iterator

import numpy as np

from scotd_jax.config import Asking, Model, Sampling, plain
from scotd_jax.distributed import hosts
from scotd_jax.errors import InputError
from scotd_jax.evaluation.contrast import consistency
from scotd_jax.evaluation.marginal import marginal
from scotd_jax.evaluation.scoring import outcomes, score
from scotd_jax.evaluation.voting import majority, vote
from scotd_jax.jobs.build import target_ids
from scotd_jax.jobs.chain import askings
from scotd_jax.jobs.given import identity, load_given
from scotd_jax.jobs.run import Run
from scotd_jax.jobs.speaking import Asked, Given, Speaker, collect, load_speaker, read_all, speak
from scotd_jax.records import Response
from scotd_jax.sampling.choices import Candidates, score_candidates
from scotd_jax.tasks.formats import answer_forms, is_correct
from scotd_jax.workdir import write_text


def evaluate(run: Run, name: str) -> None:
    """evaluations/NAME: TASK.SPLIT.responses.jsonl for every set, results.json, manifest.

    With several rationales a question, TASK.SPLIT.each.responses.jsonl holds the answer to each of them and
    TASK.SPLIT.responses.jsonl the one they agree on.
    """
    asking, settings = askings(run.config)[name], run.config.evaluation
    spec = run.config.students[asking.student]
    artefact = run.artefact("evaluate", name)
    made_of = {
        "asking": plain(asking) | {"sets": None, "arm": None},
        "sampling": plain(settings.sampling),
        "self_consistency": plain(settings.self_consistency),
        "student": run.artefact("train", asking.student).digest,
        "given": identity(run, asking.given),
        "questions": run.questions_identity(asking.sets),
        "seed": run.config.seed,
    }
    if not artefact.begin(made_of):
        run.log("  already complete")
        return
    speaker = load_speaker(run, asking.student, Model(student=asking.student), spec.precision)
    results, rows_by_set = {}, {}
    for set_name in asking.sets:
        asked = run.ask((set_name,))
        questions = [question for question, _ in asked.values()]
        given = load_given(run, asking.student, asking.given, asked, asking.rationale, asking.n)
        folder = artefact.path
        if given is None or asking.n == 1 and asking.combine == "vote":
            common = {"seed": run.config.seed, "folder": folder, "stem": f"{set_name}.responses", "given": given}
            rows = read_all(speak(run, speaker, asked, settings.sampling, **common))
        else:
            combine = _by_vote if asking.combine == "vote" else _by_marginal
            rows = read_all(combine(run, speaker, asked, given, settings.sampling, folder, set_name))
        rows_by_set[set_name] = questions, rows
        results[set_name] = score(questions, rows, settings.confidence)
        if settings.self_consistency.n and given is None:
            stem = f"{set_name}.n{settings.self_consistency.n}.responses"
            paths = speak(
                run, speaker, asked, settings.self_consistency, seed=run.config.seed, folder=folder, stem=stem
            )
            results[set_name]["self_consistency"] = vote(questions, read_all(paths), confidence=settings.confidence)
        run.log(f"  {set_name}: accuracy {100 * results[set_name]['accuracy']:.1f} of {len(questions)} questions")
    questions = [question for set_questions, _ in rows_by_set.values() for question in set_questions]
    right = {id_: r for set_questions, rows in rows_by_set.values() for id_, r in outcomes(set_questions, rows).items()}
    output = {"sets": results, "contrast": consistency(questions, right, settings.confidence)}
    if hosts.is_first():
        write_text(artefact.path / "results.json", json.dumps(output, indent=2) + "\n")
    artefact.finish({key: result["accuracy"] for key, result in results.items()}, output)


def _by_vote(run: Run, speaker: Speaker, asked: Asked, given: Given, sampling: Sampling, folder, set_name: str):
    """An answer to every rationale, and of each question's answers the one with most votes."""
    stem = f"{set_name}.each.responses"
    each = read_all(speak(run, speaker, asked, sampling, seed=run.config.seed, folder=folder, stem=stem, given=given))
    said: dict[str, list[Response]] = {}
    for row in each:
        said.setdefault(row.question_id, []).append(row)

    def work(done) -> tuple[int, Iterator[list[Response]]]:
        rows = []
        for id_, answers in hosts.own_share([item for item in said.items() if (item[0], 0) not in done]):
            winner = majority([row.answer for row in answers])
            first = next(row for row in answers if row.answer == winner)
            rows.append(dataclasses.replace(first, sample_index=0, sampling=f"vote over {len(answers)} rationales"))
        return len(rows), iter([rows])

    return collect(run, work, folder, "  votes", f"{set_name}.responses", list(asked))


def _by_marginal(run: Run, speaker: Speaker, asked: Asked, given: Given, sampling: Sampling, folder, set_name: str):
    """Of every question the answer whose probability, summed over the rationales, is largest."""
    for question, _ in asked.values():
        if not question.choices:
            raise InputError(f"question {question.id!r} has no choices to sum over; use combine='vote'")
    forms = {id_: answer_forms(question) for id_, (question, _) in asked.items()}

    def work(done) -> tuple[int, Iterator[list[Response]]]:
        missing = hosts.own_share([id_ for id_ in asked if (id_, 0) not in done])
        return len(missing), rows(missing)

    def rows(missing: list[str]) -> Iterator[list[Response]]:
        wanted = []
        for id_ in missing:
            question, task = asked[id_]
            end = task.format.end
            responses = [target_ids(speaker.tokenizer, form + end, end) for form in forms[id_]]
            wanted += [Candidates(id_, speaker.prompt_ids(question, task, text), responses) for text in given[id_]]
        found: dict[str, list[np.ndarray]] = {id_: [] for id_ in missing}
        sizes = {"batch_size": sampling.batch_size, "bucket": sampling.bucket, "mesh": run.own_mesh}
        for batch in score_candidates(speaker.model, speaker.params, wanted, **sizes):
            for id_, log_p in batch:
                found[id_].append(log_p)
        yield [answer(id_, marginal(np.stack(log_p))) for id_, log_p in found.items()]

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
