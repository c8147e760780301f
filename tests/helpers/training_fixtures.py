"""A tiny model and data set with which a training run compiles in a second, for tests of the training loop."""

import dataclasses

import grain
import jax
import jax.numpy as jnp
import numpy as np

from scotd_jax.models.api import Context, LanguageModel, Precision, Segment
from scotd_jax.models.layers import embed
from scotd_jax.models.matmul import linear

VOCAB, WIDTH = 16, 8


@dataclasses.dataclass(frozen=True)
class BagConfig:
    vocab_size: int = VOCAB
    width: int = WIDTH
    start_token: int | None = None


def bag_model(config: BagConfig = BagConfig(), compute: str = "float32") -> LanguageModel:
    """Returns a model with one hidden layer that predicts from the mean of the prompt and the current token."""

    def init(key):
        def draw(i, *shape):
            return 0.3 * jax.random.normal(jax.random.fold_in(key, i), shape, jnp.float32)

        return {
            "embed": {"tokens": draw(0, config.vocab_size, config.width)},
            "mlp": {
                "up": {"kernel": draw(1, config.width, 2 * config.width), "bias": draw(2, 2 * config.width)},
                "down": {"kernel": draw(3, 2 * config.width, config.width)},
            },
        }

    def prefill(params, tokens, mask, context=None, options=None):
        rows = jnp.where(mask[..., None], embed(params["embed"]["tokens"], tokens), 0.0)
        mean = jnp.sum(rows, axis=1) / jnp.maximum(jnp.sum(mask, axis=1, keepdims=True), 1).astype(jnp.float32)
        key = mean[:, None, None, :]
        return Context((Segment((key,), (key,), mask[:, :1]),), jnp.sum(mask, axis=1))

    def extend(params, context, tokens, cache=None, options=None):
        prompt_B11D = context.segments[0].keys[0]
        x_BGRD = embed(params["embed"]["tokens"], tokens) + prompt_B11D
        hidden = jnp.tanh(linear(x_BGRD, params["mlp"]["up"]["kernel"], params["mlp"]["up"]["bias"], dtype=compute))
        return linear(hidden, params["mlp"]["down"]["kernel"], dtype=compute), None

    return LanguageModel(
        config=config,
        precision=Precision(compute),
        init=init,
        prefill=prefill,
        extend=extend,
        unembedding=lambda params: params["embed"]["tokens"],
        new_cache=lambda batch, group, length, recent: None,
        axes=lambda: {
            "embed": {"tokens": ("vocab", "embed")},
            "mlp": {
                "up": {"kernel": ("embed", "mlp"), "bias": ("mlp",)},
                "down": {"kernel": ("mlp", "embed")},
            },
        },
    )


def example(index: int, vocab: int = VOCAB, G: int = 2, P: int = 4, R: int = 6) -> dict[str, np.ndarray]:
    """Returns one question. Its responses count up from the first prompt token, so that the loss can decrease."""
    rng = np.random.default_rng(index)
    prompt = rng.integers(1, vocab, P).astype(np.int32)
    lengths = rng.integers(2, R + 1, G)
    targets = np.broadcast_to((prompt[0] + np.arange(R)) % vocab, (G, R)).astype(np.int32)
    return {
        "prompt": prompt,
        "prompt_mask": np.arange(P) < rng.integers(1, P + 1),
        "inputs": np.concatenate([np.full((G, 1), prompt[-1], np.int32), targets[:, :-1]], axis=1),
        "targets": targets,
        "weights": (np.arange(R) < lengths[:, None]).astype(np.float32),
    }


def batch_of(size: int, **sizes: int) -> dict[str, np.ndarray]:
    """Returns a batch of `size` examples; `sizes` are those of `example`."""
    rows = [example(i, **sizes) for i in range(size)]
    return {key: np.stack([row[key] for row in rows]) for key in rows[0]}


def is_time(name: str) -> bool:
    """Whether an entry of a metrics line is a time or a rate, which differ between runs."""
    return name in ("goodput", "mfu") or name.startswith("seconds_") or name.endswith("_per_second")


def batches(size: int, examples: int = 24, seed: int = 0) -> grain.DatasetIterator:
    """Returns endless shuffled batches whose position can be saved."""
    source = grain.MapDataset.source(range(examples)).seed(seed).shuffle().repeat()
    return iter(source.map(lambda index: {"train": example(index)}).to_iter_dataset().batch(size))
