"""Optimizers: AdamW, Adafactor or Muon with a learning-rate schedule and gradient clipping.

Weight decay is decoupled and applies to matrices only, not to biases, T5's relative position biases or norm scales.
With Muon it applies only to the kernels that Muon itself updates.
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
    """Builds the learning-rate schedule: linear warm-up to the peak, then the decay of `settings.schedule`.

    The first update has the rate peak / warmup_steps. The update after the last one would have `final_fraction` of the
    peak, so no update has rate zero.

    Args:
      settings: optimizer settings.
      steps: number of updates of the run.

    Returns:
      A function from the number of updates made so far to the learning rate.

    Raises:
      InputError: if the warm-up does not end before the run.
    """
    peak, warmup = settings.learning_rate, settings.warmup_steps
    if not 0 <= warmup < steps:
        raise InputError(
            f"optimizer.warmup_steps is {warmup}, but training lasts {steps} steps; the warm-up must end before"
        )
    decay_steps = steps - warmup
    if settings.schedule == "linear":
        decay = optax.linear_schedule(peak, peak * settings.final_fraction, decay_steps)
    elif settings.schedule == "cosine":
        decay = optax.cosine_decay_schedule(peak, decay_steps, settings.final_fraction)
    else:
        decay = optax.constant_schedule(peak)
    warmup_schedule = optax.linear_schedule(peak / max(warmup, 1), peak, max(warmup - 1, 1))
    return _with_dtype_promotion(optax.join_schedules([warmup_schedule, decay], [warmup]))


def make_optimizer(settings: config.Optimizer, steps: int) -> optax.GradientTransformation:
    """Builds the gradient transformation of a run of `steps` updates.

    adamw: Loshchilov and Hutter, arXiv 1711.05101.

    adafactor: Shazeer and Stern, arXiv 1804.04235, with the learning rate as configured (no scaling by parameter size)
    and updates clipped to RMS 1. `b1`, `b2` and `eps` do not apply: its second moments decay on their own schedule.

    muon: Jordan 2024 for kernels, with momentum 0.95. All other parameters use Adam with Nesterov momentum, to which
    `b1` and `b2` apply. Muon's updates are scaled to the RMS of AdamW updates (arXiv 2502.16982), so that one learning
    rate suits kernels and other parameters.

    `moments="bfloat16"` stores the first moments of adamw and muon in two bytes per number instead of four: the state
    of adamw shrinks from 8 to 6 bytes per parameter, that of muon from 4 to 2 per kernel parameter. An update computes
    in float32 and rounds what it stores; with b1 = 0.9 a moment can differ by up to 2 % from a gradient that no longer
    changes. Second moments stay float32: v <- v + (1 - b2) * (g^2 - v) with b2 = 0.999 changes v by a thousandth, but
    neighboring bfloat16 numbers differ by at least 1/256 of their value. So v would never shrink after one large
    gradient, nor grow before g^2 exceeds about three times v. Adafactor stores no first moments, and its second moments
    are factored.

    Args:
      settings: optimizer settings.
      steps: number of updates of the run.

    Raises:
      InputError: if the warm-up does not end before the run, or for bfloat16 moments of adafactor, which has none.
    """
    schedule = make_schedule(settings, steps)
    moments_dtype = None if settings.moments == "float32" else settings.moments
    if moments_dtype and settings.name == "adafactor":
        raise InputError(
            "optimizer.moments: adafactor keeps no first moments, so bfloat16 would change nothing; leave it float32"
        )
    decay = optax.add_decayed_weights(settings.weight_decay, _decay_mask)
    descend = optax.scale_by_learning_rate(schedule)
    if settings.name == "adamw":
        update = optax.chain(
            optax.scale_by_adam(settings.b1, settings.b2, settings.eps, mu_dtype=moments_dtype), decay, descend
        )
    elif settings.name == "adafactor":
        update = optax.chain(optax.scale_by_factored_rms(), optax.clip_by_block_rms(1.0), decay, descend)
    else:
        update = contrib.muon(
            schedule,
            weight_decay=settings.weight_decay,
            adam_b1=settings.b1,
            adam_b2=settings.b2,
            eps=settings.eps,
            mu_dtype=moments_dtype,
            muon_weight_dimension_numbers=_muon_dimensions,
            consistent_rms=0.2,  # the RMS of an AdamW update, by arXiv 2502.16982
        )
    if settings.clip_norm > 0:
        update = optax.chain(optax.clip_by_global_norm(settings.clip_norm), update)
    return optax.GradientTransformation(update.init, _with_dtype_promotion(update.update))


def _with_dtype_promotion(function: Callable[..., Any]) -> Callable[..., Any]:
    """Lets `function` promote dtypes even if JAX is strict: optax raises Python floats to integer powers."""

    @functools.wraps(function)
    def wrapped(*args):
        with jax.numpy_dtype_promotion("standard"):
            return function(*args)

    return wrapped


def _decay_mask(params):
    """True for the parameters to which weight decay applies."""
    return jax.tree_util.tree_map_with_path(lambda path, leaf: leaf.ndim >= 2 and path[-1].key != "rel_bias", params)


def _muon_dimensions(params):
    """Selects the parameters that Muon updates: kernels, and the LoRA matrices of kernels (trainable.py).

    Embeddings and the output matrix are lookup tables; Adam updates them.
    """

    def dimensions(path, leaf):
        names = [key.key for key in path]
        is_kernel = leaf.ndim == 2 and "kernel" in names[-2:] and "lm_head" not in names
        return contrib.MuonDimensionNumbers() if is_kernel else None

    return jax.tree_util.tree_map_with_path(dimensions, params)
