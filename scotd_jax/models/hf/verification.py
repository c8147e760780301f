"""An export compared with PyTorch: does the folder compute there what the model computed here?

Three questions, in the order in which an answer would explain the next one: are the stored weights ours, are the
float32 logits ours (on padded batches), and is the greedily generated text ours when a stranger asks the folder's own
tokenizer and generation settings? Needs torch and transformers, imported here only.
"""

import contextlib
import functools
import os
from collections.abc import Iterator, Sequence
from typing import Any

import jax
import jax.numpy as jnp
import ml_dtypes
import numpy as np
from etils import epath

from scotd_jax import layout
from scotd_jax.local_files import local_copy
from scotd_jax.models import registry
from scotd_jax.models.api import Model, Precision
from scotd_jax.models.hf import weight_map
from scotd_jax.models.hf.loading import load_pretrained
from scotd_jax.models.layers import logits as scores
from scotd_jax.records import Prompt
from scotd_jax.tokenization import Tokenizer

LOGIT_TOLERANCE = 1e-4  # of the largest logit
_STORED = {"float32": np.float32, "bfloat16": ml_dtypes.bfloat16, "float16": np.float16}


class ExportMismatch(RuntimeError):  # noqa: N818  a finding, not a fault of the program
    """The exported folder is not the model: says what differs and by how much."""


def verify_export(
    path: epath.PathLike,
    model: Model,
    params: Any,
    tokenizer: Tokenizer,
    prompts: Sequence[Prompt],
    *,
    dtype: str = "float32",
    max_new_tokens: int = 24,
) -> dict[str, Any]:
    """Compares the folder `path`, exported with `dtype`, with the model and its parameters on some prompts.

    Returns `logit_error` (largest difference, relative to the largest logit), `prompts`, `tokens` (greedy tokens
    compared) and `ties` (prompts on which the two best tokens were equal up to the tolerance, where texts may differ).
    Raises ExportMismatch on a difference and ValueError if there is no prompt.
    """
    if not prompts:
        raise ValueError("no prompt to compare an export with")
    _, stored = load_pretrained(path)
    _compare_weights(params, stored, _STORED[dtype])
    asked = [tokenizer.prompt_ids(prompt, model.config.kind) for prompt in prompts]
    steps = min(max_new_tokens, _room(model, asked))
    with local_copy(path) as folder:
        torch_model, torch_tokenizer = _load_torch(folder, model.config.kind)
    for prompt, ids in zip(prompts, asked, strict=True):
        if (theirs := _their_ids(torch_tokenizer, prompt)) != ids:
            raise ExportMismatch(f"{path}: prompt {prompt!r} is {theirs} to the exported tokenizer, {ids} to ours")
    answers, logits = _ours(model, stored, tokenizer, asked, steps)
    error = _compare_logits(torch_model, model, tokenizer, asked, answers, logits)
    ties = 0
    for ids, answer, row in zip(asked, answers, logits, strict=True):
        theirs = _generate(torch_model, model, ids, steps)
        ties += _compare_text(path, tokenizer, answer, theirs, row)
    return {"logit_error": error, "prompts": len(prompts), "tokens": sum(map(len, answers)), "ties": ties}


def _their_ids(torch_tokenizer: Any, prompt: Prompt) -> list[int]:
    if isinstance(prompt, str):
        return torch_tokenizer(prompt).input_ids
    return torch_tokenizer.apply_chat_template(list(prompt), add_generation_prompt=True, return_dict=False)


def _compare_weights(params: Any, stored: Any, dtype: Any) -> None:
    ours, theirs = weight_map.flatten(params), weight_map.flatten(stored)
    for name, leaf in ours.items():
        expected = np.asarray(leaf).astype(dtype).astype(np.float32)
        if name not in theirs or not np.array_equal(expected, theirs[name], equal_nan=True):
            raise ExportMismatch(f"parameter {name}: the stored weights are not the model's")


def _room(model: Model, asked: Sequence[Sequence[int]]) -> int:
    """Tokens that may follow every prompt. Raises ValueError if one leaves none."""
    if model.start_token is not None:
        return 2**31 - 1
    room = model.config.max_position_embeddings - max(map(len, asked))
    if room < 1:
        raise ValueError(f"a prompt fills all {model.config.max_position_embeddings} positions; compare shorter ones")
    return room


def _ours(
    model: Model, params: Any, tokenizer: Tokenizer, asked: Sequence[Sequence[int]], steps: int
) -> tuple[list[list[int]], np.ndarray]:
    """Greedy answers (end token included) with a cache, then logits[B, R, V] of the same answers without one."""
    split = [layout.split_prompt(ids, model.start_token) for ids in asked]
    prefix, mask = layout.pad_rows([p for p, _ in split], layout.round_up(max(len(p) for p, _ in split), 8))
    start = np.array([s for _, s in split], np.int32)
    generate = _generator(model.config, steps, min(tokenizer.size, model.config.vocab_size))
    tokens, logits = jax.device_get(generate(params, prefix, mask, start))
    return [_until(tokenizer.eos_ids, row.tolist()) for row in tokens], np.asarray(logits)


@functools.lru_cache(maxsize=8)  # exports of one architecture share the compilation
def _generator(config: registry.ModelConfig, steps: int, limit: int) -> Any:
    """f(params, prefix[B, P], mask, start[B]) -> greedy tokens[B, steps] below `limit`, and their logits."""
    model = registry.build(config, Precision("float32"))

    def step(params, context, carry):
        token, cache = carry
        hidden, cache = model.extend(params, context, token[:, None, None], cache)
        best = scores(hidden[:, 0, 0], model.unembedding(params), "float32")[:, :limit].argmax(-1).astype(jnp.int32)
        return (best, cache), best

    @jax.jit
    def generate(params, prefix, mask, start):
        context = model.prefill(params, prefix, mask)
        cache = model.new_cache(len(start), 1, 0, steps)
        _, tokens = jax.lax.scan(lambda carry, _: step(params, context, carry), (start, cache), length=steps)
        inputs = jnp.concatenate([start[:, None], tokens.T[:, :-1]], 1)
        hidden, _ = model.extend(params, context, inputs[:, None])
        return tokens.T, scores(hidden[:, 0], model.unembedding(params), "float32")

    return generate


def _compare_logits(torch_model, model, tokenizer, asked, answers, logits) -> float:
    """Relative error over one padded batch of all prompts and answers. Raises ExportMismatch."""
    import torch

    def batch(rows):
        tokens, mask = layout.pad_rows(rows, max(map(len, rows)), tokenizer.pad_id)
        return torch.tensor(tokens, dtype=torch.long), torch.tensor(mask, dtype=torch.long)

    if model.start_token is None:
        ids, mask = batch([[*ids, *answer[:-1]] for ids, answer in zip(asked, answers, strict=True)])
        with torch.no_grad():
            out = torch_model(input_ids=ids, attention_mask=mask).logits.numpy()
        theirs = [row[len(ids) - 1 :] for row, ids in zip(out, asked, strict=True)]
    else:
        ids, mask = batch(asked)
        inputs, _ = batch([[model.start_token, *answer[:-1]] for answer in answers])
        with torch.no_grad():
            theirs = torch_model(input_ids=ids, attention_mask=mask, decoder_input_ids=inputs).logits.numpy()
    rows = [(ours[: len(a)], t[: len(a)]) for ours, t, a in zip(logits, theirs, answers, strict=True)]
    error = max(float(np.abs(ours - t).max()) for ours, t in rows) / max(float(np.abs(t).max()) for _, t in rows)
    if not error <= LOGIT_TOLERANCE:  # also when it is NaN
        raise ExportMismatch(f"logits differ by {error:.1e} of the largest, more than {LOGIT_TOLERANCE:.0e}")
    return error


def _compare_text(path, tokenizer: Tokenizer, ours: list[int], theirs: list[int], logits: np.ndarray) -> int:
    """1 if the answers differ from a tie on, 0 if they are equal. Raises ExportMismatch."""
    theirs = _until(tokenizer.eos_ids, theirs)
    if ours == theirs:
        return 0
    for row, a, b in zip(logits, ours, theirs, strict=False):
        if a != b:
            if row[a] - row[b] <= 2 * LOGIT_TOLERANCE * np.abs(logits).max():
                return 1
            break
    raise ExportMismatch(f"{path}: PyTorch says {tokenizer.decode(theirs)!r}, we say {tokenizer.decode(ours)!r}")


def _generate(torch_model, model: Model, ids: Sequence[int], steps: int) -> list[int]:
    """What `generate` says with the folder's own settings, without the prompt and the start token."""
    import torch

    given = torch.tensor([list(ids)])
    with torch.no_grad():
        out = torch_model.generate(given, attention_mask=torch.ones_like(given), max_new_tokens=steps)
    return out[0, 1 if model.start_token is not None else len(ids) :].tolist()


def _load_torch(folder, kind: str) -> tuple[Any, Any]:
    os.environ.setdefault("TRANSFORMERS_NO_ADVISORY_WARNINGS", "1")
    import torch
    import transformers

    head = transformers.AutoModelForSeq2SeqLM if kind == "t5" else transformers.AutoModelForCausalLM
    with _quiet(transformers.utils.logging):
        model, info = head.from_pretrained(folder, dtype=torch.float32, local_files_only=True, output_loading_info=True)
    if wrong := {key: names for key, names in info.items() if names}:
        raise ExportMismatch(f"{folder}: transformers does not find all and only its tensors: {wrong}")
    return model.eval(), transformers.AutoTokenizer.from_pretrained(folder, local_files_only=True)


@contextlib.contextmanager
def _quiet(logging: Any) -> Iterator[None]:
    """No bars and no remarks of transformers: what loading found is checked, and of every T5 with an output matrix of
    its own version 5 remarks that it is not tied."""
    bars, level = logging.is_progress_bar_enabled(), logging.get_verbosity()
    logging.disable_progress_bar()
    logging.set_verbosity_error()
    try:
        yield
    finally:
        logging.set_verbosity(level)
        if bars:
            logging.enable_progress_bar()


def _until(ends: Sequence[int], tokens: Sequence[int]) -> list[int]:
    """`tokens` up to and with the first that is an end."""
    first = next((i for i, token in enumerate(tokens) if token in ends), len(tokens))
    return list(tokens[: first + 1])
