"""The evaluate job: a student answers every reported set, and all that it said is kept."""

import json

from scotd_jax.config import Model, plain
from scotd_jax.distributed import hosts
from scotd_jax.evaluation.contrast import consistency
from scotd_jax.evaluation.scoring import outcomes, score
from scotd_jax.evaluation.voting import vote
from scotd_jax.jobs.run import Run
from scotd_jax.jobs.speaking import load_speaker, read_all, speak
from scotd_jax.workdir import write_text


def evaluate(run: Run, name: str) -> None:
    """evaluations/NAME: TASK.SPLIT.responses.jsonl for every set, results.json, manifest."""
    spec, settings = run.config.students[name], run.config.evaluation
    artefact = run.artefact("evaluate", name)
    identity = {
        "sampling": plain(settings.sampling),
        "self_consistency": plain(settings.self_consistency),
        "student": run.artefact("train", name).digest,
        "questions": run.questions_identity(spec.sets),
        "seed": run.config.seed,
    }
    if not artefact.begin(identity):
        run.log("  already complete")
        return
    speaker = load_speaker(run, name, Model(student=name), spec.precision)
    results, rows_by_set = {}, {}
    for set_name in spec.sets:
        asked = run.ask((set_name,))
        questions = [question for question, _ in asked.values()]
        common = {"seed": run.config.seed, "folder": artefact.path}
        paths = speak(run, speaker, asked, settings.sampling, stem=f"{set_name}.responses", **common)
        rows_by_set[set_name] = questions, read_all(paths)
        results[set_name] = score(*rows_by_set[set_name], settings.confidence)
        if settings.self_consistency.n:
            stem = f"{set_name}.n{settings.self_consistency.n}.responses"
            paths = speak(run, speaker, asked, settings.self_consistency, stem=stem, **common)
            results[set_name]["self_consistency"] = vote(questions, read_all(paths), confidence=settings.confidence)
        run.log(f"  {set_name}: accuracy {100 * results[set_name]['accuracy']:.1f} of {len(questions)} questions")
    questions = [question for set_questions, _ in rows_by_set.values() for question in set_questions]
    right = {id_: r for set_questions, rows in rows_by_set.values() for id_, r in outcomes(set_questions, rows).items()}
    output = {"sets": results, "contrast": consistency(questions, right, settings.confidence)}
    if hosts.is_first():
        write_text(artefact.path / "results.json", json.dumps(output, indent=2) + "\n")
    artefact.finish({key: result["accuracy"] for key, result in results.items()}, output)
