"""The adapter for lm-eval, tested through lm-eval's interface with a stand-in for its requests."""

import dataclasses
import sys
from typing import Any

import numpy as np
import pytest

import scotd_jax as scotd
from scotd_jax import lm_eval_model
from scotd_jax.errors import InputError
from scotd_jax.lm_eval_model import HarnessModel, generation_settings
from scotd_jax.sampling.likelihood import Candidates, score_candidates
from tests.helpers.tolerances import FLOAT32

pytestmark = [pytest.mark.slow, pytest.mark.usefixtures("fast_compilation")]
SIZES = {"train": 8, "dev": 4, "test": 4, "unseen": 4, "longer": 4, "gold": 8, "statements": 4}
TINY = {"hidden_size": 32, "num_attention_heads": 2, "ffn_dim": 64, "num_hidden_layers": 1}


@dataclasses.dataclass
class StandInRequest:
    """A request with the fields of lm_eval.api.instance.Instance that the adapter reads."""

    args: tuple[Any, ...]
    task_name: str = "t"
    doc_id: int = 0


@pytest.fixture(scope="module")
def export(tmp_path_factory) -> tuple[str, Any, Any]:
    """The folder of an exported model, the model and its task."""
    task = scotd.load_task("world", **SIZES)
    model = scotd.random_model("opt-tiny", task, precision="float32", **TINY)
    folder = str(tmp_path_factory.mktemp("export") / "model")
    scotd.save_pretrained(model, folder)
    return folder, model, task


@pytest.fixture(scope="module")
def harness(export) -> HarnessModel:
    return HarnessModel(export[0], batch_size=4, bucket=32)


def test_generated_texts_are_those_of_the_sampler(export, harness):
    _, model, task = export
    questions = task.questions("test")
    settings = {"until": ["\n\n"], "max_gen_toks": 6, "do_sample": False}
    requests = [StandInRequest((model.prompt(q, task), settings), "world", i) for i, q in enumerate(questions)]
    texts = harness.generate_until(requests)
    expected = scotd.sample(model, questions, temperature=0.0, max_new_tokens=6, batch_size=4)
    assert texts == [row.text for row in expected]
    assert any(texts)


def test_stop_strings_end_a_text_and_settings_may_differ_by_request(export, harness):
    _, model, task = export
    prompt = model.prompt(task.questions("test")[0], task)
    [whole] = harness.generate_until([StandInRequest((prompt, {"until": [], "max_gen_toks": 6}))])
    stop = whole.split()[2]
    texts = harness.generate_until(
        [
            StandInRequest((prompt, {"until": stop, "max_gen_toks": 6})),
            StandInRequest((prompt, {"until": [], "max_gen_toks": 2})),
            StandInRequest((prompt, {"until": [], "max_gen_toks": 6})),
        ]
    )
    assert texts[0] == whole[: whole.index(stop)]
    assert whole.startswith(texts[1])
    assert len(texts[1]) < len(whole) == len(texts[2])


def test_likelihoods_of_continuations_equal_those_of_the_scorer(export, harness):
    _, model, task = export
    question = task.questions("test")[0]
    prompt = model.prompt(question, task)
    pairs = [(prompt, f" {choice}") for choice in question.choices] + [(f"{prompt} ", question.choices[0])]
    found = harness.loglikelihood([StandInRequest(pair) for pair in pairs])
    ids = [model.tokenizer.prompt_ids(prompt + cont, "opt") for prompt, cont in pairs[:2]]
    n = len(model.tokenizer.prompt_ids(prompt, "opt"))
    items = [Candidates("x", ids[0][:n], [whole[n:] for whole in ids])]
    [[(_, expected)]] = score_candidates(model.model, model.params, items, batch_size=4, bucket=32)
    np.testing.assert_allclose([log_p for log_p, _ in found[:2]], expected, rtol=FLOAT32)
    assert found[2][0] == pytest.approx(found[0][0])  # a blank at the end of the context belongs to the continuation
    [greedy] = harness.generate_until([StandInRequest((prompt, {"until": [], "max_gen_toks": 1}))])
    [(log_p, is_greedy)] = harness.loglikelihood([StandInRequest((prompt, f" {greedy.strip()}"))])
    assert is_greedy
    assert log_p >= max(value for value, _ in found[:2])
    assert [flag for _, flag in found[:2]] == [choice == greedy.strip() for choice in question.choices]


def test_the_likelihood_of_a_text_is_the_sum_over_its_parts(harness, export):
    task = export[2]
    text = " ".join(task.questions("test")[0].text.split()[:5])
    [whole] = harness.loglikelihood_rolling([StandInRequest((text,))])
    words = text.split()
    parts = [harness.loglikelihood([StandInRequest((" ".join(words[:i]), f" {words[i]}"))])[0][0] for i in range(1, 5)]
    [first] = harness.loglikelihood_rolling([StandInRequest((words[0],))])
    assert whole == pytest.approx(first + sum(parts), rel=FLOAT32)


def test_no_requests_have_no_results(harness):
    """A process of a distributed evaluation may have none."""
    assert harness.generate_until([]) == harness.loglikelihood([]) == harness.loglikelihood_rolling([]) == []


@pytest.mark.parametrize(
    ("settings", "temperature", "stops", "limit"),
    [
        ({"until": ["\n", ""], "do_sample": False, "temperature": 0.7}, 0.0, ("\n",), 256),
        ({"until": "Q:", "max_gen_toks": 9}, 0.0, ("Q:",), 9),
        ({"do_sample": True}, 1.0, (), 256),
        ({"do_sample": True, "temperature": 0.7, "top_p": 0.9, "top_k": 5}, 0.7, (), 256),
    ],
)
def test_generation_settings(settings, temperature, stops, limit):
    sampling, found = generation_settings(settings, {"batch_size": 4, "bucket": 32})
    assert (sampling.temperature, found, sampling.max_new_tokens) == (temperature, stops, limit)
    assert sampling.top_p == settings.get("top_p", 1.0)


@pytest.mark.parametrize(
    ("arguments", "message"),
    [
        ({}, "expected either pretrained=FOLDER, or workdir=DIR,student=NAME"),
        ({"pretrained": "x", "workdir": "y", "student": "z"}, "expected either"),
        ({"pretrained": "x", "dtype": "auto"}, "unknown argument 'dtype'"),
        ({"pretrained": "x", "batch_size": "auto"}, "--batch_size: expected a number, found 'auto'"),
        ({"workdir": "nowhere", "student": "s"}, r"nowhere/config.json: no such file; expected the work directory"),
    ],
)
def test_wrong_arguments_are_refused(arguments, message):
    with pytest.raises(InputError, match=message):
        HarnessModel(**arguments)


def test_unknown_generation_settings_are_refused():
    with pytest.raises(InputError, match="'num_beams' is not supported"):
        generation_settings({"num_beams": 4}, {})


def test_missing_lm_eval_is_named(monkeypatch):
    monkeypatch.setitem(sys.modules, "lm_eval", None)
    with pytest.raises(InputError, match="install it: pip install lm_eval"):
        lm_eval_model.register()
