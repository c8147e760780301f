"""A Markov chain with known probabilities as a language model, for tests of sampling.

Its tokens are the letters "a", "b", ..., then a newline and the end token.
"""

import dataclasses

import jax
import jax.numpy as jnp
import numpy as np

from scotd_jax.models.api import Cache, Context, LanguageModel, Precision, Segment

LETTERS = "abcdef"
LINE_END, EOS = len(LETTERS), len(LETTERS) + 1


@dataclasses.dataclass(frozen=True)
class MarkovConfig:
    vocab_size: int = len(LETTERS) + 2
    start_token: int | None = None
    max_position_embeddings: int = 64
    cache_shape: tuple[int, int, int] = (0, 0, 0)


def markov_model(config: MarkovConfig = MarkovConfig()) -> LanguageModel:
    """Returns the model; row i of `params["table"]`, [V, V], holds the logits of the token after token i."""

    def extend(params, context, tokens, cache=None):
        hidden = jax.nn.one_hot(tokens, config.vocab_size)
        return hidden, None if cache is None else cache._replace(index=cache.index + tokens.shape[-1])

    def prefill(params, tokens, mask, context=None):
        before = 0 if context is None else context.length
        return Context((Segment((), (), mask),), before + mask.sum(-1, dtype=jnp.int32))

    return LanguageModel(
        config=config,
        precision=Precision("float32"),
        init=lambda key: {"table": jax.random.normal(key, (config.vocab_size,) * 2)},
        prefill=prefill,
        extend=extend,
        unembedding=lambda params: params["table"].T,
        new_cache=lambda batch, group, length, recent: Cache(
            (), (), jnp.zeros((batch, group), jnp.int32), (), (), jnp.zeros((), jnp.int32)
        ),
        axes=lambda: {"table": (None, None)},
    )


def markov_table(seed: int, end: float = -1.0) -> np.ndarray:
    """Returns a random table of logits; `end` is the logit of the end token."""
    table = np.random.default_rng(seed).normal(size=(len(LETTERS) + 2,) * 2).astype(np.float32)
    table[:, EOS] = end
    return table


class LetterTokenizer:
    """The tokenizer of the model: one token per letter, with the interface of `scotd_jax.tokenization.Tokenizer`."""

    eos_ids = (EOS,)
    size = len(LETTERS) + 2

    def token_bytes(self) -> list[bytes]:
        return [*(letter.encode() for letter in LETTERS), b"\n", b""]

    def decode(self, ids) -> str:
        return b"".join(self.token_bytes()[i] for i in ids).decode()
