"""OPT, the decoder-only model of Zhang et al. (arXiv 2205.01068), 125M to 66B, with Hugging Face's weights.

Learned positions are counted from 2 (two rows of the table are never used). All sizes normalize before attention and
MLP except 350M, which normalizes after them, has no final norm, and embeds in a narrower space (`project_in`,
`project_out`). The output matrix is the token embedding.

Prompts and responses run through the same layers.
"""

from collections.abc import Sequence
from typing import Any

import jax
import jax.numpy as jnp
from flax import nnx
from jaxtyping import Array, Bool, Float, Int

from scotd_jax.models.api import Cache, Context, Segment
from scotd_jax.models.attention import SharedKV, grouped_attention
from scotd_jax.models.cache import (
    LayerCache,
    MaskAndBias,
    append_to_cache,
    cache_masks,
    layer_cache,
    token_positions,
    with_recent,
)
from scotd_jax.models.forward_options import Attention, Dropout, ForwardOptions, no_dropout
from scotd_jax.models.layer_scan import scan_over_layers, uses_scan
from scotd_jax.models.layers import AttentionProjections, Dense, LayerNorm, embed, normal_param, relu
from scotd_jax.models.opt_config import OPTConfig
from scotd_jax.models.packed_masks import QuestionIds, packed_context, packed_prompt_mask, packed_response_mask

_POSITION_OFFSET = 2


class OPT(nnx.Module):
    """Decoder-only model with learned absolute positions (OPT)."""

    def __init__(self, config: OPTConfig, dtype: str, rngs: nnx.Rngs):
        width, embed_width = config.hidden_size, config.embed_width
        shared = {"std": config.init_std, "bias": False, "dtype": dtype, "rngs": rngs}
        self.embed = OPTEmbeddings(config, rngs)
        self.project_in = Dense(embed_width, width, **shared) if embed_width != width else None
        self.project_out = Dense(width, embed_width, **shared) if embed_width != width else None
        self.layers = nnx.Dict({str(i): OPTLayer(config, dtype, rngs) for i in range(config.num_hidden_layers)})
        self.final_norm = LayerNorm(width) if config.final_norm else None

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
        if self.final_norm is not None:
            x_BGRD = self.final_norm(x_BGRD)
        hidden_BGRE = x_BGRD if self.project_out is None else self.project_out(x_BGRD)
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
        x_BGRD = embed(self.embed.tokens[...], tokens_BGR)
        if self.project_in is not None:
            x_BGRD = self.project_in(x_BGRD)
        x_BGRD = x_BGRD + embed(self.embed.positions[...], positions_BGR + _POSITION_OFFSET)
        masks = cache_masks(cache, tokens_BGR.shape[2]) if packed_mask is None else [packed_mask]
        masks_and_biases = [(mask, None) for mask in masks]

        def layer_step(x_BGRD, layer, i, segment_keys_values):
            shared = [(*kv, segment.mask) for kv, segment in zip(segment_keys_values, segments, strict=True)]
            args = x_BGRD, shared, layer_cache(cache, i), masks_and_biases
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

    def unembedding(self) -> Float[Array, "V E"]:
        return self.embed.tokens[...]


class OPTLayer(nnx.Module):
    """Layer with self-attention and MLP, each with a residual connection."""

    def __init__(self, config: OPTConfig, dtype: str, rngs: nnx.Rngs):
        width, heads = config.hidden_size, config.num_attention_heads
        stds = dict.fromkeys(("q", "k", "v", "o"), config.init_std)
        self.attn = AttentionProjections(width, heads, width // heads, stds=stds, bias=True, dtype=dtype, rngs=rngs)
        self.attn_norm = LayerNorm(width)
        self.mlp = OPTMLP(config, dtype, rngs)
        self.mlp_norm = LayerNorm(width)
        self.pre_norm = config.do_layer_norm_before

    def __call__(
        self,
        x: Float[Array, "B G R D"],
        segments: Sequence[SharedKV],
        cache: LayerCache | None,
        masks_and_biases: Sequence[MaskAndBias],
        dropout: Dropout = no_dropout,
        attention: Attention = grouped_attention,
    ) -> tuple[Float[Array, "B G R D"], Array, Array]:
        """Returns the layer's output, and the keys and values for the segment or cache."""
        query, key, value = self.attn.query_key_value(self.attn_norm(x) if self.pre_norm else x)
        own, key, value = append_to_cache(cache, key, value, masks_and_biases)
        h = attention(query, segments, own, scale=query.shape[-1] ** -0.5)
        x = x + dropout(self.attn.output(h), "attn")
        x = x if self.pre_norm else self.attn_norm(x)
        x = x + dropout(self.mlp(self.mlp_norm(x) if self.pre_norm else x), "mlp")
        return x if self.pre_norm else self.mlp_norm(x), key, value


class OPTMLP(nnx.Module):
    """MLP with ReLU: down(relu(up(x)))."""

    def __init__(self, config: OPTConfig, dtype: str, rngs: nnx.Rngs):
        shared = {"std": config.init_std, "bias": True, "dtype": dtype, "rngs": rngs}
        self.up = Dense(config.hidden_size, config.ffn_dim, out_dtype=dtype, **shared)
        self.down = Dense(config.ffn_dim, config.hidden_size, **shared)

    def __call__(self, x: Float[Array, "*lead D"]) -> Float[Array, "*lead D"]:
        return self.down(relu(self.up(x)))


class OPTEmbeddings(nnx.Module):
    """Token and position embeddings; positions start at an offset of 2."""

    def __init__(self, config: OPTConfig, rngs: nnx.Rngs):
        self.tokens = normal_param(rngs, (config.vocab_size, config.embed_width), config.init_std)
        rows = config.max_position_embeddings + _POSITION_OFFSET
        self.positions = normal_param(rngs, (rows, config.hidden_size), config.init_std)
