"""The two sides of benchmarks/sampling.py, each in a process of its own: our sampler, and `generate` of transformers.

`prepare` and `probe` are done by processes that end afterwards (benchmarks/sides.py).
"""

import dataclasses
import os
import random
import time
from collections.abc import Callable
from typing import Any

from benchmarks.roofline import measured_peaks
from benchmarks.sides import MIB, device_peak, play, resident
from scotd_jax import config as c


@dataclasses.dataclass(frozen=True)
class Case:
    """`questions` prompts of `shared` common and `question` own tokens, `n` responses of exactly `tokens` tokens each.

    Ours answers them `batch` at a time. Theirs answers the first `theirs` of them, since its cost per token does not
    depend on how many calls there are, in the fastest of `dtypes` and of `theirs_batches` questions per call.
    """

    architecture: str
    shared: int = 0
    question: int = 64
    n: int = 30
    tokens: int = 48
    questions: int = 16
    batch: int = 4
    theirs: int = 8
    theirs_batches: tuple[int, ...] = (1, 4, 8)
    dtypes: tuple[str, ...] = ("float32", "bfloat16")
    shape: dict[str, Any] = dataclasses.field(default_factory=dict)

    @property
    def prompt(self) -> int:
        return self.shared + self.question

    def prompts(self, vocab_size: int) -> list[list[int]]:
        """Random ids, none of them special; the first `shared` are those of every prompt."""
        rng = random.Random(0)
        common, *own = (
            [rng.randrange(10, vocab_size) for _ in range(length)]
            for length in (self.shared, *[self.question] * self.questions)
        )
        return [common + each for each in own]


class Silent:
    """Stands for a tokenizer whose end token is beyond the vocabulary, so that every response has its full length."""

    bos_id, pad_id = 2, 1

    def __init__(self, size: int):
        self.size, self.eos_ids, self.eos_id = size, (size,), size

    def token_bytes(self) -> list[bytes]:
        return [b" %d" % i for i in range(self.size)]

    def decode(self, ids) -> str:
        return " ".join(map(str, ids))

    def save(self, folder, kind) -> None:
        """The exporter asks for it; prompts are ids here."""


class Ours:
    def __init__(self, case: Case, folder: str):
        import jax

        from scotd_jax.models import registry
        from scotd_jax.models.api import Precision
        from scotd_jax.models.hf.loading import load_config, load_pretrained
        from scotd_jax.sampling.requests import Request
        from scotd_jax.sampling.sampler import Sampler

        self.memory = {"imports_mib": resident()[0]}
        config = load_config(folder)
        model = registry.build(config, Precision("bfloat16"))
        place = jax.sharding.SingleDeviceSharding(jax.devices()[0])
        _, params = load_pretrained(folder, jax.tree.map(lambda _: place, model.abstract()), "bfloat16")
        policy = c.Sampling(n=case.n, temperature=1.0, max_new_tokens=case.tokens, batch_size=case.batch)
        self.sampler = Sampler(model, params, Silent(config.vocab_size), policy, seed=0)
        self.requests = [
            Request(f"q{i}", ids, tuple(range(case.n)), case.shared)
            for i, ids in enumerate(case.prompts(config.vocab_size))
        ]
        self.tokens = case.tokens
        self.memory["loaded_mib"] = resident()[0]

    def run(self) -> dict[str, float]:
        begin = time.perf_counter()
        lengths = [sample.num_tokens for batch in self.sampler(self.requests) for sample in batch]
        seconds = time.perf_counter() - begin
        if set(lengths) != {self.tokens}:
            raise SystemExit(f"responses of {sorted(set(lengths))} tokens; all should have {self.tokens}")
        return {"seconds": seconds, "tokens": sum(lengths)}

    def facts(self) -> dict[str, Any]:
        memory = {**self.memory, "peak_mib": resident()[1], **device_peak()}
        return {
            "memory": memory,
            "occupancy": round(self.sampler.stats.utilization, 3),
            "shapes": len(self.sampler.shapes),
        }


class Theirs:
    """transformers with its cache on, in inference mode, on all cores; end tokens are off, which spares it work."""

    def __init__(self, case: Case, folder: str, device: str, dtype: str, batch: int):
        import torch
        import transformers

        transformers.utils.logging.set_verbosity_error()
        transformers.utils.logging.disable_progress_bar()
        torch.set_num_threads(os.cpu_count())
        self.memory = {"imports_mib": resident()[0]}
        config = transformers.AutoConfig.from_pretrained(folder)
        self.seq2seq = config.is_encoder_decoder
        auto = transformers.AutoModelForSeq2SeqLM if self.seq2seq else transformers.AutoModelForCausalLM
        loaded = auto.from_pretrained(folder, dtype=getattr(torch, dtype), attn_implementation="sdpa")
        self.model, self.device = loaded.to(device).eval(), device
        self.model.generation_config = transformers.GenerationConfig(
            do_sample=True,
            temperature=1.0,
            top_k=0,
            top_p=1.0,
            max_new_tokens=case.tokens,
            pad_token_id=Silent.pad_id,
            decoder_start_token_id=getattr(config, "decoder_start_token_id", None),
        )
        self.case, self.batch = case, batch
        self.prompts = case.prompts(config.vocab_size)[: case.theirs]
        self.memory["loaded_mib"] = resident()[0]

    def run(self) -> dict[str, float]:
        return self._timed(self._say)

    def reuse(self) -> dict[str, float]:
        """The same with keys and values of the shared tokens computed once and copied into every call, by hand."""
        import torch

        if self.seq2seq or not self.case.shared:
            return {}
        common = torch.tensor([self.prompts[0][: self.case.shared]], device=self.device)
        with torch.inference_mode():
            self.past = self.model(common, use_cache=True).past_key_values
        self._timed(self._say_on)
        return self._timed(self._say_on)

    def facts(self) -> dict[str, Any]:
        import torch

        device = {"device_peak_mib": torch.cuda.max_memory_allocated() / MIB} if self.device == "cuda" else {}
        setting = {"threads": torch.get_num_threads(), "attention": self.model.config._attn_implementation}
        return {"memory": {**self.memory, "peak_mib": resident()[1], **device}, "setting": setting}

    def _timed(self, say: Callable) -> dict[str, float]:
        import torch

        begin, count = time.perf_counter(), 0
        with torch.inference_mode():
            for first in range(0, len(self.prompts), self.batch):
                said = say(torch.tensor(self.prompts[first : first + self.batch], device=self.device)).cpu()
                if said.shape[1] != self.case.tokens:
                    raise SystemExit(f"generate made {said.shape[1]} tokens of {self.case.tokens}")
                count += said.numel()
        return {"seconds": time.perf_counter() - begin, "tokens": count}

    def _say(self, ids):
        import torch

        said = self.model.generate(input_ids=ids, attention_mask=torch.ones_like(ids), num_return_sequences=self.case.n)
        return said[:, 1 if self.seq2seq else ids.shape[1] :]

    def _say_on(self, ids):
        import copy

        import torch

        ids = ids.repeat_interleave(self.case.n, 0)
        past = copy.deepcopy(self.past)
        past.batch_repeat_interleave(len(ids))
        said = self.model.generate(input_ids=ids, attention_mask=torch.ones_like(ids), past_key_values=past)
        return said[:, ids.shape[1] :]


def prepare(cases: dict[str, Case], folder: str, shrink: bool) -> dict[str, Any]:
    """Makes the random weights of every case, FOLDER/ARCHITECTURE, and measures what the machine can do."""
    import jax

    from scotd_jax.models import registry
    from scotd_jax.models.hf.export import export_pretrained

    for case in {case.architecture: case for case in cases.values()}.values():
        config = registry.config_for(case.architecture, case.shape)
        params = registry.build(config).init(jax.random.key(0))
        export_pretrained(f"{folder}/{case.architecture}", config, params, Silent(config.vocab_size), "")
        del params
    peaks = measured_peaks(256, 4, 2) if shrink else measured_peaks()
    device = jax.devices()[0]
    return {"peaks": dataclasses.asdict(peaks), "backend": device.platform, "device": device.device_kind}


def probe(case: Case, folder: str, device: str) -> list[dict[str, Any]]:
    """Their rate in every setting, the fastest first: one call each, after a call that says one token."""
    found = []
    for dtype in case.dtypes:
        for batch in case.theirs_batches:
            side = Theirs(dataclasses.replace(case, theirs=batch), folder, device, dtype, batch)
            side.model.generation_config.max_new_tokens, side.case = 1, dataclasses.replace(case, tokens=1)
            side.run()
            side.model.generation_config.max_new_tokens, side.case = case.tokens, case
            done = side.run()
            rate = round(done["tokens"] / done["seconds"], 1)
            found.append({"dtype": dtype, "questions_per_call": batch, "tokens_per_second": rate})
            del side
    return sorted(found, key=lambda setting: -setting["tokens_per_second"])


def _objects(arguments: dict[str, Any]) -> dict[str, Any]:
    if "case" in arguments:
        arguments["case"] = c.from_mapping(Case, arguments["case"])
    if "cases" in arguments:
        arguments["cases"] = {name: c.from_mapping(Case, case) for name, case in arguments["cases"].items()}
    return arguments


if __name__ == "__main__":
    play({"ours": Ours, "theirs": Theirs, "prepare": prepare, "probe": probe}, _objects)
