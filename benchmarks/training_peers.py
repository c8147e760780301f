"""Worker roles of benchmarks/training.py: the training step of scotd_jax, and a PyTorch training loop.

Both make AdamW updates of the same model on the same batch of prompts with G responses each. The PyTorch loop trains on
G (prompt, response) pairs per question, as common sequence trainers do, and masks the prompt in the loss. `prepare` and
`tune_torch` are function roles (benchmarks/paired_runs.py).
"""

import dataclasses
import os
import time
from collections.abc import Callable
from typing import Any

import numpy as np

from benchmarks.paired_runs import MIB, device_peak, resident_mib, serve
from benchmarks.sampling_peers import attention_implementation, decode_cases, prepare_models
from scotd_jax import config as c
from scotd_jax.distributed.flops import training_flops

OPTIMIZER = c.Optimizer("adamw", learning_rate=2e-5, schedule="constant", warmup_steps=0, clip_norm=1.0)


@dataclasses.dataclass(frozen=True)
class TrainingCase:
    """Batch and settings of one case.

    A run is one untimed update, then `updates` timed ones. The untimed update is necessary because the system may
    reclaim freed memory of this process while the other implementation runs. On a virtual machine it takes seconds to
    map that memory again. Real training does not have this cost, because it does not pause.

    Attributes:
      architecture: preset of the model.
      prompt: tokens of a prompt.
      response: tokens of a response.
      group: responses per question.
      questions: prompts per update.
      updates: timed updates per run.
      torch_microbatch_sizes: numbers of pairs per micro-batch to try in PyTorch, which accumulates the gradients.
      dtypes: dtypes to try in PyTorch; bfloat16 is autocast over float32 parameters.
      torch_compile: whether to try PyTorch without and with `torch.compile`.
      microbatches: number of micro-batches per update in scotd_jax.
      remat: the `remat` setting of scotd_jax.
    """

    architecture: str
    prompt: int = 64
    response: int = 48
    group: int = 30
    questions: int = 2
    updates: int = 2
    torch_microbatch_sizes: tuple[int, ...] = (15, 30)
    dtypes: tuple[str, ...] = ("float32", "bfloat16")
    torch_compile: tuple[bool, ...] = (False,)
    microbatches: int = 1
    remat: str = "none"

    @property
    def rationales(self) -> int:
        return self.questions * self.group

    def tokens(self, vocab_size: int) -> tuple[np.ndarray, np.ndarray]:
        """Returns prompts [B, P] and responses [B, G, R] of random token ids without special tokens."""
        rng = np.random.default_rng(0)
        shape = self.questions, self.group, self.response
        prompts = rng.integers(10, vocab_size, (self.questions, self.prompt), dtype=np.int32)
        return prompts, rng.integers(10, vocab_size, shape, dtype=np.int32)


class ScotdTraining:
    """The training step of scotd_jax in bfloat16."""

    def __init__(self, case: TrainingCase, folder: str):
        import jax

        from scotd_jax.distributed.mesh import make_mesh
        from scotd_jax.models import registry
        from scotd_jax.models.api import Precision
        from scotd_jax.models.hf.loading import load_config, load_pretrained
        from scotd_jax.training.programs import training_programs
        from scotd_jax.training.step import ONE_PART

        self.memory = {"imports_mib": resident_mib()[0]}
        config = load_config(folder)
        model = registry.build(config, Precision("bfloat16"))
        settings = c.Training(optimizer=OPTIMIZER, steps=1000, microbatches=case.microbatches, remat=case.remat)
        programs = training_programs(model, settings, ONE_PART, make_mesh(c.Mesh(), jax.devices()[:1]))
        _, params = load_pretrained(folder, programs.param_shardings)
        self.state, self.step = programs.init_state(params, 0), programs.step
        batch = _batch(case, config.vocab_size, model.start_token)
        (questions, prompt), (_, group, response) = batch["prompt"].shape, batch["targets"].shape
        self.flops = training_flops(config, questions=questions, group=group, prompt=prompt, response=response)
        self.batch, self.case = {"train": batch}, case
        self.memory["loaded_mib"] = resident_mib()[0]

    def run(self) -> dict[str, float]:
        return _timed(self._update, self.case)

    def facts(self) -> dict[str, Any]:
        return {"memory": {**self.memory, "peak_mib": resident_mib()[1], **device_peak()}, "flops": self.flops}

    def _update(self):
        self.state, metrics = self.step(self.state, self.batch)
        return metrics["loss"]


def _batch(case: TrainingCase, vocab_size: int, start_token: int | None) -> dict[str, np.ndarray]:
    """Returns the batch of a case in the form of `CorpusBatches`, without padding in the responses."""
    from scotd_jax.layout import pad_rows, round_up, split_prompt

    prompts, responses = case.tokens(vocab_size)
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


class TorchTraining:
    """transformers in training mode without dropout, with fused AdamW, on all cores."""

    def __init__(self, case: TrainingCase, folder: str, device: str, dtype: str, microbatch_size: int, compiled: bool):
        import torch
        import transformers

        transformers.utils.logging.set_verbosity_error()
        transformers.utils.logging.disable_progress_bar()
        torch.set_num_threads(os.cpu_count())
        self.memory = {"imports_mib": resident_mib()[0]}
        config = transformers.AutoConfig.from_pretrained(folder, dropout=0.0, dropout_rate=0.0, attention_dropout=0.0)
        auto = transformers.AutoModelForSeq2SeqLM if config.is_encoder_decoder else transformers.AutoModelForCausalLM
        loaded = auto.from_pretrained(folder, config=config, dtype=torch.float32, attn_implementation="sdpa")
        self.model = loaded.to(device).train()
        self.model.config.use_cache = False
        self.forward = torch.compile(self.model) if compiled else self.model
        self.optimizer = torch.optim.AdamW(
            self.model.parameters(),
            lr=OPTIMIZER.learning_rate,
            betas=(OPTIMIZER.b1, OPTIMIZER.b2),
            eps=OPTIMIZER.eps,
            weight_decay=OPTIMIZER.weight_decay,
            fused=True,
        )
        self.case, self.device, self.dtype = case, device, getattr(torch, dtype)
        self.microbatch_size = microbatch_size
        prompts, responses = case.tokens(config.vocab_size)
        prompts = np.repeat(prompts, case.group, 0)
        responses = responses.reshape(-1, case.response)
        if config.is_encoder_decoder:
            self.data = prompts, responses
        else:
            labels = np.concatenate([np.full_like(prompts, -100), responses], 1)
            self.data = np.concatenate([prompts, responses], 1), labels
        self.memory["loaded_mib"] = resident_mib()[0]

    def run(self) -> dict[str, float]:
        return _timed(self._update, self.case)

    def facts(self) -> dict[str, Any]:
        import torch

        device = {"device_peak_mib": torch.cuda.max_memory_allocated() / MIB} if self.device == "cuda" else {}
        setting = {"threads": torch.get_num_threads(), "attention": attention_implementation(self.model)}
        return {"memory": {**self.memory, "peak_mib": resident_mib()[1], **device}, "setting": setting}

    def _update(self):
        import torch

        total = 0.0
        for first in range(0, self.case.rationales, self.microbatch_size):
            ids, labels = (
                torch.from_numpy(array[first : first + self.microbatch_size]).long().to(self.device)
                for array in self.data
            )
            with torch.autocast(self.device, self.dtype, enabled=self.dtype != torch.float32):
                loss = self.forward(input_ids=ids, labels=labels).loss * len(ids) / self.case.rationales
            loss.backward()
            total += loss.detach()
        torch.nn.utils.clip_grad_norm_(self.model.parameters(), OPTIMIZER.clip_norm)
        self.optimizer.step()
        self.optimizer.zero_grad(set_to_none=True)
        return total


def _timed(update: Callable[[], Any], case: TrainingCase) -> dict[str, float]:
    """Makes one run. Returns seconds and rationales of the timed updates, and the loss of the untimed first update."""
    loss = float(update())
    start = time.perf_counter()
    for update_loss in [update() for _ in range(case.updates)]:
        float(update_loss)  # waits for the update
    seconds = time.perf_counter() - start
    return {"seconds": seconds, "rationales": case.rationales * case.updates, "loss": loss}


def prepare(cases: dict[str, TrainingCase], folder: str, shrink: bool) -> dict[str, Any]:
    """Writes random weights of every case to FOLDER/ARCHITECTURE and measures the peaks of the machine."""
    return prepare_models({case.architecture: {} for case in cases.values()}, folder, shrink)


def tune_torch(case: TrainingCase, folder: str, device: str) -> list[dict[str, Any]]:
    """Returns the settings of PyTorch with their rates over one update, fastest first."""
    settings, one_update = [], dataclasses.replace(case, updates=1)
    for dtype in case.dtypes:
        for compiled in case.torch_compile:
            for size in case.torch_microbatch_sizes:
                peer = TorchTraining(one_update, folder, device, dtype, size, compiled)
                run = peer.run()
                setting = {"dtype": dtype, "microbatch_size": size, "compiled": compiled}
                settings.append(setting | {"rationales_per_second": round(run["rationales"] / run["seconds"], 2)})
                del peer
    return sorted(settings, key=lambda setting: -setting["rationales_per_second"])


if __name__ == "__main__":
    roles = {
        "ScotdTraining": ScotdTraining,
        "TorchTraining": TorchTraining,
        "prepare": prepare,
        "tune_torch": tune_torch,
    }
    serve(roles, lambda arguments: decode_cases(TrainingCase, arguments))
