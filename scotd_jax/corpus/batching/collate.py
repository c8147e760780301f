"""Batches as arrays, in the two layouts of shapes.py; training/step.py says what a model makes of them."""

from collections.abc import Sequence
from typing import NamedTuple

import numpy as np

from scotd_jax.corpus.batching.packing import first_fit
from scotd_jax.corpus.batching.shapes import Shape
from scotd_jax.layout import pad_rows, split_prompt

Batch = dict[str, np.ndarray]


class DrawnExample(NamedTuple):
    """What a visit shows of one question: its prompt, different responses, and how often each of them counts."""

    prompt: list[int]
    responses: list[list[int]]
    counts: list[int]


def collate_plain(rows: Sequence[DrawnExample], shape: Shape, start_token: int | None) -> Batch:
    """A row per question, its responses beside each other; one that counts several times is there so often."""
    prefixes, inputs, targets = [], [], []
    for row in rows:
        prefix, start = split_prompt(row.prompt, start_token)
        prefixes.append(prefix)
        shown = [row.responses[g % len(row.responses)] for g in range(shape.group)]
        inputs += [[start, *response[:-1]] for response in shown]
        targets += shown
    size = (len(rows), shape.group, shape.response)
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
    """The questions of rows[i] one behind the other in row i; a response that counts n times has weight n."""
    size = (len(rows), shape.group, shape.response)
    prompt, questions = np.zeros((2, len(rows), shape.prompt), np.int32)
    mask, weights = np.zeros(prompt.shape, bool), np.zeros(size, np.float32)
    inputs, targets, answered, positions = np.zeros((4, *size), np.int32)
    for i, row in enumerate(rows):
        begin, said = 0, []
        for k, question in enumerate(row):
            prefix, start = split_prompt(question.prompt, start_token)
            place = slice(begin, begin := begin + len(prefix))
            prompt[i, place], questions[i, place], mask[i, place] = prefix, k, True
            said += [(k, start, *each) for each in zip(question.responses, question.counts, strict=True)]
        for g, texts in enumerate(first_fit([len(response) for _, _, response, _ in said], shape.response)):
            begin = 0
            for k, start, response, count in (said[text] for text in texts):
                place = slice(begin, begin := begin + len(response))
                inputs[i, g, place], targets[i, g, place] = [start, *response[:-1]], response
                weights[i, g, place], answered[i, g, place] = count, k
                positions[i, g, place] = np.arange(len(response))
    batch = {"prompt": prompt, "prompt_mask": mask, "inputs": inputs, "targets": targets, "weights": weights}
    batch["positions"] = positions
    several = {"questions": answered, "prompt_questions": questions} if any(len(row) > 1 for row in rows) else {}
    return batch | several
