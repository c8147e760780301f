"""The score job: scores of responses under a student, compared with one text at a time, and corpora that use them."""

import dataclasses
import itertools

import jax
import jax.numpy as jnp
import numpy as np
import pytest

from scotd_jax import config as c
from scotd_jax.errors import InputError
from scotd_jax.jobs import score as score_job
from scotd_jax.jobs.build import build
from scotd_jax.jobs.context import make_context
from scotd_jax.jobs.generation.local import load_prompted_model
from scotd_jax.jobs.generation.prompting import prompt_settings
from scotd_jax.jobs.generation.rationale_scoring import score_rationales
from scotd_jax.jobs.graph import Step, chain, scored_sources
from scotd_jax.jobs.score import score
from scotd_jax.layout import pad_rows, split_prompt
from scotd_jax.rationales.selections import select
from scotd_jax.rationales.student_scores import StudentScores
from scotd_jax.records import from_json
from tests.helpers.corpora import MODEL, built, folder, make_run, question, responses, write_questions
from tests.helpers.tolerances import FLOAT32

pytestmark = [pytest.mark.slow, pytest.mark.usefixtures("fast_compilation")]

QUESTIONS = [question(i) for i in range(3)]
ROWS = [
    dataclasses.replace(row, rationale=f"one {row.rationale} . two five ! {row.rationale} three")
    for row in responses(QUESTIONS, 3)
]
SELECTED = c.Corpus(decontaminate=0, cap=1, cap_by="rank_surprisal", scored_by="warm", keep="all")


@pytest.fixture
def run(tmp_path, monkeypatch):
    """A run with a student "warm" whose training is replaced by its initial parameters."""
    write_questions(tmp_path / "t", train=QUESTIONS)
    run = make_run(tmp_path, SELECTED, {"sampled": ROWS, "more": responses(QUESTIONS, 2, "n")}, precision="float32")
    corpora = run.config.corpora | {"warm": c.Corpus(rationales=("sampled",), n=1, decontaminate=0)}
    students = run.config.students | {"warm": dataclasses.replace(run.config.students["s"], corpus="warm")}
    config = dataclasses.replace(run.config, corpora=corpora, students=students)
    run = make_context(config, run.workdir)
    artefact = run.artefact("train", "warm")
    artefact.begin({"student": "warm"})
    artefact.finish({})
    monkeypatch.setattr(score_job, "load_prompted_model", lambda run, *_: initial(run))
    return run


def initial(run):
    settings = prompt_settings(run.config, c.Model(student="warm"))
    return load_prompted_model(run, "warm", MODEL, "float32", settings, seed=2)


def stored(run, source) -> dict[tuple[str, int], StudentScores]:
    path = run.score_file("warm", source)
    rows = [from_json(StudentScores, line, "") for line in path.read_text().splitlines()]
    return {row.key: row for row in rows}


def token_scorer(model, prompt):
    """Returns a function (before, text) -> log-probabilities and ranks of the tokens of `text` after `before`.

    They are read from the complete logits of one sequence, which is padded at its end.
    """
    prefix, start = split_prompt(prompt, model.model.start_token)

    @jax.jit
    def logits_of(inputs_BCR):
        prompt_BP = jnp.array([prefix], jnp.int32)
        context = model.model.prefill(model.params, prompt_BP, jnp.ones_like(prompt_BP, dtype=bool))
        hidden, _ = model.model.extend(model.params, context, inputs_BCR)
        return hidden[0, 0] @ model.model.unembedding(model.params).T

    def score(before: str, text: str):
        tokens, skip = model.tokenizer.encode(text), len(model.tokenizer.encode(before))
        inputs, _ = pad_rows([[start, *tokens[:-1]]], 48)
        logits_RV = np.asarray(logits_of(inputs[None]), np.float64)[: len(tokens)]
        log_p = [row[token] - np.log(np.exp(row).sum()) for row, token in zip(logits_RV, tokens, strict=True)]
        rank = [1 + int((row > row[token]).sum()) for row, token in zip(logits_RV, tokens, strict=True)]
        return np.array(log_p[skip:]), np.array(rank[skip:])

    return score


def test_scores_equal_those_of_single_texts(run):
    score(run, "warm")
    model, found = initial(run), stored(run, "sampled")
    assert set(found) == {row.key for row in ROWS}
    question_, task = run.questions.by_id(("t.train",))[QUESTIONS[0].id]
    token_scores = token_scorer(model, model.prompt_ids(question_, task))
    marker, end = task.format.marker, task.format.end
    for row in ROWS[:3]:  # the first of them is wrong
        log_p, rank = token_scores("", f"{row.rationale}{marker}{row.answer}{end}")
        scores = found[row.key]
        np.testing.assert_allclose(scores.likelihood, log_p.mean(), rtol=FLOAT32, atol=FLOAT32)
        ratio = np.minimum(rank, 100).sum() / -log_p.sum()
        np.testing.assert_allclose(scores.rank_surprisal, ratio, rtol=FLOAT32)
        gold, _ = token_scores(f"{row.rationale}{marker}", f"{row.rationale}{marker}yes{end}")
        np.testing.assert_allclose(scores.gold_logprob, gold.sum(), rtol=FLOAT32, atol=FLOAT32)
        inner = row.rationale.split(" . ")[0] + " .", "two five !", row.rationale.split(" ! ")[1]
        steps = [("", inner[0]), *((one, f"{one} {two}") for one, two in itertools.pairwise(inner))]
        local = np.concatenate([token_scores(before, text)[0] for before, text in steps])
        np.testing.assert_allclose(scores.local_likelihood, local.mean(), rtol=FLOAT32, atol=FLOAT32)


def test_corpora_of_several_sets_retain_the_best_scores(run):
    score(run, "warm")
    examples = built(run)["train"]
    for example in examples:
        of_set = {k: s for (id_, k), s in stored(run, "sampled").items() if id_ == example.question_id}
        of_set |= {3 + k: s for (id_, k), s in stored(run, "more").items() if id_ == example.question_id}
        assert example.sample_index == [min(of_set, key=lambda k: of_set[k].rank_surprisal)]
    assert len(examples) == 3


def test_scores_resume_and_keep_those_of_other_sets(run, monkeypatch):
    written = []

    def interrupted(*arguments):
        for rows in score_rationales(*arguments):
            written.append(rows)
            if len(written) == 2:
                raise KeyboardInterrupt
            yield rows

    with monkeypatch.context() as patch:
        patch.setattr(score_job, "score_rationales", interrupted)
        with pytest.raises(KeyboardInterrupt):
            score(run, "warm")  # the second set is not written
    with monkeypatch.context() as patch:
        patch.setattr(score_job, "score_rationales", lambda *args: iter([*score_rationales(*args)]))
        score(run, "warm")
    both = stored(run, "sampled"), stored(run, "more")
    assert (len(both[0]), len(both[1])) == (9, 6)
    manifest = run.artefact("score", "warm").manifest()
    assert manifest["counts"] == {"sampled": 9, "more": 6}
    one = dataclasses.replace(run.config.corpora["c"], rationales=("more",))
    fewer = make_context(dataclasses.replace(run.config, corpora=run.config.corpora | {"c": one}), run.workdir)
    with monkeypatch.context() as patch:
        patch.setattr(score_job, "score_rationales", lambda *args: (_ for _ in ()) if not args[2] else 1 / 0)
        score(fewer, "warm")
    assert stored(fewer, "sampled") == both[0]


def test_responses_beyond_the_limits_of_the_student_have_no_scores(run):
    model, form = initial(run), run.questions.task("t").format
    targets = [f"{row.rationale}{form.marker}{row.answer}{form.end}" for row in ROWS]
    middle = sorted(len(model.tokenizer.encode(text)) for text in targets)[len(ROWS) // 2]
    limits = dataclasses.replace(run.config.corpora["warm"], max_response_tokens=middle)
    run = make_context(dataclasses.replace(run.config, corpora=run.config.corpora | {"warm": limits}), run.workdir)
    score(run, "warm")
    assert 0 < len(stored(run, "sampled")) < 9
    with pytest.raises(InputError, match="has no scores for cap_by='rank_surprisal'.*raise its max_prompt_tokens"):
        build(run, "c")
    assert not folder(run).exists()
    none = dataclasses.replace(limits, max_response_tokens=1)
    run.artefact("score", "warm").remove()
    run = make_context(dataclasses.replace(run.config, corpora=run.config.corpora | {"warm": none}), run.workdir)
    with pytest.raises(InputError, match="no response of 'sampled' can be scored"):
        score(run, "warm")


def test_scores_are_made_after_the_training_and_before_the_corpus(run):
    steps = chain(run.config)
    order = [Step("sample", "more"), Step("build", "warm"), Step("train", "warm"), Step("score", "warm")]
    assert [steps.index(step) for step in order] == sorted(steps.index(step) for step in order)
    assert steps.index(Step("score", "warm")) < steps.index(Step("build", "c"))
    assert scored_sources(run.config, "warm") == ["sampled", "more"]
    circular = dataclasses.replace(run.config.corpora["c"], scored_by="s")
    with pytest.raises(InputError, match="depend on each other in a cycle: .*score s -> train s -> build c"):
        chain(dataclasses.replace(run.config, corpora=run.config.corpora | {"c": circular}))


def test_unknown_gold_answers_have_no_difficulty(run):
    by_id = run.questions.by_id(("t.train",))
    unknown = {id_: (dataclasses.replace(question_, answer=None), task) for id_, (question_, task) in by_id.items()}
    limits, sampling = run.config.corpora["warm"], run.config.evaluation.sampling
    ((scores, *_),) = score_rationales(initial(run), unknown, [ROWS[:3]], limits, sampling, None)
    assert scores.gold_logprob is None
    with pytest.raises(InputError, match="cap_by='rationale_difficulty' compares the probability of the gold answer"):
        select("rationale_difficulty", ROWS[:3], 1, {k: dataclasses.replace(scores, sample_index=k) for k in range(3)})
