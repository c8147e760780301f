"""The modern decoder-only model: Llama, SmolLM, Qwen, Mistral and Gemma 3, with Hugging Face's weights.

Unlike OPT it has RMS norms, rotary positions, grouped-query attention and a gated MLP. Keys are rotated before they are
stored in a segment or cache, so that stored keys never change.

Prompts and responses run through the same layers.
"""

import functools
from collections.abc import Sequence
from typing import Any

import jax
import jax.numpy as jnp
from flax import nnx
from jaxtyping import Array, Bool, Float, Int

from scotd_jax.models.api import Cache, Context, Segment
from scotd_jax.models.attention import SharedKV, grouped_attention, per_token_mask
from scotd_jax.models.cache import (
    LayerCache,
    MaskAndBias,
    append_to_cache,
    cache_masks,
    layer_cache,
    token_positions,
    with_recent,
)
from scotd_jax.models.decoder_config import DecoderConfig
from scotd_jax.models.forward_options import (
    Attention,
    Dropout,
    ForwardOptions,
    no_dropout,
    optimization_barrier,
    save_for_backward,
)
from scotd_jax.models.layer_scan import pick_by_layer, scan_over_layers, uses_scan
from scotd_jax.models.layers import (
    Dense,
    RMSNorm,
    TokenEmbedding,
    Unembedding,
    embed,
    gated_activation,
    parallel_dense,
)
from scotd_jax.models.packed_masks import QuestionIds, packed_context, packed_prompt_mask, packed_response_mask
from scotd_jax.models.rope import Rotation, frequencies, identity_rotation, rotate, rotation
from scotd_jax.models.sliding_window import window_own_masks, window_segment_masks

_ACTIVATIONS = {
    "silu": jax.nn.silu,
    "gelu": functools.partial(jax.nn.gelu, approximate=False),
    "gelu_pytorch_tanh": functools.partial(jax.nn.gelu, approximate=True),
}


class Decoder(nnx.Module):
    """Decoder-only model with rotary positions, RMSNorm and a gated MLP (Llama, Qwen and similar)."""

    def __init__(self, config: DecoderConfig, dtype: str, rngs: nnx.Rngs):
        embedding = {"std": config.initializer_range, "rngs": rngs}
        self.embed = TokenEmbedding(config.vocab_size, config.hidden_size, **embedding)
        self.layers = nnx.Dict({str(i): DecoderLayer(config, dtype, rngs) for i in range(config.num_hidden_layers)})
        self.final_norm = RMSNorm(config.hidden_size, **config.norm_options)
        if config.tie_word_embeddings:
            self.lm_head = None
        else:
            self.lm_head = Unembedding(config.vocab_size, config.hidden_size, **embedding)
        self.config = config

    def prefill(
        self,
        tokens_BP: Int[Array, "B P"],
        mask_BP: Bool[Array, "B P"],
        context: Context | None = None,
        options: ForwardOptions = ForwardOptions(),
        questions_BP: Int[Array, "B P"] | None = None,
    ) -> Context:
        """Computes the keys and values of right-padded prompts; see `api.LanguageModel`.

        Padding comes last, so the causal mask hides it from the prompt. The segment's mask hides it from responses.
        """
        B = tokens_BP.shape[0]
        start_B = jnp.zeros(B, jnp.int32) if context is None else jnp.broadcast_to(context.length, (B,))
        segments = () if context is None else context.segments
        packed_mask = None if questions_BP is None else packed_prompt_mask(questions_BP)
        _, keys_values = self._run_layers(tokens_BP[:, None], start_B, segments, None, packed_mask, "prompt", options)
        keys, values = jax.tree.map(lambda kv: kv.squeeze(-4), keys_values)  # [B, 1, K, P, Dh] -> [B, K, P, Dh]
        # `packed_context` later adds the lengths of packed prompts.
        length = mask_BP.sum(1, dtype=jnp.int32) if questions_BP is None else 0
        return Context((*segments, Segment(keys, values, mask_BP)), start_B + length)

    def extend(
        self,
        context: Context,
        tokens_BGR: Int[Array, "B G R"],
        cache: Cache | None = None,
        options: ForwardOptions = ForwardOptions(),
        positions_BGR: Int[Array, "B G R"] | None = None,
        questions: QuestionIds | None = None,
    ) -> tuple[Float[Array, "B G R E"], Cache | None]:
        """Runs responses that follow the context; see `api.LanguageModel`."""
        context = context if questions is None else packed_context(context, questions)
        packed_mask = None if positions_BGR is None else packed_response_mask(positions_BGR)
        x_BGRD, keys_values = self._run_layers(
            tokens_BGR, context.length, context.segments, cache, packed_mask, "response", options
        )
        hidden_BGRE = self.final_norm(x_BGRD)
        return hidden_BGRE, None if cache is None else with_recent(cache, keys_values, tokens_BGR.shape[2])

    def _run_layers(
        self,
        tokens_BGR: Int[Array, "B G R"],
        start: Int[Array, "..."],
        segments: Sequence[Segment],
        cache: Cache | None,
        packed_mask: Bool[Array, "B G R R"] | None,
        stack: str,
        options: ForwardOptions,
    ) -> tuple[Float[Array, "B G R D"], Any]:
        """Embeds the tokens and runs all layers.

        Args:
          tokens_BGR: tokens of a prompt (G = 1) or of responses.
          start: the number of tokens in `segments` that precede each token, int32[B], [B, G] or [B, G, R].
          segments: keys and values of the preceding prompts.
          cache: keys and values of the earlier tokens of the responses.
          packed_mask: for packed rows, the attention mask among the tokens of a row (packed_masks.py).
          stack: "prompt" or "response"; names the dropout masks.
          options: forward-pass options.

        Returns:
          The output of the last layer, and the keys and values of all layers for the segment or cache.
        """
        positions_BGR = token_positions(start, tokens_BGR.shape[2], cache, packed_mask)
        config = self.config
        pick_rotation = pick_by_layer(config.layer_kinds, _rotations(config, positions_BGR))
        x_BGRD = embed(self.embed.tokens[...], tokens_BGR)
        if config.scales_embeddings:
            x_BGRD = x_BGRD * config.hidden_size**0.5
        masks = cache_masks(cache, tokens_BGR.shape[2]) if packed_mask is None else [packed_mask]
        # Masks of the segments and of the response's own tokens: for layers without a window, then for those with one.
        visible = [([segment.mask for segment in segments], masks)]
        if config.sliding_window_pattern is not None and config.sliding_window is not None:
            window, (B, G) = config.sliding_window, tokens_BGR.shape[:2]
            visible = [([per_token_mask(segment.mask) for segment in segments], masks)]
            segment_masks = window_segment_masks(segments, positions_BGR, (B, G), window)
            visible.append((segment_masks, window_own_masks(masks, positions_BGR, cache, window)))
        pick_masks = pick_by_layer(config.layer_kinds, visible)

        def layer_step(x_BGRD, layer, i, segment_keys_values):
            segment_masks, own_masks = pick_masks(i)
            masks_and_biases = [(mask, None) for mask in own_masks]
            shared = [(*kv, mask) for kv, mask in zip(segment_keys_values, segment_masks, strict=True)]
            args = x_BGRD, pick_rotation(i), shared, layer_cache(cache, i), masks_and_biases
            x_BGRD, key, value = options.run_layer(stack, i, layer, *args)
            return x_BGRD, (key, value)

        if uses_scan(options, self.layers):
            shared = [(s.keys, s.values) for s in segments]
            keep = stack == "prompt" or cache is not None
            return scan_over_layers(layer_step, x_BGRD, self.layers, shared, "layers/{}", options, keep_outputs=keep)
        keys, values = [], []
        for i in range(len(self.layers)):
            shared = [(s.keys[i], s.values[i]) for s in segments]
            x_BGRD, (key, value) = layer_step(x_BGRD, self.layers[str(i)], i, shared)
            keys.append(key)
            values.append(value)
        return x_BGRD, (tuple(keys), tuple(values))

    def unembedding(self) -> Float[Array, "V D"]:
        """Returns the output matrix."""
        return self.embed.tokens[...] if self.lm_head is None else self.lm_head.kernel[...]


def _rotations(config: DecoderConfig, positions_BGR: Int[Array, "_ _ R"]) -> list[Rotation]:
    """Returns the rotations of `config.ropes`.

    Without the barrier XLA would compute sines and cosines again in every layer and for every head.
    """
    rotations = [
        identity_rotation(positions_BGR, config.head_width)
        if theta is None
        else rotation(positions_BGR, *frequencies(config.head_width, theta, scaling))
        for theta, scaling in config.ropes
    ]
    return list(optimization_barrier(*rotations))


class DecoderLayer(nnx.Module):
    """Pre-norm layer: self-attention, then MLP, each with a residual connection.

    In Gemma 3 the outputs of attention and MLP are normalized, too.
    """

    def __init__(self, config: DecoderConfig, dtype: str, rngs: nnx.Rngs):
        width, options = config.hidden_size, config.norm_options
        self.attn_norm = RMSNorm(width, **options)
        self.attn = DecoderAttention(config, dtype, rngs)
        self.attn_post_norm = RMSNorm(width, **options) if config.post_norms else None
        self.mlp_norm = RMSNorm(width, **options)
        self.mlp = DecoderMLP(config, dtype, rngs)
        self.mlp_post_norm = RMSNorm(width, **options) if config.post_norms else None

    def __call__(
        self,
        x: Float[Array, "B G R D"],
        angles: Rotation,
        segments: Sequence[SharedKV],
        cache: LayerCache | None,
        masks_and_biases: Sequence[MaskAndBias],
        dropout: Dropout = no_dropout,
        attention: Attention = grouped_attention,
    ) -> tuple[Float[Array, "B G R D"], Array, Array]:
        """Returns the layer's output, and the keys and values for the segment or cache."""
        h, key, value = self.attn(self.attn_norm(x), angles, segments, cache, masks_and_biases, attention)
        x = x + dropout(h if self.attn_post_norm is None else self.attn_post_norm(h), "attn")
        h = self.mlp(self.mlp_norm(x))
        return x + dropout(h if self.mlp_post_norm is None else self.mlp_post_norm(h), "mlp"), key, value


class DecoderAttention(nnx.Module):
    """H query heads and K key heads of width Dh; query head h reads key head h // (H / K)."""

    def __init__(self, config: DecoderConfig, dtype: str, rngs: nnx.Rngs):
        width, head_width = config.hidden_size, config.head_width
        query_width, key_width = config.num_attention_heads * head_width, config.key_heads * head_width
        shared = {"std": config.initializer_range, "dtype": dtype, "rngs": rngs}
        self.q = Dense(width, query_width, bias=config.qkv_bias, **shared)
        self.k = Dense(width, key_width, bias=config.qkv_bias, **shared)
        self.v = Dense(width, key_width, bias=config.qkv_bias, **shared)
        self.o = Dense(query_width, width, bias=config.attention_bias, **shared)
        self.q_norm = RMSNorm(head_width, **config.norm_options) if config.qk_norm else None
        self.k_norm = RMSNorm(head_width, **config.norm_options) if config.qk_norm else None
        self.head_width, self.scale, self.dtype = head_width, config.attention_scale, dtype

    def __call__(
        self,
        x: Float[Array, "B G R D"],
        angles: Rotation,
        segments: Sequence[SharedKV],
        cache: LayerCache | None,
        masks_and_biases: Sequence[MaskAndBias],
        attention: Attention = grouped_attention,
    ) -> tuple[Float[Array, "B G R D"], Array, Array]:
        """Returns the attention output, and the keys and values for the segment or cache."""
        query, key, value = map(self._split_heads, parallel_dense((self.q, self.k, self.v), x))
        if self.q_norm is not None and self.k_norm is not None:
            query, key = self.q_norm(query), self.k_norm(key)
        # Rotated in float32 and rounded to the compute dtype only afterwards.
        query, key = rotate(query, *angles), rotate(key, *angles)
        query, key, value = (save_for_backward(array.astype(self.dtype)) for array in (query, key, value))
        own, key, value = append_to_cache(cache, key.swapaxes(2, 3), value.swapaxes(2, 3), masks_and_biases)
        h = attention(query, segments, own, scale=self.scale)
        return self.o(h.reshape(*h.shape[:-2], -1)), key, value

    def _split_heads(self, x: Float[Array, "B G R HDh"]) -> Float[Array, "B G R H Dh"]:
        return x.reshape(*x.shape[:-1], -1, self.head_width)


class DecoderMLP(nnx.Module):
    """Gated MLP: down(activation(gate(x)) * up(x))."""

    def __init__(self, config: DecoderConfig, dtype: str, rngs: nnx.Rngs):
        shared = {"std": config.initializer_range, "bias": config.mlp_bias, "dtype": dtype, "rngs": rngs}
        self.gate = Dense(config.hidden_size, config.intermediate_size, out_dtype=dtype, **shared)
        self.up = Dense(config.hidden_size, config.intermediate_size, out_dtype=dtype, **shared)
        self.down = Dense(config.intermediate_size, config.hidden_size, **shared)
        self.activation = config.hidden_act

    def __call__(self, x: Float[Array, "*lead D"]) -> Float[Array, "*lead D"]:
        gate, up = parallel_dense((self.gate, self.up), x)
        return self.down(gated_activation(_ACTIVATIONS[self.activation], gate, up))
