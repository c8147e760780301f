"""Config of OPT, with the fields of Hugging Face's config.json."""

import dataclasses
from collections.abc import Mapping
from typing import Any

from scotd_jax.errors import InputError
from scotd_jax.models.hf import config_fields

_REQUIRED = {
    "model_type": "opt",
    "activation_function": "relu",
    "enable_bias": True,
    "layer_norm_elementwise_affine": True,
    "tie_word_embeddings": True,
}
_NAMES = {"remove_final_layer_norm": "_remove_final_layer_norm"}  # field: its name in config.json


@dataclasses.dataclass(frozen=True)
class OPTConfig:
    """Fields as in Hugging Face's config.json.

    Raises:
      InputError: if the number of heads does not divide the width.
    """

    vocab_size: int = 50272
    hidden_size: int = 768
    num_hidden_layers: int = 12
    num_attention_heads: int = 12
    ffn_dim: int = 3072
    max_position_embeddings: int = 2048
    word_embed_proj_dim: int | None = None  # width of the embeddings; None: hidden_size
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
        """None: the first input of a response is the last token of its prompt."""
        return None

    @property
    def embed_width(self) -> int:
        return self.word_embed_proj_dim or self.hidden_size

    @property
    def final_norm(self) -> bool:
        return self.do_layer_norm_before and not self.remove_final_layer_norm

    @property
    def cache_shape(self) -> tuple[int, int, int]:
        """Number of layers, of key heads, and head width."""
        return self.num_hidden_layers, self.num_attention_heads, self.hidden_size // self.num_attention_heads

    @classmethod
    def from_hf(cls, values: Mapping[str, Any]) -> "OPTConfig":
        """Reads a config.json; raises InputError on an architecture that differs from OPT's."""
        return config_fields.read(cls, values, _REQUIRED, _NAMES)

    def to_hf(self) -> dict[str, Any]:
        fields = {_NAMES.get(name, name): value for name, value in dataclasses.asdict(self).items()}
        return {**_REQUIRED, **fields, "word_embed_proj_dim": self.embed_width, "architectures": ["OPTForCausalLM"]}
