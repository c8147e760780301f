"""The interface of all models and the arrays that pass through it.

Axis letters, used in shapes and as suffixes of names throughout the package:

    B questions in a batch     G responses per question    P prompt tokens        R response tokens
    S tokens of a segment      T past slots of a cache     C recent slots         V vocabulary
    D model width              E output embedding width    F MLP width            L layers
    H query heads              K key heads                 Dh head width

A model is used only through `prefill` and `extend`. Training is one `prefill` and one `extend` of whole responses;
sampling is one `prefill` and many `extend`s of one token each, with a cache.
"""

import dataclasses
from collections.abc import Callable
from typing import Any, NamedTuple

import jax

Params = Any  # nested dict of arrays, string keys


class Segment(NamedTuple):
    """Keys and values that several responses share.

    Attributes:
      keys: one array [B, K, S, Dh] per layer, with B = 1 where the whole batch shares the segment; or, after a scan
        over layers (layer_scan.py), one array [L, B, K, S, Dh].
      values: like keys.
      mask: bool[B, S], False on padding; or bool[B, G, S] or bool[B, G, R, S] where responses see different tokens.
    """

    keys: tuple[jax.Array, ...] | jax.Array
    values: tuple[jax.Array, ...] | jax.Array
    mask: jax.Array


class Context(NamedTuple):
    """The tokens before a response. The response attends to them and to its own tokens.

    Attributes:
      segments: shared segments, in order.
      length: int32[B] or int32[B, G], the number of real tokens before the response. Encoder-decoders ignore it: their
        decoder counts from zero.
    """

    segments: tuple[Segment, ...]
    length: jax.Array


class Cache(NamedTuple):
    """The KV cache of responses during sampling, split into past and recent tokens so that rows may differ in length.

    Each of the B * G rows holds one response. `extend` writes the new tokens of all rows into the same recent slots and
    leaves the past unchanged. `flush_recent` (cache.py) moves the recent tokens to the end of each row's past.

    Attributes:
      keys: one array [B, G, K, T, Dh] per layer: the past.
      values: like keys.
      length: int32[B, G], the number of past slots in use.
      recent_keys: one array [B, G, K, C, Dh] per layer: the tokens since the last `flush_recent`.
      recent_values: like recent_keys.
      index: int32[], the number of recent slots in use.
    """

    keys: tuple[jax.Array, ...]
    values: tuple[jax.Array, ...]
    length: jax.Array
    recent_keys: tuple[jax.Array, ...]
    recent_values: tuple[jax.Array, ...]
    index: jax.Array


@dataclasses.dataclass(frozen=True)
class Precision:
    """The dtypes of a model. Accumulation, parameters, logits, softmax and losses are always float32.

    Attributes:
      compute: the dtype of matmul inputs and activations, "bfloat16" or "float32".
    """

    compute: str = "bfloat16"


@dataclasses.dataclass(frozen=True)
class LanguageModel:
    """A model as pure functions of its parameters, a nested dict of float32 arrays. Built by `registry.build`.

    init(key) -> params

    prefill(params, tokens[B, P], mask[B, P], context=None, options=ForwardOptions(), questions=None) -> Context
        Encodes right-padded prompts once so that any number of responses can attend to them. With a context the
        prompts follow it (a question after shared few-shot examples). With `questions` each row holds the prompts of
        several questions (packed_masks.py). `options` are for training (forward_options.py).

    extend(params, context, tokens[B, G, R], cache=None, options=ForwardOptions(), positions=None, questions=None)
            -> hidden[B, G, R, E], cache
        Runs R tokens of every response, which attend to the context and causally to each other. With a cache they also
        attend to it and are appended to its recent slots; without one, the returned cache is None. `hidden` is the
        input of the output matrix, after final norm, projection and scale. With `positions` each row holds several
        responses in sequence, and with `questions` they belong to several prompts of the context's last segment
        (packed_masks.py); neither can be combined with a cache.

    unembedding(params) -> [V, E], the output matrix; logits are hidden @ unembedding.T (`logits` in layers.py).

    new_cache(batch, group, length, recent) -> Cache, empty, with `length` past and `recent` recent slots per response.

    axes() -> a tree like params: a tuple of logical axes per parameter (param_axes.py).
    """

    config: Any
    precision: Precision
    init: Callable[[jax.Array], Params]
    prefill: Callable[..., Context]
    extend: Callable[..., tuple[jax.Array, Cache | None]]
    unembedding: Callable[[Params], jax.Array]
    new_cache: Callable[[int, int, int, int], Cache]
    axes: Callable[[], Any]

    @property
    def start_token(self) -> int | None:
        """The first decoder input. None for decoder-only models, which start from the prompt's last token."""
        return self.config.start_token

    def abstract(self) -> Params:
        """Shapes and dtypes of the parameters; nothing is allocated."""
        return jax.eval_shape(self.init, jax.random.key(0))
