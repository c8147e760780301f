"""Tests of the evaluate job: models before training, stored responses, and answers from text or by scoring choices."""

import dataclasses
import json

import jax
import jax.numpy as jnp
import numpy as np
import pytest

from scotd_jax import config as c
from scotd_jax.config.eval_specs import eval_specs
from scotd_jax.dry_run import preview
from scotd_jax.errors import InputError
from scotd_jax.jobs.context import RunContext, make_context
from scotd_jax.jobs.evaluate import check_questions, evaluate
from scotd_jax.jobs.generation.choices import score_choices
from scotd_jax.jobs.generation.evaluation_answers import SetEvaluation
from scotd_jax.jobs.generation.local import PromptedModel, load_prompted_model
from scotd_jax.jobs.generation.prompting import evaluation_prompt_settings, prompt_settings
from scotd_jax.jobs.graph import Step
from scotd_jax.jobs.preparation import manifests
from scotd_jax.jobs.report_parts.lm_eval_results import write_lm_eval_results
from scotd_jax.jobs.report_parts.run_results import run_results
from scotd_jax.layout import split_prompt
from scotd_jax.rationales.store import ResponseWriter, read_responses
from scotd_jax.records import Question, Response, to_json
from scotd_jax.tasks.instructions import REASON
from tests.helpers.chat_model import write_model
from tests.helpers.corpora import MODEL, WORDS, make_run, question, responses, write_questions
from tests.helpers.exhaustive import repeat_for
from tests.helpers.tolerances import FLOAT32

pytestmark = [pytest.mark.slow, pytest.mark.usefixtures("fast_compilation")]

GREEDY = c.Sampling(temperature=0.0, max_new_tokens=6, batch_size=4, bucket=32)
BEFORE = c.EvalSpec("s", ("t.test",), checkpoint="initial")
TEST = [question(i, "test") for i in range(6)]
TINY_T5 = c.Model("t5-tiny", {"num_layers": 1, "d_model": 32, "initializer_factor": 1.0}, tokenizer="task:t")
TINY_DECODER = c.Model("decoder-tiny", {"num_hidden_layers": 1, "initializer_range": 0.2}, tokenizer="task:t")
MODELS = {"opt": MODEL, "t5": TINY_T5, "decoder": TINY_DECODER}


CORPUS = c.Corpus(decontaminate=0)


def make(folder, evals: dict[str, c.EvalSpec], corpus: c.Corpus = CORPUS, model: c.Model = MODEL, **fields):
    """Returns a run with a student that is not trained and has these evaluations; `fields` are of c.Evaluation."""
    questions = [question(i) for i in range(4)]
    write_questions(folder / "t", train=questions, test=TEST)
    run = make_run(folder, corpus, {"sampled": responses(questions, 2)}, model=model, precision="float32")
    evaluation = c.Evaluation(sampling=GREEDY, **fields)
    return make_context(dataclasses.replace(run.config, evals=evals, evaluation=evaluation), run.workdir)


def results(run: RunContext, name: str) -> dict:
    """Runs an evaluation and returns its results."""
    evaluate(run, name)
    return json.loads((run.artefact("evaluate", name).path / "results.json").read_text())


def rows(run: RunContext, name: str, file: str) -> list[Response]:
    """Returns the stored responses of an evaluation to the test questions."""
    return list(read_responses([run.artefact("evaluate", name).path / f"t.test.{file}.jsonl"]))


def test_choices_leave_no_answer_of_an_untrained_model_unread(tmp_path):
    """Text of random weights contains no answer, but the most likely choice always is one."""
    run = make(tmp_path, {"before": dataclasses.replace(BEFORE, read="both")})
    found = results(run, "before")
    text, choices = found["sets"]["t.test"], found["choices"]["sets"]["t.test"]
    assert text["format_failure_rate"] == 1.0, "random weights name no option"
    assert choices["format_failure_rate"] == 0.0
    generated, chosen = (rows(run, "before", file) for file in ("responses", "choices.responses"))
    assert [row.text for row in generated] == [row.text for row in chosen]
    assert {row.answer for row in chosen} <= {"yes", "no"}
    assert choices["accuracy"] == sum(row.answer == "yes" for row in chosen) / len(TEST)
    candidates = list(read_responses([run.artefact("evaluate", "before").path / "t.test.choices.candidates.jsonl"]))
    assert [(row.question_id, row.answer) for row in candidates] == [(q.id, a) for q in TEST for a in ("yes", "no")]
    best = [max(candidates[i : i + 2], key=lambda row: row.logprob).answer for i in range(0, 12, 2)]
    assert best == [row.answer for row in chosen]
    assert choices["calibration"]["accuracy"] == choices["accuracy"]
    assert 0.5 <= choices["calibration"]["mean_confidence"] <= 1
    assert choices["per_token"]["n"] == len(TEST)
    spec = run.config.evals["before"]
    evaluated = {"t.test": (TEST, chosen)}
    write_lm_eval_results(run, spec, evaluated, run.artefact("report", "").path / "lm_eval")
    [file] = (run.artefact("report", "").path / "lm_eval").glob("samples_t.test_*.jsonl")
    samples = [json.loads(line) for line in file.read_text().splitlines()]
    assert sum(sample["acc"] for sample in samples) / len(TEST) == choices["accuracy"]
    prompts = {sample["arguments"]["gen_args_0"]["arg_0"] for sample in samples}
    assert prompts == {f"Q: {q.text}\nA: " for q in TEST}


def reported_vote_accuracies(run: RunContext, name: str) -> list[float]:
    """Returns the accuracy of the votes that the report compares with single responses, for every reading."""
    votes = [result.vote_outcomes["t.test"] for result in run_results(run, name, eval_specs(run.config)[name])]
    return [sum(outcomes.values()) / len(outcomes) for outcomes in votes]


def test_votes_over_choices_have_no_invalid_samples(tmp_path):
    several = dataclasses.replace(GREEDY, n=3, temperature=1.0)
    run = make(tmp_path, {"before": BEFORE}, read="both", self_consistency=several)
    found = results(run, "before")
    text, choices = (scores["sets"]["t.test"]["self_consistency"] for scores in (found, found["choices"]))
    assert (text["k"], text["invalid_rate"], text["abstentions"]) == (3, 1.0, 1.0)
    assert (choices["k"], choices["invalid_rate"], choices["abstentions"]) == (3, 0.0, 0.0)
    assert reported_vote_accuracies(run, "before") == pytest.approx([text["accuracy"], choices["accuracy"]])


def test_label_only_students_choose_without_generating(tmp_path):
    label = c.Corpus("label", questions=("t.train",), decontaminate=0)
    run = make(tmp_path, {"before": dataclasses.replace(BEFORE, read="choices")}, label)
    found = results(run, "before")
    assert set(found) == {"choices"}
    assert not (run.artefact("evaluate", "before").path / "t.test.responses.jsonl").exists()
    for row in rows(run, "before", "choices.responses"):
        assert row.text == row.answer
        assert row.rationale is None


def loaded(run: RunContext, recipe: str = "") -> PromptedModel:
    """Returns the student's model with random weights in float32, prompted by a recipe."""
    model = run.config.students["s"].model
    settings = prompt_settings(run.config, c.Model(student="s"), recipe=recipe)
    return load_prompted_model(run, "s", model, "float32", settings)


def sequence_log_p(model: PromptedModel, prompt_ids: list[int], response_ids: list[int]) -> float:
    """Returns log p(response | prompt) of one sequence, without padding, grouping or a shared prefix."""
    functions = model.model
    prefix, start = split_prompt(prompt_ids, functions.start_token)

    @jax.jit
    def log_softmax(params, tokens, inputs):
        context = functions.prefill(params, tokens, jnp.ones_like(tokens, dtype=bool))
        hidden, _ = functions.extend(params, context, inputs)
        return jax.nn.log_softmax(hidden[0, 0] @ functions.unembedding(params).T)

    log_p_RV = log_softmax(
        model.params, np.array([prefix], np.int32), np.array([[[start, *response_ids[:-1]]]], np.int32)
    )
    return float(sum(log_p_RV[i, token] for i, token in enumerate(response_ids)))


@pytest.mark.parametrize("family", repeat_for(["opt", "t5", "decoder", "chat"], kept=("t5", "chat")))
def test_choice_likelihoods_equal_a_loop_over_whole_responses(tmp_path, family):
    """Compares differences of log-likelihoods with those of "RATIONALE So the answer is: CHOICE", each scored alone."""
    model = MODELS[family] if family != "chat" else c.Model(path=str(write_model(tmp_path)), chat=True)
    run = make(tmp_path, {"before": BEFORE}, model=model)
    student = loaded(run)
    questions = run.questions.by_id(("t.test",))
    texts = ["", " ".join(WORDS[:9])]
    stored = [
        dataclasses.replace(row, question_id=q.id, sample_index=0, rationale=text)
        for q, text, row in zip(TEST[:2], texts, responses(TEST[:2], 1), strict=True)
    ]
    found = dict(pair for batch in score_choices(run, student, questions, stored, GREEDY) for pair in batch)
    assert len(found) == 2
    for row in stored:
        question_, task = questions[row.question_id]
        form = student.prompts.format_for(task)
        last = [] if form.end else [student.tokenizer.end_id]
        prompt_ids = student.prompt_ids(question_, task)
        text = student.tokenizer.decode_with_special_tokens(prompt_ids)
        assert ("<|im_start|>assistant" in text) is (family == "chat"), text
        expected = {
            answer: sequence_log_p(
                student, prompt_ids, student.tokenizer.encode(form.target(row.rationale, answer)) + last
            )
            for answer in ("yes", "no")
        }
        got = found[row.key]
        np.testing.assert_allclose(
            got["yes"].log_p - got["no"].log_p, expected["yes"] - expected["no"], rtol=FLOAT32, atol=1e-4
        )


def test_choices_after_provided_rationales_are_combined_by_vote(tmp_path):
    spec = c.EvalSpec("s", ("t.train",), rationales_from=("sampled",), n=2, read="choices")
    run = make(tmp_path, {}, c.Corpus("infer", decontaminate=0))
    folder = run.artefact("evaluate", "votes").path
    questions = run.questions.by_id(("t.train",))
    (found,) = SetEvaluation(run, spec, loaded(run), "t.train", questions, folder).answers()
    reading, votes, samples, *_ = found
    each = list(read_responses([folder / "t.train.choices.each.responses.jsonl"]))
    assert (reading, len(votes), len(each), samples) == ("choices", 4, 8, [])
    for vote in votes:
        answers = [row.answer for row in each if row.question_id == vote.question_id]
        assert vote.answer == max(answers, key=answers.count)


def with_teacher(folder, stored: list[Response], **fields) -> RunContext:
    """Returns a run with the evaluation "teacher", which scores a complete set of responses to the test questions."""
    spec = c.EvalSpec(eval_sets=("t.test",), arm="teacher, few-shot", responses="teacher", **fields)
    run = make(folder, {"teacher": spec}, read="both")
    rationales = {**run.config.rationales, "teacher": c.FileSource(questions=("t.test",))}
    run = make_context(dataclasses.replace(run.config, rationales=rationales), run.workdir)
    artefact = run.artefact("sample", "teacher")
    artefact.begin({})
    writer = ResponseWriter(artefact.path)
    writer.write(stored)
    writer.merge([q.id for q in TEST], 1)
    artefact.finish({})
    return run


def test_stored_responses_are_scored_and_missing_questions_counted(tmp_path, capsys):
    stored = responses(TEST[:4], 2)  # the first answer to question 0 is wrong
    found = results(with_teacher(tmp_path, stored), "teacher")
    assert set(found) == {"sets", "contrast"}, "a file has no model to compare the choices"
    assert (found["sets"]["t.test"]["n"], found["sets"]["t.test"]["accuracy"]) == (4, 0.75)
    assert "t.test: 2 of 6 questions have no 1 responses and are left out" in capsys.readouterr().err


def test_several_stored_responses_vote(tmp_path):
    stored = responses(TEST, 4)
    run = with_teacher(tmp_path, stored, n=3)
    found = results(run, "teacher")["sets"]["t.test"]
    assert reported_vote_accuracies(run, "teacher") == pytest.approx([found["self_consistency"]["accuracy"]])
    used = [row for row in stored if row.sample_index < 3]
    assert found["accuracy"] == pytest.approx(sum(row.correct for row in used) / len(used))
    assert (found["samples"], found["self_consistency"]["k"]) == (3, 3)


def test_stored_responses_to_other_questions_are_refused(tmp_path):
    run = with_teacher(tmp_path, [])
    with pytest.raises(InputError, match=r"config.rationales.teacher: none of the 6 questions of t.test has 1 resp"):
        evaluate(run, "teacher")


def test_open_questions_have_no_choices_to_compare(tmp_path):
    run = make(tmp_path, {"before": dataclasses.replace(BEFORE, read="both")})
    (tmp_path / "t" / "test.jsonl").write_text(to_json(Question("t/test/0", "t", "test", "why?", (), "so")) + "\n")
    with pytest.raises(InputError, match=r"evaluation 'before' .* question 't/test/0' has no choices .*read='text'"):
        check_questions(run, "before")
    check_questions(make_context(dataclasses.replace(run.config, evals={"before": BEFORE}), run.workdir), "before")
    (refused,) = preview(run.config, str(tmp_path / "run"), [Step("evaluate", "before")], [], False).steps
    assert (refused.state, "has no choices" in refused.reason) == ("refused", True)


def test_models_before_training_get_the_plain_prompt(tmp_path):
    for recipe, expected in (("infer", "scotd"), ("step_by_step", "scotd"), ("label", "label")):
        run = make(tmp_path, {}, c.Corpus(recipe, decontaminate=0))
        settings = evaluation_prompt_settings(run.config, dataclasses.replace(BEFORE, few_shot=0))
        assert settings.recipe == prompt_settings(run.config, MODEL, recipe=expected).recipe, recipe


def test_chat_models_before_training_are_instructed_like_teachers(tmp_path):
    run = make(tmp_path, {}, model=dataclasses.replace(MODEL, chat=True))
    zero, few, trained = (
        evaluation_prompt_settings(run.config, dataclasses.replace(BEFORE, **fields))
        for fields in ({"few_shot": 0}, {"few_shot": 2}, {"checkpoint": "best"})
    )
    assert (zero.instruction, zero.instruction_tuned) == (REASON, True)
    assert (few.instruction, few.instruction_tuned) == ("", True), "examples show the form of an answer"
    assert (trained.instruction, trained.instruction_tuned) == ("", False)


def test_identity_of_evaluations_without_new_fields_is_unchanged(tmp_path):
    run = make(tmp_path, {"trained": c.EvalSpec("s", ("t.test",))})
    artefact = run.artefact("train", "s")
    artefact.begin({})
    artefact.finish({})
    identity = manifests.evaluation_identity(run, "trained")
    assert set(identity) == {
        *("eval", "sampling", "self_consistency", "limit", "student", "provided_rationales", "questions", "formats"),
        *("exemplars", "seed"),
    }
    fields = {"student", "eval_sets", "arm", "rationales_from", "rationale_control", "n", "few_shot", "combine"}
    assert set(identity["eval"]) == fields
    assert identity["self_consistency"]["batch_size"] == 32, "once the default"
    changed = dataclasses.replace(run.config, evals={"trained": c.EvalSpec("s", ("t.test",), read="both")})
    assert manifests.evaluation_identity(make_context(changed, run.workdir), "trained") == identity | {"read": "both"}
