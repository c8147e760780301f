"""Which update is made of a gradient: AdamW, Adafactor or Muon behind one learning-rate schedule and one clip.

Weight decay is decoupled and reaches matrices only; biases, T5's table of them, and norm scales are left alone, and by
Muon all that are not its kernels.
"""

import functools
from collections.abc import Callable
from typing import Any

import jax
import optax
from optax import contrib

from scotd_jax import config
from scotd_jax.errors import InputError


def make_schedule(settings: config.Optimizer, steps: int) -> optax.Schedule:
    """Learning rate of update `step` (0-based): linear warm-up to the peak, then the chosen decay.

    The first update has rate peak / warmup_steps, and `final_fraction` of the peak would be reached by the update
    after the last one: no update is made at rate zero. Raises InputError if the warm-up does not end before the run.
    """
    peak, warmup = settings.learning_rate, settings.warmup_steps
    if not 0 <= warmup < steps:
        raise InputError(
            f"optimizer.warmup_steps is {warmup}, but training lasts {steps} steps; the warm-up must end before"
        )
    left = steps - warmup
    if settings.schedule == "linear":
        decay = optax.linear_schedule(peak, peak * settings.final_fraction, left)
    elif settings.schedule == "cosine":
        decay = optax.cosine_decay_schedule(peak, left, settings.final_fraction)
    else:
        decay = optax.constant_schedule(peak)
    rise = optax.linear_schedule(peak / max(warmup, 1), peak, max(warmup - 1, 1))
    return _promoting(optax.join_schedules([rise, decay], [warmup]))


def make_optimizer(settings: config.Optimizer, steps: int) -> optax.GradientTransformation:
    """The transformation of `settings` for a run of `steps` updates.

    adamw: Loshchilov and Hutter, arXiv 1711.05101. adafactor: Shazeer and Stern, arXiv 1804.04235, with the given
    learning rate as it stands (no scaling by parameter size) and updates clipped to RMS 1. muon: Jordan 2024 for
    kernels, with its momentum of 0.95, scaled to the RMS of an AdamW update (arXiv 2502.16982), and Adam with Nesterov
    momentum for embeddings, the output matrix, biases and norms, so that one rate serves both; `b1` and `b2` are those
    of its Adam. Adafactor has neither, nor `eps`: its second moments decay on a schedule of their own.

    `moments="bfloat16"` keeps the first moments of adamw and muon in two bytes a number instead of four (adamw's state
    shrinks from 8 to 6 bytes, muon's from 4 to 2 for kernels). An update computes with float32 moments and rounds
    what it keeps: with b1 = 0.9 a moment may end up to 2 % beside a gradient that no longer changes. Second moments
    stay float32: v <- v + (1 - b2) * (g^2 - v) with b2 = 0.999 would change v by a thousandth, where bfloat16 tells
    numbers apart that differ by 1/256, so v would never shrink again after one large gradient, nor rise before g^2
    exceeds some three times v. Adafactor keeps no first moment, and its second moments are thin already.

    Raises InputError on bfloat16 moments of adafactor, which would change nothing.
    """
    schedule = make_schedule(settings, steps)
    kept = None if settings.moments == "float32" else settings.moments
    if kept and settings.name == "adafactor":
        raise InputError(
            "optimizer.moments: adafactor keeps no first moments, so bfloat16 would change nothing; leave it float32"
        )
    decay = optax.add_decayed_weights(settings.weight_decay, _matrices)
    descend = optax.scale_by_learning_rate(schedule)
    if settings.name == "adamw":
        update = optax.chain(optax.scale_by_adam(settings.b1, settings.b2, settings.eps, mu_dtype=kept), decay, descend)
    elif settings.name == "adafactor":
        update = optax.chain(optax.scale_by_factored_rms(), optax.clip_by_block_rms(1.0), decay, descend)
    else:
        update = contrib.muon(
            schedule,
            weight_decay=settings.weight_decay,
            adam_b1=settings.b1,
            adam_b2=settings.b2,
            eps=settings.eps,
            mu_dtype=kept,
            muon_weight_dimension_numbers=_kernels,
            consistent_rms=0.2,
        )
    if settings.clip_norm > 0:
        update = optax.chain(optax.clip_by_global_norm(settings.clip_norm), update)
    return optax.GradientTransformation(update.init, _promoting(update.update))


def _promoting(function: Callable[..., Any]) -> Callable[..., Any]:
    """Optax raises Python floats to integer powers; here alone JAX may promote dtypes, however strict it is outside."""

    @functools.wraps(function)
    def promoting(*args):
        with jax.numpy_dtype_promotion("standard"):
            return function(*args)

    return promoting


def _matrices(params):
    return jax.tree_util.tree_map_with_path(lambda path, leaf: leaf.ndim >= 2 and path[-1].key != "rel_bias", params)


def _kernels(params):
    """Muon's own parameters: maps between hidden spaces, or the two thin maps that learn for one (trainable.py).
    Embeddings and the output matrix are tables, not maps."""

    def numbers(path, leaf):
        names = [key.key for key in path]
        is_map = leaf.ndim == 2 and "kernel" in names[-2:] and "lm_head" not in names
        return contrib.MuonDimensionNumbers() if is_map else None

    return jax.tree_util.tree_map_with_path(numbers, params)
