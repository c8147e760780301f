"""A small model with a chat template: byte tokens, ChatML turns, and a separate end-of-turn token."""

import dataclasses
import json
from pathlib import Path
from typing import Any

from scotd_jax import config as c
from scotd_jax.jobs.context import RunContext
from scotd_jax.jobs.generation.local import PromptedModel
from scotd_jax.jobs.generation.prompting import prompt_settings
from scotd_jax.jobs.generation.thinking import IGNORE_THINKING, ThinkingBlocks
from scotd_jax.models.decoder_config import DecoderConfig
from scotd_jax.models.hf.export import export_pretrained
from scotd_jax.records import Question, to_json
from scotd_jax.tokenization import Tokenizer
from tests.configs.chat import get_config
from tests.helpers.hf_cases import random_params

PAD, BEGIN, END, TURN, TURN_END = "<pad>", "<s>", "</s>", "<|im_start|>", "<|im_end|>"
TEMPLATE = (
    "{{ bos_token }}{% for m in messages %}{% if m.role == 'system' %}{{ raise_exception('no system turns') }}"
    "{% endif %}<|im_start|>{{ m.role }}\n{{ m.content }}<|im_end|>\n{% endfor %}"
    "{% if add_generation_prompt %}<|im_start|>assistant\n{% endif %}"
)
EXEMPLARS = [("What is wet? (a) rain (b) sand", "Rain is water."), ("What is dry? (a) sand (b) rain", "Sand is dust.")]
NUM_QUESTIONS = 4  # per split


def chat_tokenizer(template: str | dict[str, str] | None = TEMPLATE) -> Any:
    """Returns a transformers tokenizer that adds `<s>` and `</s>` to texts; the template also begins with `<s>`."""
    from tokenizers import AddedToken, decoders, models, pre_tokenizers, processors
    from tokenizers import Tokenizer as Backend
    from transformers import PreTrainedTokenizerFast

    specials = [PAD, BEGIN, END, TURN, TURN_END]
    letters = sorted(pre_tokenizers.ByteLevel.alphabet())
    backend = Backend(models.BPE({token: i for i, token in enumerate([*specials, *letters])}, []))
    backend.add_special_tokens([AddedToken(token, special=True) for token in specials])
    backend.pre_tokenizer = pre_tokenizers.ByteLevel(add_prefix_space=False, use_regex=False)
    backend.decoder = decoders.ByteLevel()
    special_ids = [(token, specials.index(token)) for token in (BEGIN, END)]
    backend.post_processor = processors.TemplateProcessing(single=[BEGIN, "$A", END], special_tokens=special_ids)
    names = {"pad_token": PAD, "bos_token": BEGIN, "eos_token": END}
    return PreTrainedTokenizerFast(tokenizer_object=backend, chat_template=template, **names)


def write_model(folder: Path) -> Path:
    """Writes a random one-layer Llama, whose turns end with TURN_END, to FOLDER/model; returns FOLDER/model."""
    tokenizer = Tokenizer(chat_tokenizer(), [4])  # 4 is the id of TURN_END, a second end token
    config = DecoderConfig(
        vocab_size=tokenizer.size,
        hidden_size=16,
        intermediate_size=24,
        num_hidden_layers=1,
        num_attention_heads=2,
        max_position_embeddings=512,
    )
    export_pretrained(folder / "model", config, random_params(config), tokenizer, "")
    return folder / "model"


def write_task(folder: Path) -> Path:
    """Writes questions to FOLDER/task/train.jsonl and test.jsonl, and EXEMPLARS to FOLDER; returns FOLDER/task."""
    (folder / "task").mkdir()
    for split in ("train", "test"):
        rows = [
            Question(f"home/{split}/{i}", "home", split, f"{split} {i}? (a) x (b) y", ("x", "y"), "(a)")
            for i in range(NUM_QUESTIONS)
        ]
        (folder / f"task/{split}.jsonl").write_text("".join(to_json(row) + "\n" for row in rows))
    rows = [{"text": t, "choices": ["x", "y"], "answer": "(a)", "rationale": r} for t, r in EXEMPLARS]
    (folder / "exemplars.jsonl").write_text("".join(json.dumps(row) + "\n" for row in rows))
    return folder / "task"


def chat_config(home: Path, **changes: Any) -> c.Config:
    """Returns the config of tests/configs/chat.py for the folder of `write_model` and `write_task`, with changes."""
    return dataclasses.replace(c.from_mapping(c.Config, get_config(str(home))), **changes)


def prompted(
    run: RunContext, model: c.Model, few_shot: int | None = None, thinking: ThinkingBlocks = IGNORE_THINKING
) -> PromptedModel:
    """Returns a model of the config with abstract parameters. If `few_shot` is None, its own number applies."""
    functions = run.models.functions(model, "float32")
    prompts = run.prompt_builder(prompt_settings(run.config, model, few_shot=few_shot))
    return PromptedModel("m", functions, functions.abstract(), run.models.tokenizer(model), prompts, thinking)
