"""OPT, the decoder-only model of Zhang et al. (arXiv 2205.01068), 125M to 66B, as Hugging Face defines its weights.

Learned positions are counted from 2 (two rows of the table are never used). All sizes normalize before attention and
MLP except 350M, which normalizes after them, has no final norm, and embeds in a narrower space (`project_in`,
`project_out`). The output matrix is the token embedding.

Prefix and responses run through the same layers (decoder_only.py).
"""

import dataclasses
from collections.abc import Mapping
from typing import Any

import jax
from flax import nnx

from scotd_jax.errors import InputError
from scotd_jax.models.attention import grouped_attention
from scotd_jax.models.cache import own_parts
from scotd_jax.models.decoder_only import DecoderOnly
from scotd_jax.models.forward_options import no_dropout
from scotd_jax.models.hf import config_fields
from scotd_jax.models.layers import Dense, Heads, LayerNorm, embed, normal, relu

# Logical axes of every parameter; the first pattern that fits counts.
AXES = (
    (r"embed/tokens", ("vocab", "embed")),
    (r"embed/positions", (None, "embed")),
    (r"project_in/kernel", (None, "embed")),
    (r"project_out/kernel", ("embed", None)),
    (r".*/attn/[qkv]/kernel", ("embed", "heads")),
    (r".*/attn/[qkv]/bias", ("heads",)),
    (r".*/attn/o/kernel", ("heads", "embed")),
    (r".*/mlp/up/kernel", ("embed", "mlp")),
    (r".*/mlp/up/bias", ("mlp",)),
    (r".*/mlp/down/kernel", ("mlp", "embed")),
    (r".*/(bias|scale)", (None,)),
)

_POSITION_OFFSET = 2
_REQUIRED = {
    "model_type": "opt",
    "activation_function": "relu",
    "enable_bias": True,
    "layer_norm_elementwise_affine": True,
    "tie_word_embeddings": True,
}
_NAMES = {"remove_final_layer_norm": "_remove_final_layer_norm"}


@dataclasses.dataclass(frozen=True)
class OPTConfig:
    """Fields as in Hugging Face's config.json. Raises InputError on widths that the heads do not divide."""

    vocab_size: int = 50272
    hidden_size: int = 768
    num_hidden_layers: int = 12
    num_attention_heads: int = 12
    ffn_dim: int = 3072
    max_position_embeddings: int = 2048
    word_embed_proj_dim: int | None = None  # width of the embeddings; None is hidden_size
    do_layer_norm_before: bool = True
    remove_final_layer_norm: bool = False
    init_std: float = 0.02
    pad_token_id: int = 1
    bos_token_id: int = 2
    eos_token_id: int = 2

    def __post_init__(self):
        if self.hidden_size % self.num_attention_heads:
            raise InputError(
                f"OPT: hidden_size {self.hidden_size} is not a multiple of num_attention_heads "
                f"{self.num_attention_heads}; change one of them"
            )

    @property
    def kind(self) -> str:
        return "opt"

    @property
    def start_token(self) -> int | None:
        """None: responses start from the last token of their prompt."""
        return None

    @property
    def embed_width(self) -> int:
        return self.word_embed_proj_dim or self.hidden_size

    @property
    def final_norm(self) -> bool:
        return self.do_layer_norm_before and not self.remove_final_layer_norm

    @property
    def cache_shape(self) -> tuple[int, int, int]:
        """Layers, key heads, head width."""
        return self.num_hidden_layers, self.num_attention_heads, self.hidden_size // self.num_attention_heads

    @classmethod
    def from_hf(cls, values: Mapping[str, Any]) -> "OPTConfig":
        """Raises InputError on an architecture that differs from OPT's."""
        return config_fields.read(cls, values, _REQUIRED, _NAMES)

    def to_hf(self) -> dict[str, Any]:
        fields = {_NAMES.get(name, name): value for name, value in dataclasses.asdict(self).items()}
        return {**_REQUIRED, **fields, "word_embed_proj_dim": self.embed_width, "architectures": ["OPTForCausalLM"]}


class Embeddings(nnx.Module):
    def __init__(self, config: OPTConfig, rngs: nnx.Rngs):
        self.tokens = normal(rngs, (config.vocab_size, config.embed_width), config.init_std)
        rows = config.max_position_embeddings + _POSITION_OFFSET
        self.positions = normal(rngs, (rows, config.hidden_size), config.init_std)


class MLP(nnx.Module):
    def __init__(self, config: OPTConfig, dtype: str, rngs: nnx.Rngs):
        shape = {"std": config.init_std, "bias": True, "dtype": dtype, "rngs": rngs}
        self.up = Dense(config.hidden_size, config.ffn_dim, narrow=True, **shape)
        self.down = Dense(config.ffn_dim, config.hidden_size, **shape)

    def __call__(self, x: jax.Array) -> jax.Array:
        return self.down(relu(self.up(x)))


class Layer(nnx.Module):
    def __init__(self, config: OPTConfig, dtype: str, rngs: nnx.Rngs):
        width, heads = config.hidden_size, config.num_attention_heads
        stds = dict.fromkeys("qkvo", config.init_std)
        self.attn = Heads(width, heads, width // heads, stds=stds, bias=True, dtype=dtype, rngs=rngs)
        self.attn_norm = LayerNorm(width)
        self.mlp = MLP(config, dtype, rngs)
        self.mlp_norm = LayerNorm(width)
        self.pre_norm = config.do_layer_norm_before

    def __call__(self, x, segments, past, sights, dropout=no_dropout, attention=grouped_attention):
        """x[B, G, R, D] -> the same, and the keys and values to be kept."""
        h = self.attn_norm(x) if self.pre_norm else x
        query, key, value = self.attn.all_three(h)
        own, kept = own_parts(past, key, value, sights)
        h = attention(query, segments, own, scale=query.shape[-1] ** -0.5)
        x = x + dropout(self.attn.output(h), "attn")
        x = x if self.pre_norm else self.attn_norm(x)
        x = x + dropout(self.mlp(self.mlp_norm(x) if self.pre_norm else x), "mlp")
        return x if self.pre_norm else self.mlp_norm(x), *kept


class OPT(DecoderOnly):
    def __init__(self, config: OPTConfig, dtype: str, rngs: nnx.Rngs):
        width, narrow = config.hidden_size, config.embed_width
        shape = {"std": config.init_std, "bias": False, "dtype": dtype, "rngs": rngs}
        self.embed = Embeddings(config, rngs)
        self.project_in = Dense(narrow, width, **shape) if narrow != width else None
        self.project_out = Dense(width, narrow, **shape) if narrow != width else None
        self.layers = nnx.Dict({str(i): Layer(config, dtype, rngs) for i in range(config.num_hidden_layers)})
        self.final_norm = LayerNorm(width) if config.final_norm else None

    def inputs(self, tokens, positions):
        x = embed(self.embed.tokens[...], tokens)
        if self.project_in is not None:
            x = self.project_in(x)
        return x + embed(self.embed.positions[...], positions + _POSITION_OFFSET), ()

    def outputs(self, x):
        if self.final_norm is not None:
            x = self.final_norm(x)
        return x if self.project_out is None else self.project_out(x)

    def unembedding(self):
        return self.embed.tokens[...]
