"""Registry of importers by name, and validation of their options.

A custom importer is a Python file whose path is the `importer`. It defines a function `responses(row)` that yields the
responses of one record, each made by `row.response` (imported.py). Files that `row_readers.read_records` cannot read
need a function `read(path, options)` instead, which yields the responses of one file.
"""

import functools
from collections.abc import Mapping
from typing import Any

from etils import epath

from scotd_jax.errors import InputError, did_you_mean
from scotd_jax.local_files import load_python_file
from scotd_jax.rationales.importers import generations, openai, own_responses, papers, step_by_step
from scotd_jax.rationales.importers.answer_extraction import THINK_MODES
from scotd_jax.rationales.importers.imported import Importer, ImportOptions, ImportResults, own_rows, parse_rows
from scotd_jax.rationales.importers.row_readers import read_records

_COLUMNS = ("question", "id")

IMPORTERS: dict[str, Importer] = {
    "responses": Importer(own_responses.responses),
    "quarel_davinci003": Importer(papers.quarel_davinci003, answers=False),
    "openbookqa_multi": Importer(papers.openbookqa_multi, answers=False),
    "commonsenseqa_palm540b": Importer(
        step_by_step.commonsenseqa_palm540b, ids=step_by_step.default_ids, answers=False
    ),
    "scotd_30x": Importer(papers.scotd_30x, answers=False),
    "reasoning_teacher": Importer(papers.reasoning_teacher),
    "distilling_step_by_step": Importer(
        step_by_step.distilling_step_by_step, ("rows", "marker"), step_by_step.rows_file, answers=False
    ),
    "openai_batch": Importer(openai.openai_batch),
    "openai_responses": Importer(openai.openai_responses),
    "vllm": Importer(generations.vllm, ("id",)),
    "distilabel": Importer(generations.distilabel, _COLUMNS),
    "open_r1": Importer(generations.open_r1, _COLUMNS),
    "sharegpt": Importer(generations.sharegpt, ("id",)),
    "prompt_completion": Importer(generations.prompt_completion, ("id",)),
}

# Options of every importer, with the type of their value.
COMMON_OPTIONS: dict[str, type] = {
    "think": str,  # <think> blocks: "keep" them, "strip" them, or take their content as the "rationale"
    "ids": str,  # file with the question id of each record, in the order of all files
    "prompt": str,  # the prompt around a question in the files, e.g. "Think it over: {question}"
    "renumber": bool,  # number the samples of every question anew, over all files in order
    "subset": bool,  # skip, and count, rows whose question is not in the config
    "allow_chance": bool,  # import a corpus that agrees with the gold answers no better than chance
    "model": str,  # model that generated the responses; by default that of the row, else the name of the file
    "sampling": str,  # how they were sampled
}


def get_importer(name: str, options: Mapping[str, Any], answer_pattern: str, where: str) -> Importer:
    """Returns an importer after checking its options.

    Args:
      name: a key of `IMPORTERS`, or the path of a Python file.
      options: options for it.
      answer_pattern: regular expression that parses the answers; "" for none.
      where: location in the config, with which error messages begin.

    Raises:
      InputError: if the name or an option is unknown, or an option has an invalid value.
    """
    if name.endswith(".py"):
        importer = _custom(name, f"{where}.importer")
    elif name in IMPORTERS:
        importer = IMPORTERS[name]
    else:
        hint = did_you_mean(name, [*IMPORTERS, "the path of a Python file"])
        raise InputError(f"{where}.importer: unknown importer {name!r}; {hint}")
    if answer_pattern and not importer.answers:
        raise InputError(f"{where}.answer_pattern: importer {name!r} parses answers by a rule of its own; remove it")
    known = [*importer.options, *COMMON_OPTIONS]
    for key, value in options.items():
        if key == "answer":
            raise InputError(f"{where}.options.answer: is now {where}.answer_pattern")
        if key not in known:
            raise InputError(f"{where}.options.{key}: not an option of importer {name!r}; {did_you_mean(key, known)}")
        kind = COMMON_OPTIONS.get(key, str)
        if not isinstance(value, kind) or (kind is str and not value):
            raise InputError(f"{where}.options.{key}: expected {kind.__name__}, found {value!r}")
    if options.get("think", "keep") not in THINK_MODES:
        raise InputError(f"{where}.options.think: {options['think']!r} is not one of {', '.join(THINK_MODES)}")
    if "{question}" not in options.get("prompt", "{question}"):
        raise InputError(f"{where}.options.prompt: expected {{question}} in it, found {options['prompt']!r}")
    return importer


def _custom(path: str, where: str) -> Importer:
    """Returns the importer that a Python file defines. Like the data, this file is part of the import's identity."""
    module = load_python_file(path, where)
    if not hasattr(module, "read") and not hasattr(module, "responses"):
        raise InputError(f"{where}: {path}: defines neither responses(row) nor read(path, options)")

    def read_rows(file: epath.Path, options: ImportOptions) -> ImportResults:
        return parse_rows(read_records(file), functools.partial(own_rows, module.responses))

    read = getattr(module, "read", read_rows)
    return Importer(read, files=lambda file, options: [epath.Path(path)])
