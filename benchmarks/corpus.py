"""How fast and in how much memory a million responses become a corpus.

    python -m benchmarks.corpus [--tokenizer=FOLDER] [--processes=2] [--shrink=100]

Makes questions with 30 responses each on disk, a quarter of a million and a million of them, and runs the real build
job over both in a process of its own: filters with duplicates, decontamination, shards and the ledger. Printed are
the seconds of the job, the rows that it read per second, the peak memory of its process and all of that one's
children together, and by how much the time grew more than the rows (`linearity`, 1 being linear).
"""

import argparse
import json
import os
import platform
import random
import subprocess
import sys
import tempfile
import time
from pathlib import Path

from scotd_jax import config as c
from scotd_jax.records import Question, Response, to_json

RESPONSES = 30
CASES = {"250k": 8_334, "1m": 33_334}  # questions
WORDS = [f"{a}{b}{d}" for a in "bdfgklmnprst" for b in ("a", "e", "i", "o", "u") for d in ("n", "r", "s", "l", "m", "")]


def main() -> None:
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    parser.add_argument("--tokenizer", default="", help="folder of a tokenizer; default: one token per word")
    parser.add_argument("--processes", type=int, default=1, help="worker processes of the build")
    parser.add_argument("--shrink", type=int, default=1, help="so many times fewer questions")
    parser.add_argument("--child", default="", help=argparse.SUPPRESS)
    args = parser.parse_args()
    if args.child:
        build(Path(args.child))
        return
    cases = {}
    for name, questions in CASES.items():
        with tempfile.TemporaryDirectory() as folder:
            cases[name] = measure(Path(folder), questions // args.shrink, args.tokenizer, args.processes)
        print(f"{name}: {json.dumps(cases[name])}", flush=True)
    small, large = cases.values()
    growth = (large["seconds"] / small["seconds"]) / (large["rows"] / small["rows"])
    facts = {"benchmark": "corpus", **large, "cases": cases, "linearity": round(growth, 3)}
    facts |= {"tokenizer": args.tokenizer or "words", "processes": args.processes, "versions": versions()}
    print(json.dumps(facts | {"device": f"{platform.machine()}, {os.cpu_count()} cores"}))


def versions() -> dict[str, str]:
    from scotd_jax import workdir

    return workdir.versions()


def measure(folder: Path, questions: int, tokenizer: str, processes: int) -> dict[str, float]:
    """Makes the input in `folder` and builds a corpus of it in a process of its own."""
    prepare(folder, questions, tokenizer, processes)
    command = [sys.executable, "-m", "benchmarks.corpus", f"--child={folder}"]
    child = subprocess.Popen(command, stdout=subprocess.PIPE, text=True, env=os.environ | {"JAX_PLATFORMS": "cpu"})
    peak = 0
    while child.poll() is None:
        peak = max(peak, resident(child.pid))
        time.sleep(0.05)
    if child.returncode:
        raise SystemExit(f"the build failed with status {child.returncode}")
    facts = json.loads(child.stdout.read().splitlines()[-1])
    rows = questions * RESPONSES
    seconds = facts["seconds"]
    return {
        "rows": rows,
        "seconds": round(seconds, 1),
        "rows_per_second": round(rows / seconds),
        "peak_memory_mib": round(max(peak / 2**20, facts["peak_memory_mib"])),
        "kept": facts["kept"],
        "tokens": facts["tokens"],
    }


def resident(pid: int) -> int:
    """Bytes of memory of a process and all its descendants (Linux; pages that they share count for each)."""
    try:
        pages = int(Path(f"/proc/{pid}/statm").read_text().split()[1])
        children = [int(n) for path in Path(f"/proc/{pid}/task").glob("*/children") for n in path.read_text().split()]
    except (OSError, IndexError):
        return 0
    return pages * os.sysconf("SC_PAGE_SIZE") + sum(map(resident, children))


def prepare(folder: Path, questions: int, tokenizer: str, processes: int) -> None:
    """A task, a finished set of responses to it, and the config of a corpus of them."""
    from etils import epath

    from scotd_jax.tokenization import Tokenizer
    from scotd_jax.workdir import Workdir

    rng = random.Random(0)

    def say(least: int, most: int) -> str:
        return " ".join(rng.choices(WORDS, k=rng.randint(least, most)))

    def ask(i: int, split: str) -> Question:
        return Question(f"t/{split}/{i}", "t", split, say(20, 40), ("yes", "no"), rng.choice(("yes", "no")))

    (folder / "t").mkdir()
    asked = [ask(i, "train") for i in range(questions)]
    for split, some in {"train": asked, "dev": [ask(i, "dev") for i in range(1000)]}.items():
        (folder / "t" / f"{split}.jsonl").write_text("".join(to_json(q) + "\n" for q in some))
    said = Workdir(str(folder / "run")).artefact("sample", "said")
    said.begin({})
    for shard, path in enumerate(epath.Path(said.path) / f"responses-{i:05d}-of-00004.jsonl" for i in range(4)):
        with path.open("w") as file:
            for question in asked[shard * questions // 4 : (shard + 1) * questions // 4]:
                for k in range(RESPONSES):
                    rationale, answer = say(30, 60), question.answer if rng.random() < 0.85 else "maybe"
                    text = f"{rationale} so the answer is {answer}"
                    right = answer == question.answer
                    row = Response(question.id, k, text, rationale, answer, right, "stop", -9.0, 50, "m", "s")
                    file.write(to_json(row) + "\n")
    said.finish({})
    if not tokenizer:
        tokenizer = str(folder / "tokenizer")
        Tokenizer.train_word_level([" ".join(WORDS), "question : answer : so the answer is yes no maybe"]).save(
            tokenizer
        )
    model = c.Model(architecture="opt-125m", tokenizer=tokenizer)
    config = c.Config(
        tasks={"t": c.Task(kind="jsonl", path=str(folder / "t"), format="plain")},
        rationales={"said": c.Rationales(source="file", questions=("t.train",))},
        corpora={"c": c.Corpus(rationales=("said",), dedup=True, processes=processes)},
        students={"s": c.Student(model=model, corpus="c", dev_sets=("t.dev",))},
    )
    (folder / "config.json").write_text(json.dumps(c.plain(config)))


def build(folder: Path) -> None:
    """The child: the build job, timed from the first to the last line of it."""
    import resource

    from scotd_jax.jobs.build import build
    from scotd_jax.jobs.context import Run
    from scotd_jax.workdir import Workdir

    config = c.from_mapping(c.Config, json.loads((folder / "config.json").read_text()))
    run = Run(config, Workdir(str(folder / "run")))
    begin = time.perf_counter()
    build(run, "c")
    seconds = time.perf_counter() - begin
    counts = run.artefact("build", "c").manifest()["counts"]
    facts = {
        "seconds": seconds,
        "peak_memory_mib": resource.getrusage(resource.RUSAGE_SELF).ru_maxrss / 1024,
        "kept": counts["responses"],
        "tokens": counts["prompt_tokens"] + counts["response_tokens"],
    }
    print(json.dumps(facts))


if __name__ == "__main__":
    main()
