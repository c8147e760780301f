"""How many more rationales per second we train on than the loop that one writes with PyTorch and transformers.

    python -m benchmarks.training [--pairs=3] [--cases=opt125m_p64_g30,t5small] [--theirs=bfloat16:30] [--shrink]

Both sides have the same random weights, the same AdamW and the same batch, and all of the machine, in turn: the loss of
their first update must agree. Each is a process of its own, warmed up by one whole run; then they alternate: ours,
theirs, ours, theirs. Theirs runs in the faster of float32 and bfloat16 autocast, with so many pairs of prompt and
response at a time as are fastest, which is tried on the same machine beforehand; `--theirs` names a setting instead.
Both are given large pages by glibc, which makes both faster.
Printed per case: rationales per second, the median of the pairs' ratios, the peak memory of both processes, and what
ours does with the machine: operations of the grouped program per second, by formula, their share of the peak, and
`ratio_at_peak`, the ratio of a step that would reach the peak all the time.

The cases "opt1.3b" and "t5large" are for one accelerator and have to be named; PyTorch takes the GPU if JAX does.
"""

import argparse
import dataclasses
import json
import statistics
import tempfile
from typing import Any

from benchmarks.sides import Side, described, once, peak_ratio, versions
from benchmarks.training_sides import Case
from scotd_jax import config as c

SIDES = "training_sides"
CASES = {
    "opt125m_p64_g30": Case("opt-125m"),
    "opt125m_p64_g1": Case("opt-125m", group=1, questions=32, pairs_at_a_time=(16, 32)),
    "t5small_p64_g30": Case("t5-small"),
    "opt125m_p512_g30": Case("opt-125m", prompt=512, questions=1, updates=1, pairs_at_a_time=(5, 15)),
}
_BIG = {"dtypes": ("bfloat16",), "compiled": (False, True), "updates": 5}
ON_ACCELERATORS = {
    "opt1.3b_p64_g30": Case("opt-1.3b", questions=32, pairs_at_a_time=(120, 240), microbatches=4, **_BIG),
    "opt1.3b_p64_g1": Case("opt-1.3b", group=1, questions=256, pairs_at_a_time=(128, 256), microbatches=2, **_BIG),
    "t5large_p64_g30": Case("t5-large", questions=32, pairs_at_a_time=(120, 240), microbatches=4, **_BIG),
}
# Of the first loss, relative: two libraries that multiply in bfloat16.
AGREEMENT = 5e-3


def main() -> None:
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    parser.add_argument("--pairs", type=int, default=3, help="runs of each side that are compared")
    parser.add_argument("--cases", default=",".join(CASES), help="beginnings of names of cases, with commas")
    parser.add_argument("--theirs", default="", help="their fastest setting if it is known, e.g. bfloat16:30 (pairs)")
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
                dtype, _, pairs = args.theirs.partition(":")
                each = int(pairs or case.rationales)
                case = dataclasses.replace(case, dtypes=(dtype,), pairs_at_a_time=(each,), compiled=case.compiled[:1])
            found[name] = compare(case, f"{folder}/{case.architecture}", device, args.pairs, machine["peaks"]["flops"])
            print(f"{name}: {json.dumps(found[name])}", flush=True)
    facts = {"benchmark": "training", "cases": found, "peaks": machine["peaks"], "versions": versions()}
    print(json.dumps(facts | {"pairs": args.pairs, "device": described(machine["device"])}))


def shrunk(case: Case) -> Case:
    kind, group = case.architecture.partition("-")[0], min(case.group, 3)
    kind = "opt" if kind.startswith("opt") else "t5"
    tiny = {"prompt": 16, "response": 8, "group": group, "questions": 2, "pairs_at_a_time": (group,)}
    return dataclasses.replace(case, architecture=f"{kind}-tiny", dtypes=("float32",), compiled=(False,), **tiny)


def compare(case: Case, folder: str, device: str, pairs: int, peak: float) -> dict[str, Any]:
    """One case. `pairs` are rationales per second, `peak` is operations per second."""
    settings = [
        {"dtype": dtype, "pairs": each, "compiled": compiled}
        for dtype in case.dtypes
        for compiled in case.compiled
        for each in case.pairs_at_a_time
    ]
    if len(settings) > 1:
        settings = once(SIDES, "probe", large_pages=True, case=case, folder=folder, device=device)
    setting = {name: settings[0][name] for name in ("dtype", "pairs", "compiled")}
    with (
        Side(SIDES, "ours", one_arena=True, large_pages=True, case=case, folder=folder) as ours,
        Side(SIDES, "theirs", large_pages=True, case=case, folder=folder, device=device, **setting) as theirs,
    ):
        sides = {"ours": ours, "theirs": theirs}
        losses = {name: side.ask("run")["loss"] for name, side in sides.items()}
        if abs(losses["ours"] - losses["theirs"]) > AGREEMENT * losses["theirs"]:
            raise SystemExit(f"the first losses differ, {losses}: the two sides do not train the same")
        rates = [{name: rate(side.ask("run")) for name, side in sides.items()} for _ in range(pairs)]
        facts = {name: side.ask("facts") for name, side in sides.items()}
    middle = {f"{name}_rationales_per_second": statistics.median(pair[name] for pair in rates) for name in sides}
    memory = {name: each.pop("memory") for name, each in facts.items()}
    ratio = statistics.median(pair["ours"] / pair["theirs"] for pair in rates)
    flops_per_second = facts["ours"]["flops"] * middle["ours_rationales_per_second"] / case.rationales
    share = flops_per_second / peak
    return {
        "ratio": round(ratio, 3),
        "peak_memory_ratio": peak_ratio(memory),
        **{name: round(value, 3) for name, value in middle.items()},
        "ours_flops": facts["ours"]["flops"],
        "ours_flops_per_second": round(flops_per_second),
        "ours_share_of_peak": round(share, 4),
        "ratio_at_peak": round(ratio / share, 3),
        "pairs": [{name: round(value, 3) for name, value in pair.items()} for pair in rates],
        "first_loss": {name: round(loss, 5) for name, loss in losses.items()},
        "theirs_setting": setting | facts["theirs"]["setting"],
        "theirs_settings_tried": settings,
        "memory": {name: {k: round(v) for k, v in each.items()} for name, each in memory.items()},
        "case": c.plain(case),
    }


def rate(done: dict[str, float]) -> float:
    return done["rationales"] / done["seconds"]


if __name__ == "__main__":
    main()
