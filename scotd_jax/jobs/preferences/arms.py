"""The two arms of a preference page: evaluations or sets of responses of a run, by name."""

from collections.abc import Mapping

from scotd_jax.config.eval_specs import eval_specs, first_reading
from scotd_jax.errors import InputError, lookup
from scotd_jax.jobs.context import RunContext
from scotd_jax.jobs.preferences.pages import PreferenceArm
from scotd_jax.jobs.report_parts.evaluated_sets import read_evaluated
from scotd_jax.rationales.store import read_responses
from scotd_jax.records import Question, Response

FLAG = "--arms"


def find_arm(context: RunContext, name: str) -> PreferenceArm:
    """Returns an arm by NAME or NAME:SAMPLE, where NAME is an evaluation or a set of responses.

    If an evaluation and a set of responses have the same name, evaluations/NAME and rationales/NAME distinguish them.

    Raises:
      InputError: if there is no such arm, the name is ambiguous, or the artefact is not complete.
    """
    artefact_name, _, sample = name.partition(":")
    if sample and not (sample.isascii() and sample.isdecimal()):
        raise InputError(f"{FLAG}={name}: expected the index of a sample after the colon, found {sample!r}")
    specs, rationales = eval_specs(context.config), context.config.rationales
    folder, _, key = artefact_name.rpartition("/")
    if not folder and key in specs and key in rationales:
        raise InputError(
            f"{FLAG}={name}: {key!r} is both an evaluation and a set of responses; write evaluations/{name} or "
            f"rationales/{name}"
        )
    by_folder = {"evaluations": specs, "rationales": rationales, "": {**specs, **rationales}}
    lookup(lookup(by_folder, folder, FLAG), key, FLAG)
    is_evaluation = folder == "evaluations" or (not folder and key in specs)
    job = "evaluate" if is_evaluation else "sample"
    return PreferenceArm(
        name=name,
        title=specs[key].arm if is_evaluation else name,
        job=job,
        artefact=key,
        digest=context.checked(job, key).digest,
        sample=int(sample or 0),
        sets=tuple(specs[key].eval_sets if is_evaluation else rationales[key].questions),
    )


def arm_responses(
    context: RunContext, arm: PreferenceArm, set_name: str
) -> tuple[Mapping[str, Question], Mapping[str, Response]]:
    """Returns the questions of a set, and the arm's responses to them, both by question id."""
    if arm.job == "evaluate":
        reading = first_reading(eval_specs(context.config)[arm.artefact])
        answered, rows = read_evaluated(context, arm.artefact, set_name, reading)
        questions = {question.id: question for question in answered}
    else:
        questions = {id_: question for id_, (question, _) in context.questions.by_id((set_name,)).items()}
        rows = read_responses(context.response_files(arm.artefact))
    return questions, {
        row.question_id: row for row in rows if row.sample_index == arm.sample and row.question_id in questions
    }
