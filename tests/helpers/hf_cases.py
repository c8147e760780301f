"""Small random models of every kind, and a tokenizer for them."""

import jax
import numpy as np

from scotd_jax.models import registry
from scotd_jax.models.decoder_config import DecoderConfig
from scotd_jax.models.opt_config import OPTConfig
from scotd_jax.models.rope import RopeScaling
from scotd_jax.models.t5_config import T5Config
from scotd_jax.tokenization import Tokenizer

_OPT = {
    "vocab_size": 40,
    "hidden_size": 16,
    "num_hidden_layers": 2,
    "num_attention_heads": 4,
    "ffn_dim": 24,
    "max_position_embeddings": 64,
    "pad_token_id": 0,
    "bos_token_id": 3,
    "eos_token_id": 1,
}
_T5 = {"vocab_size": 40, "d_model": 16, "d_kv": 6, "d_ff": 24, "num_layers": 2, "num_heads": 4}
_DECODER = {
    "vocab_size": 40,
    "hidden_size": 16,
    "intermediate_size": 24,
    "num_hidden_layers": 2,
    "num_attention_heads": 4,
    "num_key_value_heads": 2,
    "max_position_embeddings": 64,
    "pad_token_id": 0,
    "bos_token_id": 3,
    "eos_token_id": 1,
}
_LLAMA3 = RopeScaling("llama3", 8.0, 1.0, 4.0, original_max_position_embeddings=16)
_YARN = RopeScaling("yarn", 4.0, original_max_position_embeddings=16)

CONFIGS = {
    "opt": OPTConfig(**_OPT),
    "opt-350m": OPTConfig(**_OPT, word_embed_proj_dim=8, do_layer_norm_before=False),
    "opt-no-final-norm": OPTConfig(**_OPT, remove_final_layer_norm=True),
    "t5-v1.0": T5Config(**_T5, num_decoder_layers=3),
    "t5-v1.1": T5Config(**_T5, feed_forward_proj="gated-gelu", tie_word_embeddings=False),
    "llama": DecoderConfig(**_DECODER, rope_theta=100.0, rope_scaling=_LLAMA3),
    "llama-biased": DecoderConfig(
        **{**_DECODER, "num_key_value_heads": None},
        head_dim=6,
        attention_bias=True,
        mlp_bias=True,
        tie_word_embeddings=True,
        hidden_act="gelu",
        rope_scaling=RopeScaling("linear", 2.0),
    ),
    "qwen2": DecoderConfig("qwen2", **_DECODER, tie_word_embeddings=True, rope_theta=1000.0, rope_scaling=_YARN),
    "smollm3": DecoderConfig("smollm3", **_DECODER, no_rope_layer_interval=2, rope_theta=100.0),
    "gemma3": DecoderConfig(
        "gemma3_text",
        **_DECODER,
        head_dim=8,
        hidden_act="gelu_pytorch_tanh",
        tie_word_embeddings=True,
        query_pre_attn_scalar=24,
        sliding_window=5,
        sliding_window_pattern=2,
        rope_theta=1000.0,
        rope_local_base_freq=10.0,
    ),
    "qwen3": DecoderConfig("qwen3", **_DECODER, head_dim=8, attention_bias=True, sliding_window=64),
    "mistral": DecoderConfig("mistral", **_DECODER, sliding_window=64, hidden_act="gelu_pytorch_tanh"),
}
# Models that work with any tokenizer: in a Qwen 2 folder transformers 5 always creates Qwen's own class.
ANY_TOKENIZER = [name for name in CONFIGS if name != "qwen2"]

# 33 words + 4 special tokens < 40 embedding rows
TEXTS = [f"one two three four five six {' '.join(f'w{i}' for i in range(26))} ."]
PROMPTS = ["one two three w1 w2", "six", "w9 w8 w7 w6 w5 w4 w3 w2 one one two w20", "four five ."]


def words() -> Tokenizer:
    """Returns the word-level tokenizer of TEXTS."""
    return Tokenizer.train_word_level(TEXTS)


def random_params(config, seed: int = 0):
    """Returns random float32 numpy parameters; the scales of norms are around 1."""
    rng = np.random.default_rng(seed)

    def draw(path, leaf):
        noise = rng.normal(size=leaf.shape) * 0.3
        return np.asarray(noise + 1 if path[-1].key == "scale" else noise, np.float32)

    return jax.tree_util.tree_map_with_path(draw, registry.build(config).abstract())
