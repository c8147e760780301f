"""The check before the first update: silent on what is right, loud on a neighbour that is seen; and packed training."""

import dataclasses

import jax
import jax.numpy as jnp
import numpy as np
import pytest

from scotd_jax import config
from scotd_jax.corpus.batching.loader import open_batches, prefetch_batches
from scotd_jax.distributed.mesh import make_mesh
from scotd_jax.models.api import Precision
from scotd_jax.models.registry import build, config_for
from scotd_jax.training.checkpoints import load_params
from scotd_jax.training.loop import train
from scotd_jax.training.metrics import read_metrics
from scotd_jax.training.programs import programs_of
from scotd_jax.training.startup_check import check_pairs, separate
from scotd_jax.training.step import ONE_PART
from tests.corpus.batching.test_windows import OPTIONS, QUESTIONS, grouped
from tests.helpers.corpus_files import write_corpus
from tests.helpers.tolerances import FLOAT32, GRADIENT
from tests.helpers.training_fixtures import bag_model, batch_of, batches

pytestmark = pytest.mark.usefixtures("calls_are_not_retraced", "compiled_in_a_hurry")
KINDS = {"opt": "opt-tiny", "t5": "t5-tiny", "decoder": "decoder-tiny"}
ADAM = config.Optimizer(learning_rate=1e-3, warmup_steps=2)


def model(kind: str, compute: str = "float32"):
    return build(config_for(KINDS[kind], {"vocab_size": 3000}), Precision(compute))


@pytest.fixture(scope="module")
def corpus(tmp_path_factory):
    folder = tmp_path_factory.mktemp("corpus")
    write_corpus(folder, "train", map(grouped, range(QUESTIONS)), 2)
    return folder


def first(corpus, kind: str, **changes) -> dict[str, dict[str, np.ndarray]]:
    return open_batches(corpus, **{**OPTIONS, "start_token": model(kind).start_token, **changes})[0]


@pytest.mark.parametrize("compute", ["float32", "bfloat16"])
@pytest.mark.parametrize("kind", KINDS)
def test_packed_and_grouped_rows_pass_and_pairs_are_left_out(one_device, corpus, kind, compute):
    m = model(kind, compute)
    params = m.init(jax.random.key(0))
    for changes in ({}, {"max_shapes": 1}):
        found = check_pairs(m, params, first(corpus, kind, **changes), one_device)
        assert found["train"] < (FLOAT32 if compute == "float32" else 0.02)
    assert check_pairs(m, params, first(corpus, kind, max_shapes=1, group_size=1), one_device) == {}


def without(m, *names: str):
    """`m`, whose `extend` and `prefill` never hear of these arguments."""

    def deaf(function):
        return lambda *args, **more: function(*args, **{k: v for k, v in more.items() if k not in names})

    return dataclasses.replace(m, prefill=deaf(m.prefill), extend=deaf(m.extend))


@pytest.mark.parametrize("compute", ["float32", "bfloat16"])
@pytest.mark.parametrize("deaf_to", ["positions", "questions"])
@pytest.mark.parametrize("kind", KINDS)
def test_a_model_that_sees_a_neighbour_is_refused(one_device, corpus, kind, deaf_to, compute):
    """With weights as they are drawn, when what a token sees changes its hidden state least."""
    m = without(model(kind, compute), deaf_to)
    wrong = r"part 'train': packed responses do not compute what separate pairs .* loss \d+\.\d+ against \d+\.\d+ nats"
    with pytest.raises(RuntimeError, match=wrong):
        check_pairs(m, m.init(jax.random.key(0)), first(corpus, kind), one_device)


def test_pairs_are_taken_out_one_by_one(corpus):
    rows = {key: array[:1] for key, array in first(corpus, "opt")["train"].items()}
    pairs, at = separate(rows)
    assert pairs["inputs"].shape[:2] == (4, 1)
    for prompt, mask, inputs, targets, weights, places in zip(
        *(pairs[k] for k in ("prompt", "prompt_mask", "inputs", "targets", "weights")), at[0], strict=True
    ):
        length = int(weights.sum())
        said = targets[0, :length].tolist()
        question = grouped(said[0] // 10)
        assert said in question.responses
        assert prompt[mask].tolist() == question.prompt[:-1]
        assert inputs[0, :length].tolist() == [question.prompt[-1], *said[:-1]]
        assert rows["targets"].reshape(-1)[places[:length]].tolist() == said
    assert len({tuple(p[:20].tolist()) for p in pairs["targets"][:, 0]}) == 4, "four of them, not one four times"


@pytest.mark.parametrize("kind", ["opt", "t5"])
def test_over_eight_devices(corpus, kind):
    mesh = make_mesh(config.Mesh(data=2, fsdp=2, tensor=2))
    batch = first(corpus, kind, row_multiple=4)
    assert batch["train"]["inputs"].shape[0] == 4
    m = model(kind)
    assert check_pairs(m, m.init(jax.random.key(0)), batch, mesh)["train"] < FLOAT32
    deaf = without(m, "positions")
    with pytest.raises(RuntimeError, match="hidden states differ"):
        check_pairs(deaf, deaf.init(jax.random.key(0)), batch, mesh)


def test_a_run_checks_before_its_first_update_unless_told_not_to(one_device, tmp_path):
    """This model reads every token of a group as its left neighbour."""
    good = bag_model()

    def extend(params, context, tokens, cache=None, options=None):
        return good.extend(params, context, tokens if tokens.shape[1] == 1 else jnp.roll(tokens, 1, 2), cache)

    bad, training = dataclasses.replace(good, extend=extend), config.Training(3, 4, optimizer=ADAM)
    with pytest.raises(RuntimeError, match="grouped responses do not compute what separate pairs"):
        train(bad, None, batches(4), training, tmp_path / "a", one_device)
    assert not read_metrics(tmp_path / "a" / "metrics.jsonl")
    train(bad, None, batches(4), dataclasses.replace(training, startup_check=False), tmp_path / "b", one_device)
    assert check_pairs(good, good.init(jax.random.key(0)), {"train": batch_of(4)}, one_device)["train"] < FLOAT32


@pytest.mark.parametrize("microbatches", [1, 2])
def test_packed_training_is_plain_training_and_compiles_once_per_shape(one_device, corpus, tmp_path, microbatches):
    m = model("opt")
    training = config.Training(12, 8, 5, microbatches, optimizer=ADAM, log_every=1)
    params, losses, shapes = [], [], set()
    for at_most in (5, 1):
        options = {**OPTIONS, "max_shapes": at_most, "row_multiple": microbatches}
        loader, folder = open_batches(corpus, **options), tmp_path / str(at_most)
        step = programs_of(m, training, ONE_PART, one_device).step
        before = step._cache_size()
        train(m, None, prefetch_batches(loader), training, folder, one_device)
        shapes = {str(jax.tree.map(np.shape, loader[t])) for t in range(12)}
        assert step._cache_size() - before == len(shapes)
        assert len(shapes) == 1 if at_most == 1 else 2 <= len(shapes) <= 3
        losses.append([row["loss"] for row in read_metrics(folder / "metrics.jsonl")])
        params.append(load_params(folder / "checkpoints", m.abstract(), "last")[0])
    np.testing.assert_allclose(losses[0], losses[1], rtol=GRADIENT)
    assert len(losses[0]) == 12
    jax.tree.map(lambda a, b: np.testing.assert_allclose(a, b, rtol=0, atol=2e-4), *params)
