"""Training throughput, compared with a PyTorch loop over separate (prompt, response) pairs.

    python -m benchmarks.training [--pairs=3] [--cases=opt125m_p64_g30,t5small] [--torch=bfloat16:30] [--shrink]

Both implementations use the same random weights, AdamW and batch, and the whole machine; the losses of their first
update must agree. Each has its own process and warms up with one full run; then timed runs alternate. PyTorch uses the
fastest of several dtypes (float32, bfloat16 autocast) and micro-batch sizes; `--torch` selects one setting instead.
glibc requests large pages for both, which makes both faster.

For every case, prints the rationales per second, the median ratio over the pairs of runs, the peak memory of both
processes, and the efficiency of scotd_jax: model FLOP/s of the grouped update, their share of the peak, and
`ratio_at_peak`, the ratio that an update at peak FLOP/s would reach.

The "opt1.3b" and "t5large" cases are for one accelerator and must be selected by name. PyTorch uses the GPU if JAX
does.
"""

import argparse
import dataclasses
import json
import statistics
import tempfile
from typing import Any

from benchmarks.paired_runs import Worker, describe_machine, peak_memory_ratio, run_once, versions
from benchmarks.training_peers import TrainingCase
from scotd_jax import config as c

PEERS = "training_peers"
CASES = {
    "opt125m_p64_g30": TrainingCase("opt-125m"),
    "opt125m_p64_g1": TrainingCase("opt-125m", group=1, questions=32, torch_microbatch_sizes=(16, 32)),
    "t5small_p64_g30": TrainingCase("t5-small"),
    "opt125m_p512_g30": TrainingCase("opt-125m", prompt=512, questions=1, updates=1, torch_microbatch_sizes=(5, 15)),
    "smollm2_p64_g5": TrainingCase("smollm2-135m", group=5, questions=6, torch_microbatch_sizes=(15, 30)),
    "smollm2_p64_g1": TrainingCase("smollm2-135m", group=1, questions=16, torch_microbatch_sizes=(8, 16)),
}
_LARGE = TrainingCase(
    "opt-1.3b",
    questions=32,
    torch_microbatch_sizes=(120, 240),
    microbatches=4,
    dtypes=("bfloat16",),
    torch_compile=(False, True),
    updates=5,
)
ACCELERATOR_CASES = {
    "opt1.3b_p64_g30": _LARGE,
    "opt1.3b_p64_g1": dataclasses.replace(
        _LARGE, group=1, questions=256, torch_microbatch_sizes=(128, 256), microbatches=2
    ),
    "t5large_p64_g30": dataclasses.replace(_LARGE, architecture="t5-large"),
}
# Maximum relative difference of the first losses. Both libraries multiply in bfloat16; in benchmarks/results the losses
# differ by less than 1e-4.
LOSS_TOLERANCE = 5e-3


def main() -> None:
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    parser.add_argument("--pairs", type=int, default=3, help="runs of each implementation")
    parser.add_argument("--cases", default=",".join(CASES), help="prefixes of case names, comma-separated")
    parser.add_argument("--torch", default="", help="PyTorch setting DTYPE:MICROBATCH_SIZE, e.g. bfloat16:30")
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
        peak = machine["peaks"]["flops"]
        for name, case in cases.items():
            if args.torch:
                case = with_torch_setting(case, args.torch)
            results[name] = compare(case, f"{folder}/{case.architecture}", device, args.pairs, peak)
            print(f"{name}: {json.dumps(results[name])}", flush=True)
    output = {"benchmark": "training", "cases": results, "peaks": machine["peaks"], "versions": versions()}
    print(json.dumps(output | {"pairs": args.pairs, "device": describe_machine(machine["device"])}))


def shrink(case: TrainingCase) -> TrainingCase:
    """Returns the case with tiny shapes."""
    kind = "opt" if case.architecture.startswith("opt") else "t5"
    group = min(case.group, 3)
    tiny = {"prompt": 16, "response": 8, "group": group, "questions": 2, "torch_microbatch_sizes": (group,)}
    return dataclasses.replace(case, architecture=f"{kind}-tiny", dtypes=("float32",), torch_compile=(False,), **tiny)


def with_torch_setting(case: TrainingCase, setting: str) -> TrainingCase:
    """Returns the case with "DTYPE:MICROBATCH_SIZE" as PyTorch's only setting."""
    dtype, _, size = setting.partition(":")
    sizes = (int(size or case.rationales),)
    return dataclasses.replace(
        case, dtypes=(dtype,), torch_microbatch_sizes=sizes, torch_compile=case.torch_compile[:1]
    )


def compare(case: TrainingCase, folder: str, device: str, pairs: int, peak: float) -> dict[str, Any]:
    """Returns the results of one case. Rates are in rationales per second, `peak` in FLOP/s."""
    settings = [
        {"dtype": dtype, "microbatch_size": size, "compiled": compiled}
        for dtype in case.dtypes
        for compiled in case.torch_compile
        for size in case.torch_microbatch_sizes
    ]
    if len(settings) > 1:
        settings = run_once(PEERS, "tune_torch", large_pages=True, case=case, folder=folder, device=device)
    setting = {name: settings[0][name] for name in ("dtype", "microbatch_size", "compiled")}
    with (
        Worker(PEERS, "ScotdTraining", one_arena=True, large_pages=True, case=case, folder=folder) as scotd,
        Worker(PEERS, "TorchTraining", large_pages=True, case=case, folder=folder, device=device, **setting) as torch,
    ):
        workers = {"scotd": scotd, "torch": torch}
        losses = {name: worker.call("run")["loss"] for name, worker in workers.items()}
        if abs(losses["scotd"] - losses["torch"]) > LOSS_TOLERANCE * losses["torch"]:
            raise SystemExit(f"the first losses differ, {losses}: the implementations do not train the same model")
        rates = [{name: rate(worker.call("run")) for name, worker in workers.items()} for _ in range(pairs)]
        facts = {name: worker.call("facts") for name, worker in workers.items()}
    medians = {f"{name}_rationales_per_second": statistics.median(pair[name] for pair in rates) for name in workers}
    memory = {name: values.pop("memory") for name, values in facts.items()}
    ratio = statistics.median(pair["scotd"] / pair["torch"] for pair in rates)
    flops_per_second = facts["scotd"]["flops"] * medians["scotd_rationales_per_second"] / case.rationales
    share = flops_per_second / peak
    return {
        "ratio": round(ratio, 3),
        "peak_memory_ratio": peak_memory_ratio(memory),
        **{name: round(value, 3) for name, value in medians.items()},
        "scotd_flops": facts["scotd"]["flops"],
        "scotd_flops_per_second": round(flops_per_second),
        "scotd_share_of_peak": round(share, 4),
        "ratio_at_peak": round(ratio / share, 3),
        "pairs": [{name: round(value, 3) for name, value in pair.items()} for pair in rates],
        "first_loss": {name: round(loss, 5) for name, loss in losses.items()},
        "torch_setting": setting | facts["torch"]["setting"],
        "torch_settings_tried": settings,
        "memory": {name: {k: round(v) for k, v in values.items()} for name, values in memory.items()},
        "case": c.plain(case),
    }


def rate(run: dict[str, float]) -> float:
    """Returns rationales per second."""
    return run["rationales"] / run["seconds"]


if __name__ == "__main__":
    main()
