"""Verifies an export with PyTorch: the folder, loaded by transformers, must give the same results as the JAX model.

Three checks run in this order, because a failure of one explains failures of the next: the stored weights are equal,
the float32 logits agree (on padded batches), and greedy generation with the folder's own tokenizer and generation
settings returns the same text. Requires torch and transformers, which only this module imports.
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
from scotd_jax.models.api import LanguageModel, Precision
from scotd_jax.models.hf import weight_map
from scotd_jax.models.hf.loading import load_pretrained
from scotd_jax.models.layers import logits as compute_logits
from scotd_jax.records import Prompt
from scotd_jax.tokenization import Tokenizer

LOGIT_TOLERANCE = 1e-4  # of the largest logit
_STORED = {"float32": np.float32, "bfloat16": ml_dtypes.bfloat16, "float16": np.float16}


class ExportMismatch(RuntimeError):  # noqa: N818  a result of the check, not a bug
    """The exported folder differs from the model; the message names the difference."""


def verify_export(
    path: epath.PathLike,
    model: LanguageModel,
    params: Any,
    tokenizer: Tokenizer,
    prompts: Sequence[Prompt],
    *,
    dtype: str = "float32",
    max_new_tokens: int = 24,
) -> dict[str, Any]:
    """Compares an exported folder with the model and its parameters on some prompts.

    Args:
      path: the folder.
      model: the model.
      params: its parameters.
      tokenizer: the tokenizer that was exported.
      prompts: at least one.
      dtype: the dtype of the stored weights.
      max_new_tokens: the number of tokens to generate per prompt.

    Returns:
      `logit_error` (largest difference, relative to the largest logit), `prompts`, `tokens` (greedy tokens compared)
      and `ties`: the number of prompts whose responses differ, but first at two tokens with equal logits within the
      tolerance.

    Raises:
      ExportMismatch: on a difference.
      ValueError: if there is no prompt, or one leaves no room for a response.
    """
    if not prompts:
        raise ValueError("no prompt to compare an export with")
    _, stored = load_pretrained(path)
    _compare_weights(params, stored, _STORED[dtype])
    prompt_ids = [tokenizer.prompt_ids(prompt, model.config.kind) for prompt in prompts]
    steps = min(max_new_tokens, _max_response(model, prompt_ids))
    with local_copy(path) as folder:
        torch_model, torch_tokenizer = _load_torch(folder, model.config.kind)
    for prompt, ids in zip(prompts, prompt_ids, strict=True):
        if (theirs := _torch_prompt_ids(torch_tokenizer, prompt)) != ids:
            raise ExportMismatch(f"{path}: prompt {prompt!r} is {theirs} with the exported tokenizer, {ids} with ours")
    responses, logits = _generate_jax(model, stored, tokenizer, prompt_ids, steps)
    error = _compare_logits(torch_model, model, tokenizer, prompt_ids, responses, logits)
    ties = 0
    for ids, response, row in zip(prompt_ids, responses, logits, strict=True):
        theirs = _generate_torch(torch_model, model, ids, steps)
        ties += _compare_text(path, tokenizer, response, theirs, row)
    return {"logit_error": error, "prompts": len(prompts), "tokens": sum(map(len, responses)), "ties": ties}


def _torch_prompt_ids(torch_tokenizer: Any, prompt: Prompt) -> list[int]:
    if isinstance(prompt, str):
        return torch_tokenizer(prompt).input_ids
    return torch_tokenizer.apply_chat_template(list(prompt), add_generation_prompt=True, return_dict=False)


def _compare_weights(params: Any, stored: Any, dtype: Any) -> None:
    ours, theirs = weight_map.flatten(params), weight_map.flatten(stored)
    for name, leaf in ours.items():
        expected = np.asarray(leaf).astype(dtype).astype(np.float32)
        if name not in theirs or not np.array_equal(expected, theirs[name], equal_nan=True):
            raise ExportMismatch(f"parameter {name}: the stored weights are not the model's")


def _max_response(model: LanguageModel, prompt_ids: Sequence[Sequence[int]]) -> int:
    """The number of tokens that can follow every prompt; raises ValueError if one leaves no room."""
    if model.start_token is not None:
        return 2**31 - 1
    room = model.config.max_position_embeddings - max(map(len, prompt_ids))
    if room < 1:
        raise ValueError(f"a prompt fills all {model.config.max_position_embeddings} positions; compare shorter ones")
    return room


def _generate_jax(
    model: LanguageModel, params: Any, tokenizer: Tokenizer, prompt_ids: Sequence[Sequence[int]], steps: int
) -> tuple[list[list[int]], np.ndarray]:
    """Returns greedy responses, end token included, and their logits [B, R, V], computed without a cache."""
    split = [layout.split_prompt(ids, model.start_token) for ids in prompt_ids]
    prefix, mask = layout.pad_rows([p for p, _ in split], layout.round_up(max(len(p) for p, _ in split), 8))
    start = np.array([s for _, s in split], np.int32)
    generate = _greedy_program(model.config, steps, min(tokenizer.size, model.config.vocab_size))
    tokens, logits = jax.device_get(generate(params, prefix, mask, start))
    return [_truncate(tokenizer.eos_ids, row.tolist()) for row in tokens], np.asarray(logits)


@functools.lru_cache(maxsize=8)  # exports of one architecture share the compiled program
def _greedy_program(config: registry.ModelConfig, steps: int, vocab_size: int) -> Any:
    """Returns a function (params, prefix[B, P], mask, start[B]) -> greedy tokens[B, steps], and their logits."""
    model = registry.build(config, Precision("float32"))

    def step(params, context, carry):
        token, cache = carry
        hidden, cache = model.extend(params, context, token[:, None, None], cache)
        logits = compute_logits(hidden[:, 0, 0], model.unembedding(params), "float32")
        best = logits[:, :vocab_size].argmax(-1).astype(jnp.int32)
        return (best, cache), best

    @jax.jit
    def generate(params, prefix, mask, start):
        context = model.prefill(params, prefix, mask)
        cache = model.new_cache(len(start), 1, 0, steps)
        _, tokens = jax.lax.scan(lambda carry, _: step(params, context, carry), (start, cache), length=steps)
        inputs = jnp.concatenate([start[:, None], tokens.T[:, :-1]], 1)
        hidden, _ = model.extend(params, context, inputs[:, None])
        return tokens.T, compute_logits(hidden[:, 0], model.unembedding(params), "float32")

    return generate


def _compare_logits(torch_model, model, tokenizer, prompt_ids, responses, logits) -> float:
    """Returns the relative error over one padded batch of all prompts and responses; raises ExportMismatch."""
    import torch

    def batch(rows):
        tokens, mask = layout.pad_rows(rows, max(map(len, rows)), tokenizer.pad_id)
        return torch.tensor(tokens, dtype=torch.long), torch.tensor(mask, dtype=torch.long)

    if model.start_token is None:
        ids, mask = batch([[*ids, *response[:-1]] for ids, response in zip(prompt_ids, responses, strict=True)])
        with torch.no_grad():
            out = torch_model(input_ids=ids, attention_mask=mask).logits.numpy()
        theirs = [row[len(ids) - 1 :] for row, ids in zip(out, prompt_ids, strict=True)]
    else:
        ids, mask = batch(prompt_ids)
        inputs, _ = batch([[model.start_token, *response[:-1]] for response in responses])
        with torch.no_grad():
            theirs = torch_model(input_ids=ids, attention_mask=mask, decoder_input_ids=inputs).logits.numpy()
    rows = [(ours[: len(r)], t[: len(r)]) for ours, t, r in zip(logits, theirs, responses, strict=True)]
    error = max(float(np.abs(ours - t).max()) for ours, t in rows) / max(float(np.abs(t).max()) for _, t in rows)
    if not error <= LOGIT_TOLERANCE:  # also when it is NaN
        raise ExportMismatch(f"logits differ by {error:.1e} of the largest, more than {LOGIT_TOLERANCE:.0e}")
    return error


def _compare_text(path, tokenizer: Tokenizer, ours: list[int], theirs: list[int], logits: np.ndarray) -> int:
    """Returns 0 if the responses are equal, 1 if their first difference is a tie; raises ExportMismatch otherwise.

    `ours` ends at the first end token, and so must `theirs`.
    """
    if ours == theirs:
        return 0
    for row, a, b in zip(logits, ours, theirs, strict=False):
        if a != b:
            if row[a] - row[b] <= 2 * LOGIT_TOLERANCE * np.abs(logits).max():
                return 1
            break
    raise ExportMismatch(
        f"{path}: PyTorch generates {tokenizer.decode(theirs)!r}, this model {tokenizer.decode(ours)!r}"
    )


def _generate_torch(torch_model, model: LanguageModel, ids: Sequence[int], steps: int) -> list[int]:
    """Generates with the folder's own settings; returns the tokens without the prompt and the start token."""
    import torch

    inputs = torch.tensor([list(ids)])
    with torch.no_grad():
        out = torch_model.generate(inputs, attention_mask=torch.ones_like(inputs), max_new_tokens=steps)
    return out[0, 1 if model.start_token is not None else len(ids) :].tolist()


def _load_torch(folder, kind: str) -> tuple[Any, Any]:
    os.environ.setdefault("TRANSFORMERS_NO_ADVISORY_WARNINGS", "1")
    import torch
    import transformers

    head = transformers.AutoModelForSeq2SeqLM if kind == "t5" else transformers.AutoModelForCausalLM
    with _silenced(transformers.utils.logging):
        model, info = head.from_pretrained(folder, dtype=torch.float32, local_files_only=True, output_loading_info=True)
    if wrong := {key: names for key, names in info.items() if names}:
        raise ExportMismatch(f"{folder}: transformers does not match its tensors exactly: {wrong}")
    return model.eval(), transformers.AutoTokenizer.from_pretrained(folder, local_files_only=True)


@contextlib.contextmanager
def _silenced(logging: Any) -> Iterator[None]:
    """Silences progress bars and warnings of transformers.

    The caller checks the loading info anyway, and version 5 warns about every T5 with an untied output matrix.
    """
    bars, level = logging.is_progress_bar_enabled(), logging.get_verbosity()
    logging.disable_progress_bar()
    logging.set_verbosity_error()
    try:
        yield
    finally:
        logging.set_verbosity(level)
        if bars:
            logging.enable_progress_bar()


def _truncate(eos_ids: Sequence[int], tokens: Sequence[int]) -> list[int]:
    """Returns `tokens` up to and including the first end token."""
    first = next((i for i, token in enumerate(tokens) if token in eos_ids), len(tokens))
    return list(tokens[: first + 1])
