"""Training options: remat, dropout, label smoothing and z-loss, alone and combined, after a resume and on a mesh."""

import contextlib
import functools

import jax
import jax.numpy as jnp
import numpy as np
import optax
import pytest

from scotd_jax import config
from scotd_jax.distributed import sharding
from scotd_jax.distributed.mesh import make_mesh
from scotd_jax.errors import InputError
from scotd_jax.models.api import Precision
from scotd_jax.models.forward_options import ForwardOptions, compiler_options
from scotd_jax.models.registry import build, config_for
from scotd_jax.training.checkpoints import load_params
from scotd_jax.training.loop import train
from scotd_jax.training.metrics import read_metrics
from scotd_jax.training.options import forward_options
from scotd_jax.training.programs import training_programs
from scotd_jax.training.step import ONE_PART, dropout_keys, make_loss_fn
from tests.helpers.exhaustive import repeat_for
from tests.helpers.fast_compile import UNOPTIMIZED_CODE
from tests.helpers.tolerances import FLOAT32, GRADIENT
from tests.helpers.training_fixtures import batch_of, batches, is_time
from tests.models.test_attention import close

pytestmark = pytest.mark.usefixtures("calls_are_not_retraced", "fast_compilation")
V = 48
SMALL = {
    "opt": ("opt-tiny", {"hidden_size": 16, "ffn_dim": 32, "vocab_size": V, "num_hidden_layers": 1}),
    "t5": ("t5-tiny", {"d_model": 16, "d_ff": 32, "vocab_size": V, "d_kv": 4, "num_layers": 1}),
    "decoder": (
        "decoder-tiny",
        {"hidden_size": 16, "intermediate_size": 32, "vocab_size": V, "num_hidden_layers": 1},
    ),
}


def small(kind, **overrides):
    architecture, common = SMALL[kind]
    return build(config_for(architecture, {**common, **overrides}), Precision("float32"))


@functools.cache
def gradient(kind, remat):
    """Returns loss and gradients with dropout."""
    model, batch = small(kind), batch_of(2, vocab=V)
    loss = make_loss_fn(model, options=ForwardOptions(remat=remat, dropout=0.2))

    @jax.jit
    def run(params, batch, key):
        return jax.value_and_grad(lambda params: loss(params, batch, key)[0].mean())(params)

    return run(model.init(jax.random.key(0)), batch, jax.random.key(1))


@pytest.mark.slow
@pytest.mark.parametrize(
    ("kind", "remat"),
    repeat_for([*((kind, "dots") for kind in SMALL), ("t5", "full")], kept=[("opt", "dots"), ("t5", "full")]),
)
def test_remat_does_not_change_gradients_with_dropout(kind, remat):
    close(gradient(kind, remat), gradient(kind, "none"), GRADIENT)


def gradients_by_remat(layers, **options):
    """Returns the compiled gradient programs of a model with `layers` layers, by remat mode."""
    shape = {"hidden_size": 64, "ffn_dim": 256, "vocab_size": V, "num_hidden_layers": layers}
    model, batch = build(config_for("opt-tiny", shape), Precision("bfloat16")), batch_of(4, vocab=V, G=8, P=8, R=48)
    compiled = {}
    for remat in ("none", "dots", "full"):
        loss = make_loss_fn(model, options=ForwardOptions(remat=remat, **options))
        grad = jax.jit(jax.grad(lambda params, batch, loss=loss: loss(params, batch)[0].mean()))
        xla_options = compiler_options("cpu") | UNOPTIMIZED_CODE
        compiled[remat] = grad.lower(model.abstract(), batch).compile(xla_options)
    return compiled


@pytest.mark.slow
@pytest.mark.usefixtures("default_compilation")
def test_remat_saves_memory_and_only_full_recomputes_matmuls():
    compiled = gradients_by_remat(4)
    memory = {remat: program.memory_analysis().temp_size_in_bytes for remat, program in compiled.items()}
    flops = {remat: program.cost_analysis()["flops"] for remat, program in compiled.items()}
    assert memory["dots"] < 0.9 * memory["none"]
    assert memory["full"] < 0.75 * memory["dots"]  # the residuals of one layer and the logits remain
    assert flops["dots"] < 1.06 * flops["none"]  # norms and activations are recomputed
    assert 1.2 * flops["none"] < flops["full"] < 1.4 * flops["none"]  # plus one forward pass through the layers


@pytest.mark.slow
@pytest.mark.usefixtures("default_compilation")
@pytest.mark.skipif(jax.default_backend() != "cpu", reason="the barriers do nothing on other platforms")
def test_optimization_barriers_reduce_peak_memory(monkeypatch):
    shape = {"hidden_size": 64, "ffn_dim": 256, "vocab_size": V, "num_hidden_layers": 8}
    model, batch = build(config_for("opt-tiny", shape), Precision("bfloat16")), batch_of(4, vocab=V, G=8, P=8, R=48)

    def peak_memory():
        grad = jax.jit(jax.grad(lambda params, batch: make_loss_fn(model)(params, batch)[0].mean()))
        compiled = grad.lower(model.abstract(), batch).compile(compiler_options("cpu") | UNOPTIMIZED_CODE)
        return compiled.memory_analysis().temp_size_in_bytes

    with_barriers = peak_memory()
    for module in ("layers", "attention"):
        monkeypatch.setattr(f"scotd_jax.models.{module}.optimization_barrier", lambda *arrays: arrays)
    without = peak_memory()
    assert with_barriers < 0.85 * without


@pytest.mark.slow
def test_dropout_keeps_the_mean_and_each_site_has_its_own_mask():
    x = jnp.linspace(1.0, 2.0, 200).reshape(4, 50)

    def dropped(seed, name, layer):
        return ForwardOptions(dropout=0.25, dropout_key=jax.random.key(seed)).apply_dropout(x, name, layer)

    drawn = jnp.stack([dropped(seed, "decoder/mlp", 0) for seed in range(400)])
    kept = np.asarray(drawn) > 0
    close(drawn[kept], jnp.broadcast_to(x / 0.75, drawn.shape)[kept], FLOAT32)
    close(drawn.mean(0), x, 0.15)
    np.testing.assert_allclose(kept.mean(), 0.75, atol=0.01)
    others = [dropped(0, "decoder/mlp", 1), dropped(0, "decoder/attn", 0), dropped(1, "decoder/mlp", 0)]
    assert all(((np.asarray(other) > 0) == kept[0]).mean() < 0.8 for other in others)
    np.testing.assert_array_equal(dropped(0, "decoder/mlp", jnp.int32(0)), drawn[0])


@pytest.mark.slow
@pytest.mark.parametrize("kind", ["opt", "t5"])
def test_responses_share_prompt_dropout_and_draw_their_own_masks(kind):
    """Three equal responses per question differ only by their own dropout masks."""
    layers = (
        {} if kind == "t5" else {"num_hidden_layers": 2}
    )  # dropout in the first layer changes the keys of the second
    model, batch = small(kind, **layers), batch_of(2, vocab=V)
    params = jax.tree.map(lambda leaf: 10 * leaf, model.init(jax.random.key(0)))
    options = ForwardOptions(dropout=0.2, dropout_key=jax.random.key(1))
    inputs = jnp.asarray(batch["inputs"])[:, :1].repeat(3, 1)
    prefill, extend = jax.jit(model.prefill), jax.jit(model.extend)
    dropped = jax.jit(lambda *args: model.prefill(*args, options=options))(
        params, batch["prompt"], batch["prompt_mask"]
    )
    plain = prefill(params, batch["prompt"], batch["prompt_mask"])
    assert jax.tree.map(jnp.shape, dropped) == jax.tree.map(jnp.shape, plain)
    assert not np.array_equal(dropped.segments[0].keys[-1], plain.segments[0].keys[-1])

    same, _ = extend(params, dropped, inputs)
    close(same[:, 1:], same[:, :1].repeat(2, 1), FLOAT32)
    own, _ = jax.jit(lambda *args: model.extend(*args, options=options))(params, dropped, inputs)
    assert all(not np.allclose(own[:, a], own[:, b], atol=1e-3) for a, b in ((0, 1), (0, 2), (1, 2)))


def test_dropout_keys_depend_on_seed_step_and_microbatch():
    def keys(seed, step):
        return np.asarray(jax.random.key_data(dropout_keys(jnp.uint32(seed), jnp.int32(step), 3)))

    drawn = [keys(seed, step) for seed, step in ((0, 0), (0, 1), (1, 0))]
    assert len({tuple(key) for step_keys in drawn for key in step_keys}) == 9
    np.testing.assert_array_equal(keys(0, 1), drawn[1])


# Every option of ForwardOptions and of the loss that this module tests.
ALL = {"remat": "dots", "dropout": 0.2, "label_smoothing": 0.1, "z_loss": 1e-2}


@pytest.mark.slow
@pytest.mark.parametrize("kind", repeat_for(["opt", "t5"], kept=["t5"]))
def test_update_with_all_options_is_equal_on_one_and_eight_devices(one_device, kind):
    model, settings = small(kind), config.Optimizer(warmup_steps=0)
    drawn, states = model.init(jax.random.key(0)), []
    for mesh in (one_device, make_mesh(config.Mesh(data=2, fsdp=2, tensor=2))):
        programs = training_programs(model, config.Training(microbatches=2, optimizer=settings, **ALL), ONE_PART, mesh)
        batch = {"train": sharding.shard_batch(batch_of(8, vocab=V), programs.batch_sharding)}
        state, metrics = programs.step(programs.init_state(drawn, 0), batch, programs.dropout_seed(2**40 + 3))
        states.append((optax.tree_utils.tree_get(state.opt_state, "mu"), metrics))
    (mu, metrics), (mu_8, metrics_8) = jax.tree.map(np.asarray, states)
    assert metrics["objective"] > metrics["loss"] > 0
    for name, value in metrics.items():
        np.testing.assert_allclose(metrics_8[name], value, rtol=FLOAT32)
    close(mu_8, mu, GRADIENT)


class InterruptedRunError(Exception):
    """Interrupts a run."""


def run(folder, mesh, interrupt_at=None, **options):
    """Trains for six updates, or until the metrics of the update `interrupt_at` are logged."""
    loader = batches(4)

    def stop(step, values):
        if step == interrupt_at:
            raise InterruptedRunError

    adam = config.Optimizer(learning_rate=0.02, warmup_steps=2)
    training = config.Training(
        steps=6, batch_size=4, microbatches=2, save_every=3, log_every=1, optimizer=adam, **options
    )
    with contextlib.suppress(InterruptedRunError):
        train(small("opt"), None, loader, training, folder, mesh, seed=3, log=stop)


def final_state(folder):
    """Returns (parameters, step) of the last checkpoint, and the logged metrics without times."""
    lines = [{k: v for k, v in row.items() if not is_time(k)} for row in read_metrics(folder / "metrics.jsonl")]
    return load_params(folder / "checkpoints", small("opt").abstract(), "last"), lines


@pytest.mark.slow
def test_resumed_run_draws_the_same_dropout_masks(one_device, tmp_path):
    run(tmp_path / "uninterrupted", one_device, **ALL)
    run(tmp_path / "interrupted", one_device, interrupt_at=5, **ALL)
    assert len(final_state(tmp_path / "interrupted")[1]) < 6
    run(tmp_path / "interrupted", one_device, **ALL)
    (params, step), lines = final_state(tmp_path / "interrupted")
    (expected, _), want = final_state(tmp_path / "uninterrupted")
    assert step == len(lines) == 6
    assert lines == want
    assert all(line["objective"] != line["loss"] for line in lines)
    jax.tree.map(np.testing.assert_array_equal, params, expected)


@pytest.mark.slow
@pytest.mark.usefixtures("default_compilation")
def test_disabled_options_leave_the_program_unchanged(one_device):
    assert forward_options(config.Training()) == ForwardOptions()
    model, batch = small("opt"), {"train": batch_of(4, vocab=V)}
    settings = config.Optimizer(warmup_steps=0)
    texts = []
    for option in ({}, {"dropout": 0.1}, {"z_loss": 1e-4}, {"remat": "full"}):
        programs = training_programs(model, config.Training(optimizer=settings, **option), ONE_PART, one_device)
        dropout_args = (programs.dropout_seed(0),) if "dropout" in option else ()
        texts.append(programs.step.lower(programs.abstract_state, batch, *dropout_args).as_text())
    assert len(set(texts)) == 4
    assert "threefry" not in texts[0]
    barriers = [text.count("optimization_barrier") for text in texts]
    assert barriers[0] == barriers[2] < barriers[3]
    assert "threefry" in texts[1]
    assert "optimization_barrier" in texts[3]


@pytest.mark.parametrize(
    ("changes", "message"),
    [
        ({"dropout": 1.0}, r"training.dropout: expected at least 0 \(off\) and less than 1, found 1.0"),
        ({"dropout": -0.1}, r"training.dropout: .*found -0.1"),
        ({"label_smoothing": 1}, r"training.label_smoothing: .*found 1.0"),
        ({"label_smoothing": float("nan")}, r"training.label_smoothing: .*found nan"),
        ({"z_loss": -1e-4}, r"training.z_loss: expected at least 0 .*found -0.0001"),
        ({"remat": "dot"}, r"training.remat: 'dot' is not one of none, dots, full; did you mean 'dots'"),
    ],
)
def test_out_of_range_options_are_refused_in_the_config(changes, message):
    with pytest.raises(InputError, match=message):
        config.from_mapping(config.Student, {"training": changes})
