"""Config of T5, with the fields of Hugging Face's config.json."""

import dataclasses
from collections.abc import Mapping
from typing import Any

from scotd_jax.errors import InputError
from scotd_jax.models.hf import config_fields

_REQUIRED = {"model_type": "t5", "is_encoder_decoder": True}


@dataclasses.dataclass(frozen=True)
class T5Config:
    """Fields as in Hugging Face's config.json.

    Raises:
      InputError: if `feed_forward_proj` is neither "relu" nor "gated-gelu".
    """

    vocab_size: int = 32128
    d_model: int = 512
    d_kv: int = 64
    d_ff: int = 2048
    num_layers: int = 6
    num_decoder_layers: int | None = None  # None: num_layers
    num_heads: int = 8
    relative_attention_num_buckets: int = 32
    relative_attention_max_distance: int = 128
    layer_norm_epsilon: float = 1e-6
    initializer_factor: float = 1.0
    feed_forward_proj: str = "relu"
    tie_word_embeddings: bool = True
    pad_token_id: int = 0
    eos_token_id: int = 1
    decoder_start_token_id: int = 0

    def __post_init__(self):
        if self.feed_forward_proj not in ("relu", "gated-gelu"):
            raise InputError(f'T5: feed_forward_proj is {self.feed_forward_proj!r}; expected "relu" or "gated-gelu"')

    @property
    def kind(self) -> str:
        return "t5"

    @property
    def start_token(self) -> int:
        return self.decoder_start_token_id

    @property
    def decoder_layers(self) -> int:
        return self.num_layers if self.num_decoder_layers is None else self.num_decoder_layers

    @property
    def gated(self) -> bool:
        return self.feed_forward_proj == "gated-gelu"

    @property
    def cache_shape(self) -> tuple[int, int, int]:
        """Number of decoder layers, of key heads, and head width."""
        return self.decoder_layers, self.num_heads, self.d_kv

    @classmethod
    def from_hf(cls, values: Mapping[str, Any]) -> "T5Config":
        """Reads a config.json; raises InputError on an architecture that differs from T5's."""
        return config_fields.read(cls, values, _REQUIRED, {})

    def to_hf(self) -> dict[str, Any]:
        fields = {**dataclasses.asdict(self), "num_decoder_layers": self.decoder_layers}
        return {**_REQUIRED, **fields, "architectures": ["T5ForConditionalGeneration"]}
