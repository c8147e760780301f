"""The evaluate job: a student answers question sets in one of its ways, and all that it said is kept."""

import json

from scotd_jax.config import Model, plain
from scotd_jax.distributed import hosts
from scotd_jax.evaluation.contrast import contrast_consistency
from scotd_jax.evaluation.scoring import outcomes, score
from scotd_jax.evaluation.voting import self_consistency
from scotd_jax.jobs.context import Run
from scotd_jax.jobs.generation.combining import by_marginal, by_vote
from scotd_jax.jobs.generation.local import load_speaker, read_all, speak
from scotd_jax.jobs.generation.provided_rationales import identity, load_given
from scotd_jax.jobs.graph import eval_specs
from scotd_jax.workdir import write_text


def evaluate(run: Run, name: str) -> None:
    """evaluations/NAME: TASK.SPLIT.responses.jsonl for every set, results.json, manifest.

    With several rationales a question, TASK.SPLIT.each.responses.jsonl holds the answer to each of them and
    TASK.SPLIT.responses.jsonl the one they agree on.
    """
    asking, settings = eval_specs(run.config)[name], run.config.evaluation
    spec = run.config.students[asking.student]
    artefact = run.artefact("evaluate", name)
    few_shot = run.config.corpora[spec.corpus].few_shot if asking.few_shot < 0 else asking.few_shot
    made_of = {
        "asking": plain(asking) | {"eval_sets": None, "arm": None},
        "sampling": plain(settings.sampling),
        "self_consistency": plain(settings.self_consistency),
        "limit": settings.limit,
        "student": run.artefact("train", asking.student).digest,
        "given": identity(run, asking.rationales_from),
        "questions": run.questions_identity(asking.eval_sets),
        "exemplars": run.exemplars_identity(asking.eval_sets, few_shot),
        "seed": run.config.seed,
    }
    if not artefact.begin(made_of):
        run.log("  already complete")
        return
    speaker = load_speaker(run, asking.student, Model(student=asking.student), spec.precision)
    speaker = speaker._replace(few_shot=few_shot)
    results, rows_by_set = {}, {}
    for set_name in asking.eval_sets:
        asked = run.reported(set_name)
        questions = [question for question, _ in asked.values()]
        given = load_given(run, asking.student, asking.rationales_from, asked, asking.rationale_control, asking.n)
        folder = artefact.path
        if given is None or (asking.n == 1 and asking.combine == "vote"):
            common = {"seed": run.config.seed, "folder": folder, "stem": f"{set_name}.responses", "given": given}
            rows = read_all(speak(run, speaker, asked, settings.sampling, **common))
        else:
            combine = by_vote if asking.combine == "vote" else by_marginal
            rows = read_all(combine(run, speaker, asked, given, settings.sampling, folder, set_name))
        rows_by_set[set_name] = questions, rows
        results[set_name] = score(questions, rows, settings.confidence)
        if settings.self_consistency.n and given is None:
            stem = f"{set_name}.n{settings.self_consistency.n}.responses"
            paths = speak(
                run, speaker, asked, settings.self_consistency, seed=run.config.seed, folder=folder, stem=stem
            )
            results[set_name]["self_consistency"] = self_consistency(
                questions, read_all(paths), confidence=settings.confidence
            )
        run.log(f"  {set_name}: accuracy {100 * results[set_name]['accuracy']:.1f} of {len(questions)} questions")
    questions = [question for set_questions, _ in rows_by_set.values() for question in set_questions]
    right = {id_: r for set_questions, rows in rows_by_set.values() for id_, r in outcomes(set_questions, rows).items()}
    output = {"sets": results, "contrast": contrast_consistency(questions, right, settings.confidence)}
    if hosts.is_primary():
        write_text(artefact.path / "results.json", json.dumps(output, indent=2) + "\n")
    artefact.finish({key: result["accuracy"] for key, result in results.items()}, output)
