"""The startup check accepts correct models and refuses those whose responses attend to other responses of their row.

Training on packed rows gives the results of training on grouped rows.
"""

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
from scotd_jax.training.programs import training_programs
from scotd_jax.training.startup_check import check_against_pairs, extract_pairs
from scotd_jax.training.step import ONE_PART
from tests.helpers.corpus_files import PACKED_OPTIONS, UNEVEN_QUESTIONS, uneven_example, write_corpus
from tests.helpers.exhaustive import repeat_for
from tests.helpers.tolerances import FLOAT32, GRADIENT
from tests.helpers.training_fixtures import bag_model, batch_of, batches

pytestmark = pytest.mark.usefixtures("calls_are_not_retraced", "fast_compilation")
KINDS = {"opt": "opt-tiny", "t5": "t5-tiny", "decoder": "decoder-tiny"}
ADAM = config.Optimizer(learning_rate=1e-3, warmup_steps=2)


def model(kind: str, compute: str = "float32"):
    return build(config_for(KINDS[kind], {"vocab_size": 3000}), Precision(compute))


@pytest.fixture(scope="module")
def corpus(tmp_path_factory):
    folder = tmp_path_factory.mktemp("corpus")
    write_corpus(folder, "train", map(uneven_example, range(UNEVEN_QUESTIONS)), 2)
    return folder


def first_batch(corpus, kind: str, **changes) -> dict[str, dict[str, np.ndarray]]:
    return open_batches(corpus, **{**PACKED_OPTIONS, "start_token": model(kind).start_token, **changes})[0]


@pytest.mark.slow
@pytest.mark.parametrize("compute", ["float32", "bfloat16"])
@pytest.mark.parametrize("kind", repeat_for(KINDS, kept=["t5"]))
def test_packed_and_grouped_rows_pass_and_separate_pairs_are_skipped(one_device, corpus, kind, compute):
    m = model(kind, compute)
    params = m.init(jax.random.key(0))
    for changes in ({}, {"max_shapes": 1}):
        found = check_against_pairs(m, params, first_batch(corpus, kind, **changes), one_device)
        assert found["train"] < (FLOAT32 if compute == "float32" else 0.02)
    assert check_against_pairs(m, params, first_batch(corpus, kind, max_shapes=1, group_size=1), one_device) == {}


def ignore_arguments(m, *names: str):
    """The model `m` with a `prefill` and an `extend` that ignore these arguments."""

    def ignoring(function):
        return lambda *args, **options: function(*args, **{k: v for k, v in options.items() if k not in names})

    return dataclasses.replace(m, prefill=ignoring(m.prefill), extend=ignoring(m.extend))


@pytest.mark.slow
@pytest.mark.parametrize("ignored", ["positions", "questions"])
@pytest.mark.parametrize(
    ("kind", "compute"),
    repeat_for(
        [("opt", "float32"), *((kind, "bfloat16") for kind in KINDS)],
        kept=[("t5", "bfloat16"), ("decoder", "bfloat16")],
    ),
)
def test_model_that_attends_to_neighbors_is_refused(one_device, corpus, kind, ignored, compute):
    """Initial weights are the hardest case: with them, attending to wrong tokens changes hidden states the least.

    So is bfloat16, whose tolerance is larger; float32 differs from it by the tolerance only.
    """
    m = ignore_arguments(model(kind, compute), ignored)
    message = (
        r"part 'train': packed responses do not compute what separate pairs .* loss \d+\.\d+ against \d+\.\d+ nats"
    )
    with pytest.raises(RuntimeError, match=message):
        check_against_pairs(m, m.init(jax.random.key(0)), first_batch(corpus, kind), one_device)


def test_extracted_pairs_are_single_responses_with_their_prompts(corpus):
    rows = {key: array[:1] for key, array in first_batch(corpus, "opt")["train"].items()}
    pairs, token_index = extract_pairs(rows)
    assert pairs["inputs"].shape[:2] == (4, 1)
    for prompt, mask, inputs, targets, weights, index in zip(
        *(pairs[k] for k in ("prompt", "prompt_mask", "inputs", "targets", "weights")), token_index[0], strict=True
    ):
        length = int(weights.sum())
        response = targets[0, :length].tolist()
        question = uneven_example(response[0] // 10)
        assert response in question.responses
        assert prompt[mask].tolist() == question.prompt[:-1]
        assert inputs[0, :length].tolist() == [question.prompt[-1], *response[:-1]]
        assert rows["targets"].reshape(-1)[index[:length]].tolist() == response
    assert len({tuple(p[:20].tolist()) for p in pairs["targets"][:, 0]}) == 4, "four different responses"


@pytest.mark.slow
@pytest.mark.parametrize("kind", repeat_for(["opt", "t5"], kept=["t5"]))
def test_startup_check_on_eight_devices(corpus, kind):
    mesh = make_mesh(config.Mesh(data=2, fsdp=2, tensor=2))
    batch = first_batch(corpus, kind, row_multiple=4)
    assert batch["train"]["inputs"].shape[0] == 4
    m = model(kind)
    assert check_against_pairs(m, m.init(jax.random.key(0)), batch, mesh)["train"] < FLOAT32
    broken = ignore_arguments(m, "positions")
    with pytest.raises(RuntimeError, match="hidden states differ"):
        check_against_pairs(broken, broken.init(jax.random.key(0)), batch, mesh)


@pytest.mark.slow
def test_run_checks_before_the_first_update_unless_disabled(one_device, tmp_path):
    """The bad model is wrong for grouped responses only, whose tokens it shifts by one position."""
    good = bag_model()

    def extend(params, context, tokens, cache=None, options=None):
        return good.extend(params, context, tokens if tokens.shape[1] == 1 else jnp.roll(tokens, 1, 2), cache)

    bad, training = dataclasses.replace(good, extend=extend), config.Training(3, 4, optimizer=ADAM)
    with pytest.raises(RuntimeError, match="grouped responses do not compute what separate pairs"):
        train(bad, None, batches(4), training, tmp_path / "a", one_device)
    assert not read_metrics(tmp_path / "a" / "metrics.jsonl")
    train(bad, None, batches(4), dataclasses.replace(training, startup_check=False), tmp_path / "b", one_device)
    differences = check_against_pairs(good, good.init(jax.random.key(0)), {"train": batch_of(4)}, one_device)
    assert differences["train"] < FLOAT32


@pytest.mark.slow
@pytest.mark.parametrize("microbatches", repeat_for([1, 2], kept=[2]))
def test_packed_training_equals_grouped_training_and_compiles_once_per_shape(
    one_device, corpus, tmp_path, microbatches
):
    m = model("opt")
    training = config.Training(12, 8, 5, microbatches, optimizer=ADAM, log_every=1)
    params, losses, shapes = [], [], set()
    for max_shapes in (5, 1):
        options = {**PACKED_OPTIONS, "max_shapes": max_shapes, "row_multiple": microbatches}
        corpus_batches, folder = open_batches(corpus, **options), tmp_path / str(max_shapes)
        step = training_programs(m, training, ONE_PART, one_device).step
        before = step._cache_size()
        train(m, None, prefetch_batches(corpus_batches), training, folder, one_device)
        shapes = {str(jax.tree.map(np.shape, corpus_batches[t])) for t in range(12)}
        assert step._cache_size() - before == len(shapes)
        assert len(shapes) == 1 if max_shapes == 1 else 2 <= len(shapes) <= 3
        losses.append([row["loss"] for row in read_metrics(folder / "metrics.jsonl")])
        params.append(load_params(folder / "checkpoints", m.abstract(), "last")[0])
    np.testing.assert_allclose(losses[0], losses[1], rtol=GRADIENT)
    assert len(losses[0]) == 12
    jax.tree.map(lambda a, b: np.testing.assert_allclose(a, b, rtol=0, atol=2e-4), *params)
