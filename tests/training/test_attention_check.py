"""Fused attention is compared with XLA's in values and gradients, and replaced with a warning where it differs."""

import dataclasses

import jax
import pytest

from scotd_jax import config
from scotd_jax.models.api import Precision
from scotd_jax.models.attention import grouped_attention, grouped_attention_reference
from scotd_jax.models.registry import build, config_for
from scotd_jax.training.attention_check import check_attention, checked_programs
from scotd_jax.training.programs import training_programs
from scotd_jax.training.step import ONE_PART
from tests.helpers.tolerances import GRADIENT
from tests.helpers.training_fixtures import batch_of

pytestmark = pytest.mark.usefixtures("fast_compilation")
MODEL = build(config_for("t5-tiny", {"vocab_size": 16}), Precision("float32"))
BATCH = {"train": batch_of(4)}
FAILURES = {"compiler": NotImplementedError("no such operation"), "launch": ValueError("no such grid")}


def without_gradient_of_queries(query, segments, own, scale):
    return grouped_attention(jax.lax.stop_gradient(query), segments, own, scale)


@pytest.mark.slow
def test_check_passes_equal_attention_and_finds_a_wrong_gradient(one_device):
    assert 0 < check_attention(MODEL, BATCH, one_device, grouped_attention_reference) < GRADIENT
    with pytest.raises(RuntimeError, match=r"gradients differ from XLA's by .*, 1e\+02, .* at most 1 %"):
        check_attention(MODEL, BATCH, one_device, without_gradient_of_queries)


@pytest.mark.slow
@pytest.mark.parametrize("failure", FAILURES)
def test_auto_falls_back_to_xla_with_a_warning_and_fused_raises(one_device, capfd, failure):
    def fails(*_):
        raise FAILURES[failure]

    params = MODEL.init(jax.random.key(0))
    training = config.Training(batch_size=4)
    fused = dataclasses.replace(training_programs(MODEL, training, ONE_PART, one_device), attention=fails)
    args = MODEL, training, ONE_PART, one_device, params, BATCH
    assert checked_programs(fused, *args).attention is None
    assert (
        f"WARNING: fused attention fails on these devices ({type(FAILURES[failure]).__name__}" in capfd.readouterr().err
    )
    with pytest.raises(type(FAILURES[failure])):
        checked_programs(fused, MODEL, dataclasses.replace(training, attention="fused"), *args[2:])
