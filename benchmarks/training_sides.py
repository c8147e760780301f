"""The two sides of benchmarks/training.py: our training step, and the loop that one writes with PyTorch.

Both make AdamW updates of the same model on the same batch: `questions` prompts with G responses each. Theirs sees
G pairs of prompt and response per question, as every trainer of sequences does, and leaves the prompt out of the loss.
`prepare` and `probe` are done by processes that end afterwards (benchmarks/sides.py).
"""

import dataclasses
import os
import time
from collections.abc import Callable
from typing import Any

import numpy as np

from benchmarks.roofline import measured_peaks
from benchmarks.sampling_sides import Silent
from benchmarks.sides import MIB, device_peak, play, resident
from scotd_jax import config as c
from scotd_jax.distributed.flops import training_flops

OPTIMIZER = c.Optimizer("adamw", learning_rate=2e-5, schedule="constant", warmup_steps=0, clip_norm=1.0)


@dataclasses.dataclass(frozen=True)
class Case:
    """`questions` prompts of `prompt` tokens, each with `group` responses of `response` tokens, in one update.

    Theirs goes through them in the fastest of `dtypes` (bfloat16 is autocast over float32 parameters) and of
    `pairs_at_a_time`, adding up gradients. A run is `updates` updates after one that is not counted: while the other
    side runs, the machine may take back the memory that this one has freed, and to get it again takes seconds on a
    virtual machine. Training does not pause.
    """

    architecture: str
    prompt: int = 64
    response: int = 48
    group: int = 30
    questions: int = 2
    updates: int = 2
    pairs_at_a_time: tuple[int, ...] = (15, 30)
    dtypes: tuple[str, ...] = ("float32", "bfloat16")
    compiled: tuple[bool, ...] = (False,)  # torch.compile; tried on accelerators
    microbatches: int = 1  # ours
    remat: str = "none"  # ours

    @property
    def rationales(self) -> int:
        return self.questions * self.group

    def texts(self, vocab_size: int) -> tuple[np.ndarray, np.ndarray]:
        """prompts[B, P] and responses[B, G, R] of random ids, none of them special."""
        rng = np.random.default_rng(0)
        shape = self.questions, self.group, self.response
        prompts = rng.integers(10, vocab_size, (self.questions, self.prompt), dtype=np.int32)
        return prompts, rng.integers(10, vocab_size, shape, dtype=np.int32)


class Ours:
    def __init__(self, case: Case, folder: str):
        import jax

        from scotd_jax.distributed.mesh import make_mesh
        from scotd_jax.models import registry
        from scotd_jax.models.api import Precision
        from scotd_jax.models.hf.loading import load_config, load_pretrained
        from scotd_jax.training.programs import programs_of
        from scotd_jax.training.step import ONE_PART

        self.memory = {"imports_mib": resident()[0]}
        config = load_config(folder)
        model = registry.build(config, Precision("bfloat16"))
        settings = c.Training(optimizer=OPTIMIZER, steps=1000, microbatches=case.microbatches, remat=case.remat)
        programs = programs_of(model, settings, ONE_PART, make_mesh(c.Mesh(), jax.devices()[:1]))
        _, params = load_pretrained(folder, programs.places)
        self.state, self.step = programs.start(params, 0), programs.step
        batch = _batch(case, config.vocab_size, model.start_token)
        (questions, prompt), (_, group, response) = batch["prompt"].shape, batch["targets"].shape
        self.flops = training_flops(config, questions=questions, group=group, prompt=prompt, response=response)
        self.batch, self.case = {"train": batch}, case
        self.memory["loaded_mib"] = resident()[0]

    def run(self) -> dict[str, float]:
        return measured(self.update, self.case)

    def update(self):
        self.state, metrics = self.step(self.state, self.batch)
        return metrics["loss"]

    def facts(self) -> dict[str, Any]:
        return {"memory": {**self.memory, "peak_mib": resident()[1], **device_peak()}, "flops": self.flops}


def _batch(case: Case, vocab_size: int, start_token: int | None) -> dict[str, np.ndarray]:
    from scotd_jax.layout import pad_rows, round_up, split_prompt

    prompts, responses = case.texts(vocab_size)
    split = [split_prompt(prompt.tolist(), start_token) for prompt in prompts]
    prompt, mask = pad_rows([prefix for prefix, _ in split], round_up(max(len(prefix) for prefix, _ in split), 8))
    starts = np.broadcast_to(np.array([[[start]] for _, start in split], np.int32), (*responses.shape[:2], 1))
    return {
        "prompt": prompt,
        "prompt_mask": mask,
        "inputs": np.concatenate([starts, responses[..., :-1]], -1),
        "targets": responses,
        "weights": np.ones(responses.shape, np.float32),
    }


class Theirs:
    """transformers in training mode (its dropout off), AdamW in its fused form, all cores."""

    def __init__(self, case: Case, folder: str, device: str, dtype: str, pairs: int, compiled: bool):
        import torch
        import transformers

        transformers.utils.logging.set_verbosity_error()
        transformers.utils.logging.disable_progress_bar()
        torch.set_num_threads(os.cpu_count())
        self.memory = {"imports_mib": resident()[0]}
        config = transformers.AutoConfig.from_pretrained(folder, dropout=0.0, dropout_rate=0.0, attention_dropout=0.0)
        auto = transformers.AutoModelForSeq2SeqLM if config.is_encoder_decoder else transformers.AutoModelForCausalLM
        loaded = auto.from_pretrained(folder, config=config, dtype=torch.float32, attn_implementation="sdpa")
        self.model = loaded.to(device).train()
        self.model.config.use_cache = False
        self.call = torch.compile(self.model) if compiled else self.model
        self.optimizer = torch.optim.AdamW(
            self.model.parameters(),
            lr=OPTIMIZER.learning_rate,
            betas=(OPTIMIZER.b1, OPTIMIZER.b2),
            eps=OPTIMIZER.eps,
            weight_decay=OPTIMIZER.weight_decay,
            fused=True,
        )
        self.case, self.device, self.dtype, self.pairs = case, device, getattr(torch, dtype), pairs
        prompts, responses = case.texts(config.vocab_size)
        prompts = np.repeat(prompts, case.group, 0)
        responses = responses.reshape(-1, case.response)
        if config.is_encoder_decoder:
            self.data = prompts, responses
        else:
            self.data = (
                np.concatenate([prompts, responses], 1),
                np.concatenate([np.full_like(prompts, -100), responses], 1),
            )
        self.memory["loaded_mib"] = resident()[0]

    def run(self) -> dict[str, float]:
        return measured(self.update, self.case)

    def update(self):
        import torch

        total = 0.0
        for first in range(0, self.case.rationales, self.pairs):
            ids, labels = (
                torch.from_numpy(array[first : first + self.pairs]).long().to(self.device) for array in self.data
            )
            with torch.autocast(self.device, self.dtype, enabled=self.dtype != torch.float32):
                loss = self.call(input_ids=ids, labels=labels).loss * len(ids) / self.case.rationales
            loss.backward()
            total += loss.detach()
        torch.nn.utils.clip_grad_norm_(self.model.parameters(), OPTIMIZER.clip_norm)
        self.optimizer.step()
        self.optimizer.zero_grad(set_to_none=True)
        return total

    def facts(self) -> dict[str, Any]:
        import torch

        device = {"device_peak_mib": torch.cuda.max_memory_allocated() / MIB} if self.device == "cuda" else {}
        setting = {"threads": torch.get_num_threads(), "attention": self.model.config._attn_implementation}
        return {"memory": {**self.memory, "peak_mib": resident()[1], **device}, "setting": setting}


def measured(update: Callable[[], Any], case: Case) -> dict[str, float]:
    """A run. The loss is that of its first update, the one that is not counted."""
    loss = float(update())
    begin = time.perf_counter()
    for last in [update() for _ in range(case.updates)]:
        float(last)  # waits for it
    seconds = time.perf_counter() - begin
    return {"seconds": seconds, "rationales": case.rationales * case.updates, "loss": loss}


def prepare(cases: dict[str, Case], folder: str, shrink: bool) -> dict[str, Any]:
    """Makes the random weights of every case, FOLDER/ARCHITECTURE, and measures what the machine can do."""
    import jax

    from scotd_jax.models import registry
    from scotd_jax.models.hf.export import export_pretrained

    for architecture in {case.architecture for case in cases.values()}:
        config = registry.config_for(architecture)
        params = registry.build(config).init(jax.random.key(0))
        export_pretrained(f"{folder}/{architecture}", config, params, Silent(config.vocab_size), "")
        del params
    peaks = measured_peaks(256, 4, 2) if shrink else measured_peaks()
    device = jax.devices()[0]
    return {"peaks": dataclasses.asdict(peaks), "backend": device.platform, "device": device.device_kind}


def probe(case: Case, folder: str, device: str) -> list[dict[str, Any]]:
    """Their rate in every setting, the fastest first: one update each."""
    found, once = [], dataclasses.replace(case, updates=1)
    for dtype in case.dtypes:
        for compiled in case.compiled:
            for pairs in case.pairs_at_a_time:
                side = Theirs(once, folder, device, dtype, pairs, compiled)
                done = side.run()
                rate = round(done["rationales"] / done["seconds"], 2)
                found.append({"dtype": dtype, "pairs": pairs, "compiled": compiled, "rationales_per_second": rate})
                del side
    return sorted(found, key=lambda setting: -setting["rationales_per_second"])


def _objects(arguments: dict[str, Any]) -> dict[str, Any]:
    if "case" in arguments:
        arguments["case"] = c.from_mapping(Case, arguments["case"])
    if "cases" in arguments:
        arguments["cases"] = {name: c.from_mapping(Case, case) for name, case in arguments["cases"].items()}
    return arguments


if __name__ == "__main__":
    play({"ours": Ours, "theirs": Theirs, "prepare": prepare, "probe": probe}, _objects)
