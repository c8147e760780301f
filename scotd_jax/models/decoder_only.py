"""What all decoder-only models share: the prompt and the responses go through the same layers, one after the other."""

from typing import Any

import jax
import jax.numpy as jnp
from flax import nnx

from scotd_jax.models import packed_masks
from scotd_jax.models.api import Context, Segment
from scotd_jax.models.attention import causal
from scotd_jax.models.cache import extended, of_layer, visible
from scotd_jax.models.forward_options import ForwardOptions
from scotd_jax.models.layer_scan import through


class DecoderOnly(nnx.Module):
    """A stack of `layers`, between the `inputs` and `outputs` of a subclass.

    layers[str(i)](x[B, G, R, D], *told, segments, past, sights, dropout=dropout) -> x, and keys and values to be kept
    (see cache.py).
    """

    layers: nnx.Dict

    def inputs(self, tokens: jax.Array, positions: jax.Array) -> tuple[jax.Array, tuple[Any, ...]]:
        """x[B, G, R, D] of tokens[B, G, R] at positions[B, G or 1, R], and what every layer is told besides."""
        raise TypeError(f"{type(self).__name__} does not say what goes into its layers")

    def outputs(self, x: jax.Array) -> jax.Array:
        """What comes out of the layers, ready for the output matrix."""
        raise TypeError(f"{type(self).__name__} does not say what becomes of its layers' output")

    def prefill(self, tokens, mask, context=None, options=ForwardOptions(), questions=None):
        """Right-padded prefixes [B, P] -> a Context that ends with their segment. Padding comes last, so the causal
        mask alone hides it from the real tokens; the segment's mask hides it from everything later."""
        B = tokens.shape[0]
        before = jnp.zeros(B, jnp.int32) if context is None else jnp.broadcast_to(context.length, (B,))
        segments = () if context is None else context.segments
        own = None if questions is None else packed_masks.same(questions)[:, None] & causal(*2 * tokens.shape[1:])
        _, kept = self._through(tokens[:, None], before, segments, None, "prompt", options, own)
        keys, values = jax.tree.map(lambda each: each.squeeze(-4), kept)
        segment = Segment(keys, values, mask)
        length = mask.sum(1, dtype=jnp.int32) if questions is None else 0  # a packed response counts its own prompt
        return Context((*segments, segment), before + length)

    def extend(self, context, tokens, cache=None, options=ForwardOptions(), positions=None, questions=None):
        """Responses [B, G, R] after the context -> hidden [B, G, R, E] ready for the output matrix, and the cache."""
        context = context if questions is None else packed_masks.own_prompt(context, questions)
        own = None if positions is None else packed_masks.own_response(positions)
        x, kept = self._through(tokens, context.length, context.segments, cache, "response", options, own)
        return self.outputs(x), None if cache is None else extended(cache, *kept, tokens.shape[2])

    def _through(self, tokens, before, segments, cache, name: str, options: ForwardOptions, own=None):
        """tokens[B, G, R], the first of them at position before[B] or before[B, G] (plus what the cache holds).

        `own` is what packed tokens see of their row; each then stands before[B] or [B, G, R] after what it sees.
        """
        R = tokens.shape[2]
        first = before.reshape(*before.shape, *(1,) * (3 - before.ndim))
        if cache is not None:
            first = first + (cache.length + cache.index)[..., None]
        x, told = self.inputs(tokens, first + (jnp.arange(R)[None, None] if own is None else packed_masks.places(own)))
        sights = [(mask, None) for mask in (visible(cache, R) if own is None else [own])]
        wanted = name == "prompt" or cache is not None

        def step(x, layer, i, shared):
            parts = [(*pair, s.mask) for pair, s in zip(shared, segments, strict=True)]
            x, *kept = options.run_layer(name, i, layer, x, *told, parts, of_layer(cache, i), sights)
            return x, tuple(kept) if wanted else ()

        return through(step, x, self.layers, [[s.keys, s.values] for s in segments], "layers/{}", options)
