"""Tests of the Python API: each function on a tiny random model."""

import dataclasses
import gc
import tempfile

import jax
import numpy as np
import pytest

import scotd_jax as scotd

pytestmark = pytest.mark.usefixtures("fast_compilation")
TINY = {"hidden_size": 32, "num_hidden_layers": 1, "num_attention_heads": 2, "ffn_dim": 64}


@pytest.fixture(scope="module")
def task():
    return scotd.load_task("world", gold=40, train=20, limit=20)


@pytest.fixture(scope="module")
def model(task):
    return scotd.random_model("opt-tiny", task, precision="float32", max_position_embeddings=128, **TINY)


def response(index: int, correct: bool, text: str = "", finish_reason: str = "stop") -> scotd.Response:
    return scotd.Response("q", index, text or f"text {index}", "r", "a", correct, finish_reason, -1.0, 3, "m", "s")


@pytest.mark.slow
def test_sample_returns_n_responses_in_the_order_of_the_questions(task, model):
    questions = task.questions("test")[:3]
    rows = scotd.sample(model, questions, n=2, max_new_tokens=8)
    assert [(row.question_id, row.sample_index) for row in rows] == [(q.id, i) for q in questions for i in range(2)]
    assert {row.model for row in rows} == {"opt-tiny"}
    alone = scotd.sample(model, questions[1:2], n=2, max_new_tokens=8, batch_size=3)
    assert [row.text for row in alone] == [row.text for row in rows[2:4]]


@pytest.mark.slow
def test_saved_model_generates_the_same_text(task, model, tmp_path):
    scotd.save_pretrained(model, str(tmp_path / "model"))
    loaded = scotd.load_pretrained(str(tmp_path / "model"), task, precision="float32")
    jax.tree.map(np.testing.assert_array_equal, loaded.params, model.params)
    questions = task.questions("test")[:2]
    texts = [
        [row.text for row in scotd.sample(each, questions, temperature=0.0, max_new_tokens=8)]
        for each in (model, loaded)
    ]
    assert texts[0] == texts[1]


def test_filter_responses_keeps_by_answer_and_drops_truncated_ones():
    rows = [response(0, False), response(1, True), response(2, True, "text 1"), response(3, True)]
    truncated = response(4, True, finish_reason="length")
    assert scotd.filter_responses([*rows, truncated]) == rows[1:]
    assert scotd.filter_responses(rows, dedup=True, max_per_question=1) == rows[1:2]
    assert scotd.filter_responses(rows, keep="wrong") == rows[:1]


@pytest.mark.slow
@pytest.mark.parametrize("recipe", ["scotd", "label"])
def test_train_returns_a_trained_copy(task, model, recipe):
    student = scotd.random_model("opt-tiny", task, recipe=recipe, max_position_embeddings=128, **TINY)
    before = jax.tree.map(np.array, student.params)
    responses = task.gold("gold") if recipe == "scotd" else []
    batches = scotd.make_batches(student, task.questions("gold"), responses, batch_size=8)
    logged = []
    trained = scotd.train(
        student, batches, steps=2, learning_rate=1e-2, log_every=1, log=lambda step, metrics: logged.append(step)
    )
    assert logged == [1, 2]
    jax.tree.map(np.testing.assert_array_equal, student.params, before)
    changed = jax.tree.map(lambda a, b: bool((np.asarray(a) != b).any()), trained.params, before)
    assert any(jax.tree.leaves(changed))


def test_evaluate_returns_accuracy_and_interval(task, model):
    results = scotd.evaluate(model, task.questions("test")[:4], max_new_tokens=8)
    assert results["n"] == 4
    assert results["interval"][0] <= results["accuracy"] <= results["interval"][1]


@pytest.mark.slow
def test_temporary_corpus_is_removed_with_its_batches_and_if_there_are_none(task, model, tmp_path, monkeypatch):
    monkeypatch.setattr(tempfile, "tempdir", str(tmp_path))
    with pytest.raises(scotd.InputError, match="the corpus is empty"):
        scotd.make_batches(model, task.questions("gold"))
    assert list(tmp_path.iterdir()) == []
    batches = scotd.make_batches(model, task.questions("gold"), task.gold("gold"), batch_size=8)
    assert len(list(tmp_path.iterdir())) == 1
    del batches
    gc.collect()
    assert list(tmp_path.iterdir()) == []


def test_wrong_arguments_are_refused(task, model):
    question = task.questions("test")[0]
    with pytest.raises(scotd.InputError, match="1 questions share an id"):
        scotd.sample(model, [question, dataclasses.replace(question, text="other")])
    with pytest.raises(scotd.InputError, match="did you mean 'opt-tiny'"):
        scotd.random_model("opt-tyni", task)
    with pytest.raises(scotd.InputError, match="unknown kind 'wrld'; did you mean 'world'"):
        scotd.load_task("wrld")
    with pytest.raises(scotd.InputError, match="the world has no such option"):
        scotd.load_task("world", day=3)
    small = scotd.random_model("opt-tiny", task, max_position_embeddings=16, **TINY)
    with pytest.raises(scotd.InputError, match="exceed the model's 16 positions; lower max_prompt_tokens"):
        scotd.make_batches(small, task.questions("gold"), task.gold("gold"))
    batches = scotd.make_batches(model, task.questions("gold"), task.gold("gold"), batch_size=8)
    with pytest.raises(scotd.InputError, match="warm-up must end before"):
        scotd.train(model, batches, steps=2, warmup_steps=5)
