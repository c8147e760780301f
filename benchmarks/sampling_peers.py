"""Worker roles of benchmarks/sampling.py: the sampler of scotd_jax, and `generate` of transformers.

`prepare` and `tune_torch` are function roles (benchmarks/paired_runs.py).
"""

import dataclasses
import os
import random
import time
from collections.abc import Callable
from typing import Any

from benchmarks.paired_runs import MIB, device_peak, resident_mib, serve
from benchmarks.roofline import measured_peaks
from scotd_jax import config as c


@dataclasses.dataclass(frozen=True)
class SamplingCase:
    """Prompts and policy of one case.

    Attributes:
      architecture: preset of the model.
      shared: tokens of the prefix that all prompts share.
      question: tokens of each prompt after the prefix.
      n: responses per question.
      tokens: length of every response in tokens.
      temperature: temperature; 0 is greedy.
      questions: number of prompts.
      batch: questions that scotd_jax decodes at once.
      torch_questions: number of prompts in PyTorch; few suffice, as its time per token is the same for every call.
      torch_batches: numbers of questions per call to try in PyTorch.
      dtypes: dtypes to try in PyTorch.
      overrides: overrides of the preset's fields.
    """

    architecture: str
    shared: int = 0
    question: int = 64
    n: int = 30
    tokens: int = 48
    temperature: float = 1.0
    questions: int = 16
    batch: int = 4
    torch_questions: int = 8
    torch_batches: tuple[int, ...] = (1, 4, 8)
    dtypes: tuple[str, ...] = ("float32", "bfloat16")
    overrides: dict[str, Any] = dataclasses.field(default_factory=dict)

    def prompts(self, vocab_size: int) -> list[list[int]]:
        """Returns prompts of random token ids without special tokens."""
        rng = random.Random(0)
        prefix, *questions = (
            [rng.randrange(10, vocab_size) for _ in range(length)]
            for length in (self.shared, *[self.question] * self.questions)
        )
        return [prefix + question for question in questions]


class EndlessTokenizer:
    """A tokenizer whose EOS id is outside the vocabulary, so that every response has its full length."""

    bos_id, pad_id = 2, 1

    def __init__(self, size: int):
        self.size, self.eos_ids, self.eos_id = size, (size,), size

    def token_bytes(self) -> list[bytes]:
        return [b" %d" % i for i in range(self.size)]

    def decode(self, ids) -> str:
        return " ".join(map(str, ids))

    def save(self, folder, kind) -> None:
        """Does nothing: the export calls it, but the benchmark needs no tokenizer files."""


class ScotdSampling:
    """The sampler of scotd_jax in bfloat16."""

    def __init__(self, case: SamplingCase, folder: str):
        import jax

        from scotd_jax.models import registry
        from scotd_jax.models.api import Precision
        from scotd_jax.models.hf.loading import load_config, load_pretrained
        from scotd_jax.sampling.requests import Request
        from scotd_jax.sampling.sampler import Sampler

        self.memory = {"imports_mib": resident_mib()[0]}
        config = load_config(folder)
        model = registry.build(config, Precision("bfloat16"))
        sharding = jax.sharding.SingleDeviceSharding(jax.devices()[0])
        _, params = load_pretrained(folder, jax.tree.map(lambda _: sharding, model.abstract()), "bfloat16")
        policy = c.Sampling(n=case.n, temperature=case.temperature, max_new_tokens=case.tokens, batch_size=case.batch)
        self.sampler = Sampler(model, params, EndlessTokenizer(config.vocab_size), policy, seed=0)
        self.requests = [
            Request(f"q{i}", ids, tuple(range(case.n)), case.shared)
            for i, ids in enumerate(case.prompts(config.vocab_size))
        ]
        self.tokens = case.tokens
        self.memory["loaded_mib"] = resident_mib()[0]

    def run(self) -> dict[str, float]:
        """Samples all requests once. Returns seconds and the number of generated tokens."""
        start = time.perf_counter()
        lengths = [sample.num_tokens for batch in self.sampler(self.requests) for sample in batch]
        seconds = time.perf_counter() - start
        if set(lengths) != {self.tokens}:
            raise SystemExit(f"responses of {sorted(set(lengths))} tokens; expected {self.tokens}")
        return {"seconds": seconds, "tokens": sum(lengths)}

    def facts(self) -> dict[str, Any]:
        memory = {**self.memory, "peak_mib": resident_mib()[1], **device_peak()}
        return {
            "memory": memory,
            "utilization": round(self.sampler.stats.utilization, 3),
            "shapes": len(self.sampler.shapes),
        }


class TorchSampling:
    """`generate` of transformers with a KV cache in inference mode on all cores, without an EOS check per token."""

    def __init__(self, case: SamplingCase, folder: str, device: str, dtype: str, batch: int):
        import torch
        import transformers

        transformers.utils.logging.set_verbosity_error()
        transformers.utils.logging.disable_progress_bar()
        torch.set_num_threads(os.cpu_count())
        self.memory = {"imports_mib": resident_mib()[0]}
        config = transformers.AutoConfig.from_pretrained(folder)
        self.seq2seq = config.is_encoder_decoder
        auto = transformers.AutoModelForSeq2SeqLM if self.seq2seq else transformers.AutoModelForCausalLM
        loaded = auto.from_pretrained(folder, dtype=getattr(torch, dtype), attn_implementation="sdpa")
        self.model, self.device = loaded.to(device).eval(), device
        self.model.generation_config = transformers.GenerationConfig(
            **(
                {"do_sample": True, "temperature": case.temperature, "top_k": 0, "top_p": 1.0}
                if case.temperature
                else {}
            ),
            max_new_tokens=case.tokens,
            pad_token_id=EndlessTokenizer.pad_id,
            decoder_start_token_id=getattr(config, "decoder_start_token_id", None),
        )
        self.case, self.batch = case, batch
        self.prompts = case.prompts(config.vocab_size)[: case.torch_questions]
        self.memory["loaded_mib"] = resident_mib()[0]

    def run(self) -> dict[str, float]:
        """Generates all responses once. Returns seconds and the number of generated tokens."""
        return self._timed(self._generate)

    def run_with_prefix_reuse(self) -> dict[str, float]:
        """As `run`, with the keys and values of the shared prefix computed once and copied into every call.

        Returns an empty dict if there is no shared prefix.
        """
        import torch

        if self.seq2seq or not self.case.shared:
            return {}
        prefix = torch.tensor([self.prompts[0][: self.case.shared]], device=self.device)
        with torch.inference_mode():
            self.prefix_cache = self.model(prefix, use_cache=True).past_key_values
        self._timed(self._generate_after_prefix)
        return self._timed(self._generate_after_prefix)

    def facts(self) -> dict[str, Any]:
        import torch

        device = {"device_peak_mib": torch.cuda.max_memory_allocated() / MIB} if self.device == "cuda" else {}
        setting = {"threads": torch.get_num_threads(), "attention": attention_implementation(self.model)}
        return {"memory": {**self.memory, "peak_mib": resident_mib()[1], **device}, "setting": setting}

    def _timed(self, generate: Callable) -> dict[str, float]:
        import torch

        start, count = time.perf_counter(), 0
        with torch.inference_mode():
            for first in range(0, len(self.prompts), self.batch):
                prompts = torch.tensor(self.prompts[first : first + self.batch], device=self.device)
                tokens = generate(prompts).cpu()
                if tokens.shape[1] != self.case.tokens:
                    raise SystemExit(f"generate returned {tokens.shape[1]} tokens; expected {self.case.tokens}")
                count += tokens.numel()
        return {"seconds": time.perf_counter() - start, "tokens": count}

    def _generate(self, ids):
        import torch

        mask = torch.ones_like(ids)
        tokens = self.model.generate(input_ids=ids, attention_mask=mask, num_return_sequences=self.case.n)
        return tokens[:, 1 if self.seq2seq else ids.shape[1] :]

    def _generate_after_prefix(self, ids):
        import copy

        import torch

        ids = ids.repeat_interleave(self.case.n, 0)
        cache = copy.deepcopy(self.prefix_cache)
        cache.batch_repeat_interleave(len(ids))
        tokens = self.model.generate(input_ids=ids, attention_mask=torch.ones_like(ids), past_key_values=cache)
        return tokens[:, ids.shape[1] :]


def attention_implementation(model: Any) -> str:
    """Returns the attention back end of a transformers model."""
    # transformers 5.23 has no public attribute for the back end that `from_pretrained` selected.
    return model.config._attn_implementation


def prepare(cases: dict[str, SamplingCase], folder: str, shrink: bool) -> dict[str, Any]:
    """Writes random weights of every case to FOLDER/ARCHITECTURE and measures the peaks of the machine."""
    models = {case.architecture: case.overrides for case in cases.values()}
    return prepare_models(models, folder, shrink)


def prepare_models(models: dict[str, dict[str, Any]], folder: str, shrink: bool) -> dict[str, Any]:
    """Writes random weights to FOLDER/ARCHITECTURE and measures the peaks of the machine.

    Args:
      models: overrides of the preset by architecture.
      folder: parent folder of the models.
      shrink: whether to measure on tiny arrays.

    Returns:
      Peaks, JAX back end and device kind.
    """
    import jax

    from scotd_jax.models import registry
    from scotd_jax.models.hf.export import export_pretrained

    for architecture, overrides in models.items():
        config = registry.config_for(architecture, overrides)
        params = registry.build(config).init(jax.random.key(0))
        export_pretrained(f"{folder}/{architecture}", config, params, EndlessTokenizer(config.vocab_size), "")
        del params
    peaks = measured_peaks(256, 4, 2) if shrink else measured_peaks()
    device = jax.devices()[0]
    return {"peaks": dataclasses.asdict(peaks), "backend": device.platform, "device": device.device_kind}


def tune_torch(case: SamplingCase, folder: str, device: str) -> list[dict[str, Any]]:
    """Returns the settings of PyTorch with their rates, fastest first. Warms up with one token and times one call."""
    settings = []
    for dtype in case.dtypes:
        for batch in case.torch_batches:
            peer = TorchSampling(dataclasses.replace(case, torch_questions=batch), folder, device, dtype, batch)
            peer.model.generation_config.max_new_tokens, peer.case = 1, dataclasses.replace(case, tokens=1)
            peer.run()
            peer.model.generation_config.max_new_tokens, peer.case = case.tokens, case
            result = peer.run()
            rate = round(result["tokens"] / result["seconds"], 1)
            settings.append({"dtype": dtype, "questions_per_call": batch, "tokens_per_second": rate})
            del peer
    return sorted(settings, key=lambda setting: -setting["tokens_per_second"])


def decode_cases(kind: type, arguments: dict[str, Any]) -> dict[str, Any]:
    """Converts the plain values of "case" and "cases" into `kind` dataclasses."""
    if "case" in arguments:
        arguments["case"] = c.from_mapping(kind, arguments["case"])
    if "cases" in arguments:
        arguments["cases"] = {name: c.from_mapping(kind, case) for name, case in arguments["cases"].items()}
    return arguments


if __name__ == "__main__":
    roles = {
        "ScotdSampling": ScotdSampling,
        "TorchSampling": TorchSampling,
        "prepare": prepare,
        "tune_torch": tune_torch,
    }
    serve(roles, lambda arguments: decode_cases(SamplingCase, arguments))
