"""The evaluate job: stores and scores the responses of a student or a teacher to question sets."""

import json
from typing import Any

from scotd_jax.atomic import write_text
from scotd_jax.config.eval_specs import eval_specs
from scotd_jax.distributed import hosts
from scotd_jax.errors import InputError
from scotd_jax.evaluation.answer_distribution import describe_collapse
from scotd_jax.evaluation.choice_likelihoods import score_likelihoods
from scotd_jax.evaluation.contrast import contrast_consistency, describe_unpaired
from scotd_jax.evaluation.faithfulness import describe_changes, simulatability
from scotd_jax.evaluation.scoring import outcomes, score
from scotd_jax.evaluation.voting import self_consistency
from scotd_jax.jobs.context import RunContext
from scotd_jax.jobs.generation.evaluation_answers import SetAnswers, SetEvaluation, load_evaluated_model
from scotd_jax.jobs.generation.interventions import load_simulator
from scotd_jax.jobs.preparation import manifests
from scotd_jax.records import Question
from scotd_jax.tasks.question_loader import QuestionsById


def evaluate(context: RunContext, name: str) -> None:
    """Evaluates a student, its model before training, or a set of responses.

    Makes evaluations/NAME: SET.responses.jsonl for every set, results.json, and manifest. With several rationales per
    question, SET.each.responses.jsonl contains one answer per rationale, and SET.responses.jsonl the combined answers.
    Answers by the likelihood of the choices are in SET.choices.responses.jsonl, the likelihoods of all choices in
    SET.choices.candidates.jsonl, and the scores under "choices". Answers after a changed rationale are in
    SET.choices.CHANGE.responses.jsonl, and predictions of a simulator in SET.choices.simulated_INPUT.responses.jsonl.
    If the config adds or drops reported sets, the files of the other sets are kept.

    Raises:
      InputError: if responses or rationales that the evaluation needs are missing.
    """
    spec, artefact = eval_specs(context.config)[name], context.artefact("evaluate", name)
    if not artefact.begin(manifests.evaluation_identity(context, name), manifests.BY_SET):
        context.log("  already complete")
        return
    model = load_evaluated_model(context, spec)
    simulator = load_simulator(context, spec, model)
    scores: dict[str, _Scores] = {}
    for set_name in spec.eval_sets:
        questions = context.reported_questions(set_name)
        for answers in SetEvaluation(context, spec, model, set_name, questions, artefact.path, simulator).answers():
            scores.setdefault(answers.reading, _Scores(context)).add(set_name, questions, answers)
    if unpaired := describe_unpaired(next(iter(scores.values())).questions):
        context.log(f"  {unpaired}")
    by_reading = {reading: set_scores.to_json() for reading, set_scores in scores.items()}
    output = by_reading.pop("text", {}) | by_reading
    if hosts.is_primary():
        write_text(artefact.path / "results.json", json.dumps(output, indent=2) + "\n")
    accuracies = {
        (f"{set_name} by choices" if reading == "choices" else set_name): result["accuracy"]
        for reading, set_scores in scores.items()
        for set_name, result in set_scores.sets.items()
    }
    artefact.finish(accuracies, output)


def check_questions(context: RunContext, name: str) -> None:
    """Raises InputError if answers are read by the likelihood of the choices, but a question has none."""
    spec = eval_specs(context.config)[name]
    for set_name in spec.eval_sets if spec.read != "text" or spec.combine == "marginal" else ():
        for question, _ in context.reported_questions(set_name).values():
            if not question.choices or question.answer is None:
                missing = "choices to compare" if not question.choices else "gold answer"
                raise InputError(
                    f"evaluation {name!r} reads answers by the likelihood of the choices, but question {question.id!r} "
                    f"has no {missing}; set read='text' (with combine='vote') for sets with open questions"
                )


class _Scores:
    """The scores of all sets of an evaluation under one reading."""

    def __init__(self, context: RunContext):
        self.sets: dict[str, dict[str, Any]] = {}
        self.questions: list[Question] = []
        self._context, self._confidence = context, context.config.evaluation.confidence
        self._correct: dict[str, float] = {}

    def add(self, set_name: str, questions: QuestionsById, answers: SetAnswers) -> None:
        """Scores the answers to one set, and the vote over several samples per question if there are any."""
        answered = {row.question_id for row in answers.rows}
        scored = [question for id_, (question, _) in questions.items() if id_ in answered]
        result = self.sets[set_name] = score(scored, answers.rows, self._confidence)
        if answers.candidates:
            result |= score_likelihoods(scored, answers.candidates, self._confidence)
        if answers.changed:
            result["interventions"] = describe_changes(scored, answers.rows, answers.changed, self._confidence)
        if answers.simulated:
            result["simulatability"] = simulatability(scored, answers.rows, answers.simulated, self._confidence)
        if answers.samples:
            result["self_consistency"] = self_consistency(scored, answers.samples, confidence=self._confidence)
        self.questions += scored
        self._correct |= outcomes(scored, answers.rows)
        self._context.log(f"  {set_name}: {_describe(result, answers)}")

    def to_json(self) -> dict[str, Any]:
        """Returns the scores of all sets and their contrast consistency, for results.json."""
        contrast = contrast_consistency(self.questions, self._correct, self._confidence)
        return {"sets": self.sets, "contrast": contrast}


def _describe(result: dict[str, Any], answers: SetAnswers) -> str:
    unreadable = sum(row.answer is None for row in answers.rows)
    line = f"accuracy {100 * result['accuracy']:.1f} of {result['n']} questions"
    line += ", by likelihood of the choices" if answers.reading == "choices" else ""
    line += f", {unreadable} answers could not be read" if unreadable else ""
    changes = [f"{name} {100 * entry['changed']:.1f}" for name, entry in result.get("interventions", {}).items()]
    line += f", other answers after changed rationales: {', '.join(changes)} %" if changes else ""
    return ", ".join(filter(None, (line, describe_collapse(result["answers"]))))
