"""What one GPU does with OPT-1.3B: fused attention, one update, and sampling; run by `benchmarks/gpu.sh`.

    python -m benchmarks.gpu [--shrink]

attention   largest relative difference of fused attention from XLA's, in values and gradients, at the shapes of an
            update of OPT-1.3B and of T5-large (bfloat16; rounding explains about one percent)
update      32 questions, prompts of 704 tokens, responses of 256: seconds, MFU (model FLOPs by formula, without
            recomputation), and memory: as compiled, as the plan job estimates it, and the peak of the device
sampling    960 responses of 128 tokens at a time: tokens per second, shares of the peak FLOP/s and of the bandwidth

With `--shrink` tiny models run on any device, and the kernels for GPUs are interpreted.
"""

import argparse
import dataclasses
import json
import tempfile
import time
from collections.abc import Sequence
from typing import Any

import jax
import numpy as np

from benchmarks import sampling, sampling_peers
from benchmarks.compile_cases import update_workload
from benchmarks.paired_runs import describe_machine, versions
from benchmarks.roofline import Peaks
from scotd_jax import config as c
from scotd_jax.distributed import sharding
from scotd_jax.distributed.mesh import make_mesh
from scotd_jax.jobs.planning.estimates import estimate_programs
from scotd_jax.jobs.planning.training_program import training_program
from scotd_jax.models import registry
from scotd_jax.models.api import Precision
from scotd_jax.models.kernels.fused_attention import FusedAttention
from scotd_jax.training.accounting import batch_flops, mesh_peak_flops
from scotd_jax.training.attention_check import check_attention
from scotd_jax.training.programs import training_programs
from scotd_jax.training.step import ONE_PART

LIBRARIES = ("jax", "jaxlib", "flax", "numpy")
UPDATES = 5


def main(arguments: Sequence[str] | None = None) -> dict[str, Any]:
    """Prints every result when it is known, and all of them as one line of JSON at the end, which it returns."""
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    parser.add_argument("--shrink", action="store_true", help="tiny models and shapes, as a smoke test")
    shrink = parser.parse_args(arguments).shrink
    device = jax.devices()[0]
    mesh = make_mesh(c.Mesh(), [device])
    if not shrink and device.platform != "gpu":
        parser.error(f"the device is {device.platform}, not a GPU; --shrink runs a smoke test on any device")
    results: dict[str, Any] = {"benchmark": "gpu", "device": describe_machine(device.device_kind)}
    results |= {"versions": versions(LIBRARIES), "shrink": shrink}
    models = {"opt": "opt-tiny", "t5": "t5-tiny"} if shrink else {"opt": "opt-1.3b", "t5": "t5-large"}
    for name, architecture in models.items():
        results[f"attention_{name}"] = attention(architecture, mesh, shrink)
        print(f"attention_{name}: {results[f'attention_{name}']}", flush=True)
    case = sampling.ACCELERATOR_CASES["opt1.3b_960"]
    for name, measure in (
        ("update", lambda: update(models["opt"], mesh, shrink)),
        ("sampling", lambda: sample(sampling.shrink(case) if shrink else case, shrink)),
    ):
        results[name] = measure()
        print(f"{name}: {json.dumps(results[name])}", flush=True)
    print(json.dumps(results))
    return results


def sizes(shrink: bool) -> tuple[int, int, int]:
    """Returns the number of questions and the lengths of prompts and responses in tokens."""
    return (2, 24, 8) if shrink else (32, 704, 256)


def random_batch(architecture: str, questions: int, prompt: int, response: int) -> dict[str, dict[str, np.ndarray]]:
    """Returns a batch of full prompts and responses of random tokens."""
    rng, vocab = np.random.default_rng(0), registry.config_for(architecture).vocab_size
    tokens = {"prompt": (questions, prompt), "inputs": (questions, 1, response), "targets": (questions, 1, response)}
    part = {name: rng.integers(3, vocab, shape, dtype=np.int32) for name, shape in tokens.items()}
    part["prompt_mask"] = np.ones((questions, prompt), bool)
    part["weights"] = np.ones((questions, 1, response), np.float32)
    return {"train": part}


def attention(architecture: str, mesh: jax.sharding.Mesh, shrink: bool) -> float:
    """Returns the largest relative difference of fused attention from XLA's."""
    model = registry.build(registry.config_for(architecture), Precision("bfloat16"))
    fused = FusedAttention(mesh, "gpu", interpret=mesh.devices.flat[0].platform != "gpu")
    return check_attention(model, random_batch(architecture, *sizes(shrink)), mesh, fused)


def update(architecture: str, mesh: jax.sharding.Mesh, shrink: bool) -> dict[str, Any]:
    """Times updates with full rematerialization, and compares their memory with the plan's estimate."""
    questions, prompt, response = sizes(shrink)
    device, model_config = mesh.devices.flat[0], registry.config_for(architecture)
    optimizer = c.Optimizer(warmup_steps=0)
    settings = c.Training(steps=UPDATES + 1, batch_size=questions, remat="full", optimizer=optimizer)
    workload = update_workload(architecture, settings, prompt, response)
    program = training_program(workload, mesh, device.platform)
    model = registry.build(model_config, Precision("bfloat16"))
    programs = training_programs(model, settings, ONE_PART, mesh)
    start = time.perf_counter()
    compiled = programs.step.lower(*program.arguments).compile()
    compile_seconds, memory = time.perf_counter() - start, compiled.memory_analysis()
    state = programs.init_state(None, 0)
    batch = sharding.shard_batch(random_batch(architecture, questions, prompt, response), programs.batch_sharding)
    seconds = []
    for _ in range(UPDATES + 1):  # the first one also loads the program
        start = time.perf_counter()
        state, metrics = compiled(state, batch)
        loss = float(metrics["loss"])
        seconds.append(time.perf_counter() - start)
    if not np.isfinite(loss):
        raise SystemExit(f"the loss after {UPDATES + 1} updates is {loss}")
    flops, peak = batch_flops(model_config, batch)["flops"], mesh_peak_flops(mesh)
    median, statistics = float(np.median(seconds[1:])), device.memory_stats() or {}
    (estimate,) = estimate_programs(workload, mesh, device.platform)
    return {
        "seconds": round(median, 4),
        "compile_seconds": round(compile_seconds, 1),
        "tflop_per_second": round(flops / median / 1e12, 3),
        "mfu": None if peak is None else round(flops / median / peak, 3),
        "loss": round(loss, 4),
        "fused_attention": programs.attention is not None,
        "compiled_bytes": memory.argument_size_in_bytes + memory.temp_size_in_bytes,
        "planned_bytes": estimate.total,
        "peak_bytes": statistics.get("peak_bytes_in_use"),
    }


def sample(case: sampling_peers.SamplingCase, shrink: bool) -> dict[str, Any]:
    """Times one run of the sampler after one that compiles."""
    with tempfile.TemporaryDirectory() as folder:
        machine = sampling_peers.prepare({"case": case}, folder, shrink)
        sampler = sampling_peers.ScotdSampling(case, f"{folder}/{case.architecture}")
    sampler.run()
    rate = sampling.rate(sampler.run())
    limits = sampling.roofline(case, Peaks(**machine["peaks"]), rate)
    shares = {name: limits[name] for name in ("share", "compute_share", "bandwidth_share")}
    return {"case": dataclasses.asdict(case), "tokens_per_second": round(rate, 1), "peaks": machine["peaks"], **shares}


if __name__ == "__main__":
    main()
