"""How much faster N samples per question come from our sampler than from `generate` of transformers (PyTorch).

    python -m benchmarks.sampling [--pairs=3] [--cases=opt125m_q64,t5small_q64] [--theirs=bfloat16:4] [--shrink]

Both sides have the same random weights, the same prompts, the same policy (temperature 1, the whole vocabulary, exactly
so many tokens) and all of the machine, in turn. Each is a process of its own, warmed up by one whole run; then they
alternate: ours, theirs, ours, theirs. Theirs runs in the fastest of some settings, which are tried on the same machine
beforehand; that takes longer than the rest, and `--theirs` names one instead. Printed per case: tokens per second of
finished samples, the median of the pairs' ratios, the peak memory of both processes, and how close ours comes to what
the machine allows (benchmarks/roofline.py). Where prompts share exemplars there is one more figure, outside the ratio:
`generate` with their keys and values handed to it by hand.

The cases "opt1.3b" are for one accelerator and have to be named; PyTorch takes the GPU if JAX does.
"""

import argparse
import dataclasses
import json
import statistics
import tempfile
from typing import Any

from benchmarks.roofline import Peaks, sampling_work
from benchmarks.sampling_sides import Case
from benchmarks.sides import Side, described, once, peak_ratio, versions
from scotd_jax import config as c

SIDES = "sampling_sides"
CASES = {
    "opt125m_q64": Case("opt-125m", batch=3, questions=18),
    "opt125m_fewshot700": Case("opt-125m", shared=700, batch=8, theirs=2, theirs_batches=(1, 2)),
    "t5small_q64": Case("t5-small", batch=6, questions=18),
}
_BIG = Case("opt-1.3b", tokens=128, dtypes=("bfloat16",))
ON_ACCELERATORS = {
    "opt1.3b_240": dataclasses.replace(_BIG, questions=32),
    "opt1.3b_960": dataclasses.replace(_BIG, questions=128, batch=32, theirs=32, theirs_batches=(8, 32)),
}


def main() -> None:
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    parser.add_argument("--pairs", type=int, default=3, help="runs of each side that are compared")
    parser.add_argument("--cases", default=",".join(CASES), help="beginnings of names of cases, with commas")
    parser.add_argument(
        "--theirs", default="", help="their fastest setting if it is known, e.g. bfloat16:4 (questions)"
    )
    parser.add_argument("--shrink", action="store_true", help="tiny shapes, to see that everything works")
    args = parser.parse_args()
    wanted = tuple(args.cases.split(","))
    cases = {name: case for name, case in (CASES | ON_ACCELERATORS).items() if name.startswith(wanted)}
    if not cases:
        parser.error(f"--cases={args.cases}: there are {', '.join(CASES | ON_ACCELERATORS)}")
    if args.shrink:
        cases = {name: shrunk(case) for name, case in cases.items()}
    found = {}
    with tempfile.TemporaryDirectory() as folder:
        machine = once(SIDES, "prepare", cases=cases, folder=folder, shrink=args.shrink)
        device = "cuda" if machine["backend"] in ("gpu", "cuda") else "cpu"
        for name, case in cases.items():
            if args.theirs:
                dtype, _, batch = args.theirs.partition(":")
                case = dataclasses.replace(case, dtypes=(dtype,), theirs_batches=(int(batch or 1),))
            found[name] = compare(case, f"{folder}/{case.architecture}", device, args.pairs, Peaks(**machine["peaks"]))
            print(f"{name}: {json.dumps(found[name])}", flush=True)
    facts = {"benchmark": "sampling", "cases": found, "peaks": machine["peaks"], "versions": versions()}
    print(json.dumps(facts | {"pairs": args.pairs, "device": described(machine["device"])}))


def shrunk(case: Case) -> Case:
    tiny = {"n": 3, "tokens": 6, "questions": 4, "batch": 2, "theirs": 2, "theirs_batches": (2,)}
    kind = case.architecture.partition("-")[0]
    shared = min(case.shared, 24)
    return dataclasses.replace(
        case, architecture=f"{kind}-tiny", shared=shared, question=16, dtypes=("float32",), **tiny
    )


def compare(case: Case, folder: str, device: str, pairs: int, peaks: Peaks) -> dict[str, Any]:
    """One case. `pairs` are tokens per second."""
    settings = [{"dtype": dtype, "questions_per_call": each} for dtype in case.dtypes for each in case.theirs_batches]
    if len(settings) > 1:
        settings = once(SIDES, "probe", case=case, folder=folder, device=device)
    dtype, batch = settings[0]["dtype"], settings[0]["questions_per_call"]
    setting = {"dtype": dtype, "batch": batch, "device": device}
    with (
        # One arena makes theirs slower.
        Side(SIDES, "ours", one_arena=True, case=case, folder=folder) as ours,
        Side(SIDES, "theirs", case=case, folder=folder, **setting) as theirs,
    ):
        sides = {"ours": ours, "theirs": theirs}
        for side in sides.values():
            side.ask("run")
        rates = [{name: rate(side.ask("run")) for name, side in sides.items()} for _ in range(pairs)]
        facts = {name: side.ask("facts") for name, side in sides.items()}
        reused = theirs.ask("reuse")
    middle = {f"{name}_tokens_per_second": statistics.median(pair[name] for pair in rates) for name in sides}
    memory = {name: each.pop("memory") for name, each in facts.items()}
    return {
        "ratio": round(statistics.median(pair["ours"] / pair["theirs"] for pair in rates), 3),
        "peak_memory_ratio": peak_ratio(memory),
        **{name: round(value, 1) for name, value in middle.items()},
        "pairs": [{name: round(value, 1) for name, value in pair.items()} for pair in rates],
        "theirs_setting": {"dtype": dtype, "questions_per_call": batch, **facts["theirs"]["setting"]},
        "theirs_settings_tried": settings,
        **({"theirs_prefix_reuse_tokens_per_second": round(rate(reused), 1)} if reused else {}),
        "memory": {name: {k: round(v) for k, v in each.items()} for name, each in memory.items()},
        "roofline": roofline(case, peaks, middle["ours_tokens_per_second"]),
        "ours": facts["ours"],
        "case": c.plain(case),
    }


def roofline(case: Case, peaks: Peaks, tokens_per_second: float) -> dict[str, Any]:
    """What a run and a step take at least in bfloat16, and the share of it that was achieved.

    `share` is least time over time; `compute_share` and `bandwidth_share` are those of the machine's peaks.
    """
    from scotd_jax.models import registry

    config = registry.config_for(case.architecture, case.shape)
    size = {"questions": case.questions, "batch": case.batch, "n": case.n, "tokens": case.tokens}
    work = sampling_work(config, prompt=case.question, shared=case.shared, itemsize=2, peaks=peaks, **size)
    seconds = case.questions * case.n * case.tokens / tokens_per_second
    parts = {
        name: {"gflop": round(each.flops / 1e9, 2), "mib": round(each.bytes / 2**20, 1), "seconds": each.seconds}
        for name, each in work.items()
    }
    return {
        "share": round(work["all"].seconds / seconds, 3),
        "compute_share": round(work["all"].flops / peaks.flops / seconds, 3),
        "bandwidth_share": round(work["all"].bytes / peaks.bandwidth / seconds, 3),
        **{name: {k: round(v, 5) for k, v in each.items()} for name, each in parts.items()},
    }


def rate(done: dict[str, float]) -> float:
    return done["tokens"] / done["seconds"]


if __name__ == "__main__":
    main()
