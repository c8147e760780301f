"""Collates drawn examples into the arrays of a batch, plain or packed (shapes.py)."""

from collections.abc import Sequence
from typing import NamedTuple

import numpy as np

from scotd_jax.corpus.batching.packing import first_fit
from scotd_jax.corpus.batching.shapes import Shape
from scotd_jax.layout import pad_rows, split_prompt

Batch = dict[str, np.ndarray]


class DrawnExample(NamedTuple):
    """Token ids of one drawn question: its prompt, its distinct responses, and how often each of them was drawn."""

    prompt: list[int]
    responses: list[list[int]]
    counts: list[int]


def collate_plain(examples: Sequence[DrawnExample], shape: Shape, start_token: int | None) -> Batch:
    """Collates one question per row, its responses side by side.

    Args:
      examples: one example per row.
      shape: a plain shape; responses are repeated in turn until there are `shape.group`.
      start_token: first input of every response; None for a decoder-only model.

    Returns:
      prompt, prompt_mask [B, P] and inputs, targets, weights [B, G, R] (see `CorpusBatches`).
    """
    prefixes, inputs, targets = [], [], []
    for example in examples:
        prefix, start = split_prompt(example.prompt, start_token)
        prefixes.append(prefix)
        responses = [example.responses[g % len(example.responses)] for g in range(shape.group)]
        inputs += [[start, *response[:-1]] for response in responses]
        targets += responses
    size = (len(examples), shape.group, shape.response)
    prompt, prompt_mask = pad_rows(prefixes, shape.prompt)
    target, real = pad_rows(targets, shape.response)
    return {
        "prompt": prompt,
        "prompt_mask": prompt_mask,
        "inputs": pad_rows(inputs, shape.response)[0].reshape(size),
        "targets": target.reshape(size),
        "weights": real.astype(np.float32).reshape(size),
    }


def collate_packed(rows: Sequence[Sequence[DrawnExample]], shape: Shape, start_token: int | None) -> Batch:
    """Collates several questions per row, prompts and responses one after another.

    Args:
      rows: the examples of each row.
      shape: a packed shape that these rows fit into.
      start_token: first input of every response; None for a decoder-only model.

    Returns:
      As `collate_plain`, and positions[B, G, R]; if any row holds several questions also questions[B, G, R] and
      prompt_questions[B, P]. A response that was drawn n times has weight n.
    """
    size = (len(rows), shape.group, shape.response)
    prompt, prompt_questions = np.zeros((2, len(rows), shape.prompt), np.int32)
    mask, weights = np.zeros(prompt.shape, bool), np.zeros(size, np.float32)
    inputs, targets, questions, positions = np.zeros((4, *size), np.int32)
    # Indices: i of the row, k of the question in the row, g of the response row.
    for i, row in enumerate(rows):
        begin, responses = 0, []
        for k, example in enumerate(row):
            prefix, start = split_prompt(example.prompt, start_token)
            span = slice(begin, begin := begin + len(prefix))
            prompt[i, span], prompt_questions[i, span], mask[i, span] = prefix, k, True
            responses += [(k, start, *pair) for pair in zip(example.responses, example.counts, strict=True)]
        for g, members in enumerate(first_fit([len(response) for _, _, response, _ in responses], shape.response)):
            begin = 0
            for k, start, response, count in (responses[member] for member in members):
                span = slice(begin, begin := begin + len(response))
                inputs[i, g, span], targets[i, g, span] = [start, *response[:-1]], response
                weights[i, g, span], questions[i, g, span] = count, k
                positions[i, g, span] = np.arange(len(response))
    batch = {"prompt": prompt, "prompt_mask": mask, "inputs": inputs, "targets": targets, "weights": weights}
    batch["positions"] = positions
    if any(len(row) > 1 for row in rows):
        batch |= {"questions": questions, "prompt_questions": prompt_questions}
    return batch
