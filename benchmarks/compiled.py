"""Memory of every preset's update, prefill and decoding, compiled for accelerators that are absent.

    python -m benchmarks.compiled [--models=opt-1.3b,...] [--topologies=h200-8,...]

Needs libtpu for TPUs and JAX's CUDA plugin for GPUs, each in an environment of its own. Compiles the programs of one
host: an update of 32 questions with one response each, with parameters sharded over all chips (`fsdp`), and sampling
of 30 responses to each of 8 questions, sharded over `tensor` if the weights need half of a chip's memory, else over the
questions. Prompts have 704 tokens, responses 256; programs are those of the plan job. `results/compiled.json` has bytes
per chip by preset, topology and program, and what the plan job estimates without compiling. `make test-compile`
compares with it and adds what is new.
"""

import argparse
import json
import os
from collections.abc import Mapping
from pathlib import Path

from benchmarks.compile_cases import compiler_package, update_workload
from benchmarks.paired_runs import versions
from scotd_jax import config as c
from scotd_jax.distributed.topologies import Topology

TOPOLOGIES = ("v5e-8", "v5p-8", "v6e-8", "h100-8", "h200-8", "b200-8")
RESULTS = Path(__file__).parent / "results" / "compiled.json"
PROMPT, RESPONSE, QUESTIONS = 704, 256, 32
LAYERS = 2  # programs without a scan over layers are compiled with one layer and with two, and extrapolated
MAX_GROWTH = 0.05
SLACK = 16 * 2**20  # bytes; small programs vary by the size of XLA's constants
Row = dict[str, dict[str, int]]  # program -> {"arguments": bytes, "temporaries": bytes, "estimated": bytes in total}


def main() -> None:
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    parser.add_argument("--models", default="", help="presets, comma-separated; default: all")
    parser.add_argument("--topologies", default=",".join(TOPOLOGIES), help="topologies, comma-separated")
    args = parser.parse_args()
    from scotd_jax.distributed import topologies

    topologies.use_cpu_only(1)
    for name in args.topologies.split(","):
        topology = topologies.parse_topology(name, "--topologies")
        if obstacle := topologies.compile_obstacle(topology):
            print(f"{name}: skipped, {obstacle}")
            continue
        for model in args.models.split(",") if args.models else architectures():
            row = measure(model, topology)
            print(f"{model} on {name}: {json.dumps(row)}", flush=True)
            for message in record(RESULTS, model, name, row):
                print(f"GROWN: {message}")


def architectures() -> list[str]:
    """Returns the presets, without those whose architecture another preset has."""
    from scotd_jax.models import registry

    first: dict[str, str] = {}  # architecture -> preset
    for name in registry.PRESETS:
        first.setdefault(repr(registry.config_for(name)), name)
    return list(first.values())


def measure(model: str, topology: Topology) -> Row:
    """Compiles the programs of a preset for one host of a topology, and returns their bytes per chip."""
    import jax

    from scotd_jax.jobs.planning.analysis import Analyzer
    from scotd_jax.jobs.planning.workloads import GenerationWorkload
    from scotd_jax.models import registry

    model_config = registry.config_for(model)
    training = update_workload(model, c.Training(batch_size=QUESTIONS), PROMPT, RESPONSE)
    generation = GenerationWorkload(
        names=(model,),
        config_paths=(),
        job="sample",
        model_config=model_config,
        precision="bfloat16",
        policy=c.Sampling(n=30, batch_size=8, max_new_tokens=RESPONSE),
        prompt_tokens=PROMPT,
        exemplar_tokens=0,
        questions=8,
        samples=8 * 30,
        loads_inference_dtype=True,
    )
    analyzer = Analyzer(topology, LAYERS, log=lambda line: None)
    with jax.debug_key_reuse(False):  # traces shapes only, so no key is ever used
        loaded = analyzer.analyze(generation, c.Mesh(), compile=False).programs[0]
        fits = loaded.bytes["weights"] < topology.chip.usable / 2
        sampling_mesh = c.Mesh() if fits else c.Mesh(data=1, tensor=-1)
        estimated, compiled = (
            [
                program
                for workload, mesh in ((training, c.Mesh(data=1, fsdp=-1)), (generation, sampling_mesh))
                for program in analyzer.analyze(workload, mesh, compile=compile).programs
            ]
            for compile in (False, True)  # in this order: a compiled program corrects later estimates
        )
    return {
        program.name: {
            "arguments": program.total - program.bytes["temporaries"] - program.bytes["code"],
            "temporaries": program.bytes["temporaries"],
            "estimated": estimate.total,
        }
        for estimate, program in zip(estimated, compiled, strict=True)
        if program.name != "load"
    }


def growth(before: Mapping[str, Mapping[str, int]], after: Row) -> list[str]:
    """Returns a message for each program of `after` that needs over 5 % more memory than in `before`."""
    messages = []
    for program, sizes in after.items():
        if program not in before:
            continue
        old, new = (part["arguments"] + part["temporaries"] for part in (before[program], sizes))
        if new > (1 + MAX_GROWTH) * old + SLACK:
            messages.append(f"{program} needs {new / 2**30:.2f} GiB per chip, {new / old - 1:.0%} more than before")
    return messages


def record(path: Path, model: str, topology: str, row: Row) -> list[str]:
    """Compares a row with that of the file and, unless it has grown, writes it there. Returns the growth."""
    table = json.loads(path.read_text()) if path.exists() else {}
    rows = table.setdefault("bytes_per_chip", {})
    messages = growth(rows.get(model, {}).get(topology, {}), row)
    if not messages:
        rows.setdefault(model, {})[topology] = row
        table["versions"] = table.get("versions", {}) | versions(("jax", compiler_package(topology)))
        shapes = {"prompt": PROMPT, "response": RESPONSE, "questions": QUESTIONS}
        table = {"benchmark": "compiled", **shapes, "versions": table["versions"], "bytes_per_chip": rows}
        temporary = path.with_suffix(".tmp")
        temporary.write_text(json.dumps(table, indent=1) + "\n")
        os.replace(temporary, path)
    return messages


if __name__ == "__main__":
    main()
