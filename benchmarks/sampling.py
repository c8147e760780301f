"""Throughput of sampling N responses per question, compared with `generate` of transformers (PyTorch).

    python -m benchmarks.sampling [--pairs=3] [--cases=opt125m_q64,t5small_q64] [--torch=bfloat16:4] [--shrink]

Both implementations use the same random weights and prompts and the whole machine. They sample with temperature 1 from
the full vocabulary, or greedily in the case "smollm2_greedy", and always a fixed number of tokens. Each has its own
process and warms up with one full run; then timed runs alternate. PyTorch uses the fastest of several settings. Trying
all of them takes longer than the comparison itself; `--torch` selects one setting instead.

For every case, prints the generated tokens per second, the median ratio over the pairs of runs, the peak memory of both
processes, and the shares of the machine's limits (benchmarks/roofline.py). If prompts share few-shot examples, it also
measures `generate` with precomputed keys and values of these examples; this rate is not part of the ratio.

The "opt1.3b" cases are for one accelerator and must be selected by name. PyTorch uses the GPU if JAX does.
"""

import argparse
import dataclasses
import json
import statistics
import tempfile
from typing import Any

from benchmarks.paired_runs import Worker, describe_machine, peak_memory_ratio, run_once, versions
from benchmarks.roofline import Peaks, sampling_costs
from benchmarks.sampling_peers import SamplingCase
from scotd_jax import config as c

PEERS = "sampling_peers"
CASES = {
    "opt125m_q64": SamplingCase("opt-125m", batch=3, questions=18),
    "opt125m_fewshot700": SamplingCase("opt-125m", shared=700, batch=8, torch_questions=2, torch_batches=(1, 2)),
    "t5small_q64": SamplingCase("t5-small", batch=6, questions=18),
    "smollm2_q64": SamplingCase("smollm2-135m", batch=3, questions=18),
    "smollm2_greedy": SamplingCase(
        "smollm2-135m",
        n=1,
        tokens=37,
        temperature=0.0,
        batch=128,
        questions=256,
        torch_questions=64,
        torch_batches=(16, 32, 64),
        dtypes=("bfloat16",),
    ),
}
_OPT_1_3B = SamplingCase("opt-1.3b", tokens=128, dtypes=("bfloat16",))
ACCELERATOR_CASES = {
    "opt1.3b_240": dataclasses.replace(_OPT_1_3B, questions=32),
    "opt1.3b_960": dataclasses.replace(_OPT_1_3B, questions=128, batch=32, torch_questions=32, torch_batches=(8, 32)),
}


def main() -> None:
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    parser.add_argument("--pairs", type=int, default=3, help="runs of each implementation")
    parser.add_argument("--cases", default=",".join(CASES), help="prefixes of case names, comma-separated")
    parser.add_argument("--torch", default="", help="PyTorch setting DTYPE:QUESTIONS_PER_CALL, e.g. bfloat16:4")
    parser.add_argument("--shrink", action="store_true", help="tiny shapes, as a smoke test")
    args = parser.parse_args()
    prefixes = tuple(args.cases.split(","))
    cases = {name: case for name, case in (CASES | ACCELERATOR_CASES).items() if name.startswith(prefixes)}
    if not cases:
        parser.error(f"--cases={args.cases}: unknown; expected prefixes of {', '.join(CASES | ACCELERATOR_CASES)}")
    if args.shrink:
        cases = {name: shrink(case) for name, case in cases.items()}
    results = {}
    with tempfile.TemporaryDirectory() as folder:
        machine = run_once(PEERS, "prepare", cases=cases, folder=folder, shrink=args.shrink)
        device = "cuda" if machine["backend"] in ("gpu", "cuda") else "cpu"
        for name, case in cases.items():
            if args.torch:
                dtype, _, batch = args.torch.partition(":")
                case = dataclasses.replace(case, dtypes=(dtype,), torch_batches=(int(batch or 1),))
            peaks = Peaks(**machine["peaks"])
            results[name] = compare(case, f"{folder}/{case.architecture}", device, args.pairs, peaks)
            print(f"{name}: {json.dumps(results[name])}", flush=True)
    output = {"benchmark": "sampling", "cases": results, "peaks": machine["peaks"], "versions": versions()}
    print(json.dumps(output | {"pairs": args.pairs, "device": describe_machine(machine["device"])}))


def shrink(case: SamplingCase) -> SamplingCase:
    """Returns the case with tiny shapes."""
    tiny = {"n": min(case.n, 3), "tokens": 6, "questions": 4, "batch": 2, "torch_questions": 2, "torch_batches": (2,)}
    kind = case.architecture.partition("-")[0].replace("smollm2", "decoder")
    shared = min(case.shared, 24)
    return dataclasses.replace(
        case, architecture=f"{kind}-tiny", shared=shared, question=16, dtypes=("float32",), **tiny
    )


def compare(case: SamplingCase, folder: str, device: str, pairs: int, peaks: Peaks) -> dict[str, Any]:
    """Returns the results of one case. Rates are in tokens per second."""
    settings = [{"dtype": dtype, "questions_per_call": size} for dtype in case.dtypes for size in case.torch_batches]
    if len(settings) > 1:
        settings = run_once(PEERS, "tune_torch", case=case, folder=folder, device=device)
    dtype, batch = settings[0]["dtype"], settings[0]["questions_per_call"]
    setting = {"dtype": dtype, "batch": batch, "device": device}
    with (
        # One arena makes PyTorch slower.
        Worker(PEERS, "ScotdSampling", one_arena=True, case=case, folder=folder) as scotd,
        Worker(PEERS, "TorchSampling", case=case, folder=folder, **setting) as torch,
    ):
        workers = {"scotd": scotd, "torch": torch}
        for worker in workers.values():
            worker.call("run")
        rates = [{name: rate(worker.call("run")) for name, worker in workers.items()} for _ in range(pairs)]
        facts = {name: worker.call("facts") for name, worker in workers.items()}
        prefix_reuse = torch.call("run_with_prefix_reuse")
    medians = {f"{name}_tokens_per_second": statistics.median(pair[name] for pair in rates) for name in workers}
    memory = {name: values.pop("memory") for name, values in facts.items()}
    reuse = {"torch_prefix_reuse_tokens_per_second": round(rate(prefix_reuse), 1)} if prefix_reuse else {}
    return {
        "ratio": round(statistics.median(pair["scotd"] / pair["torch"] for pair in rates), 3),
        "peak_memory_ratio": peak_memory_ratio(memory),
        **{name: round(value, 1) for name, value in medians.items()},
        "pairs": [{name: round(value, 1) for name, value in pair.items()} for pair in rates],
        "torch_setting": {"dtype": dtype, "questions_per_call": batch, **facts["torch"]["setting"]},
        "torch_settings_tried": settings,
        **reuse,
        "memory": {name: {k: round(v) for k, v in values.items()} for name, values in memory.items()},
        "roofline": roofline(case, peaks, medians["scotd_tokens_per_second"]),
        "scotd": facts["scotd"],
        "case": c.plain(case),
    }


def roofline(case: SamplingCase, peaks: Peaks, tokens_per_second: float) -> dict[str, Any]:
    """Returns the minimal time of a run and of a step in bfloat16, and the achieved shares of the limits.

    `share` is minimal time over measured time; `compute_share` and `bandwidth_share` are shares of the machine's peaks.
    """
    from scotd_jax.models import registry

    config = registry.config_for(case.architecture, case.overrides)
    size = {"questions": case.questions, "batch": case.batch, "n": case.n, "tokens": case.tokens}
    costs = sampling_costs(config, prompt=case.question, shared=case.shared, itemsize=2, peaks=peaks, **size)
    seconds = case.questions * case.n * case.tokens / tokens_per_second
    rows = {
        name: {"gflop": round(cost.flops / 1e9, 2), "mib": round(cost.bytes / 2**20, 1), "seconds": cost.seconds}
        for name, cost in costs.items()
    }
    return {
        "share": round(costs["total"].seconds / seconds, 3),
        "compute_share": round(costs["total"].flops / peaks.flops / seconds, 3),
        "bandwidth_share": round(costs["total"].bytes / peaks.bandwidth / seconds, 3),
        **{name: {k: round(v, 5) for k, v in row.items()} for name, row in rows.items()},
    }


def rate(run: dict[str, float]) -> float:
    """Returns tokens per second."""
    return run["tokens"] / run["seconds"]


if __name__ == "__main__":
    main()
