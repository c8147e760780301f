"""Throughput and memory of building a corpus of a million responses.

    python -m benchmarks.corpus [--tokenizer=FOLDER] [--processes=2] [--shrink=100]

Writes questions with 30 responses each to disk, 250,000 and 1,000,000 responses in total. Runs the build job on both,
each in a new process: filters, deduplication, decontamination, shards and ledger. Prints the seconds of the job, rows
(responses) per second, and the peak memory of the process with its children. `time_per_row_ratio` is the ratio of the
times per row of the large and the small case (1 is linear scaling).
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
CASES = {"250k": 8_334, "1m": 33_334}  # numbers of questions
SHARDS = 4  # number of response files
WORDS = [f"{a}{b}{d}" for a in "bdfgklmnprst" for b in ("a", "e", "i", "o", "u") for d in ("n", "r", "s", "l", "m", "")]


def main() -> None:
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    parser.add_argument("--tokenizer", default="", help="folder of a tokenizer; default: one token per word")
    parser.add_argument("--processes", type=int, default=1, help="worker processes of the build")
    parser.add_argument("--shrink", type=int, default=1, help="factor by which to reduce the questions")
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
    ratio = (large["seconds"] / small["seconds"]) / (large["rows"] / small["rows"])
    output = {"benchmark": "corpus", **large, "cases": cases, "time_per_row_ratio": round(ratio, 3)}
    output |= {"tokenizer": args.tokenizer or "words", "processes": args.processes, "versions": versions()}
    print(json.dumps(output | {"device": f"{platform.machine()}, {os.cpu_count()} cores"}))


def versions() -> dict[str, str]:
    from scotd_jax import artefact

    return artefact.versions()


def measure(folder: Path, questions: int, tokenizer: str, processes: int) -> dict[str, float]:
    """Writes the input to `folder`, builds the corpus in a new process and returns the measurements."""
    prepare(folder, questions, tokenizer, processes)
    command = [sys.executable, "-m", "benchmarks.corpus", f"--child={folder}"]
    child = subprocess.Popen(command, stdout=subprocess.PIPE, text=True, env=os.environ | {"JAX_PLATFORMS": "cpu"})
    peak = 0
    while child.poll() is None:
        peak = max(peak, resident_bytes(child.pid))
        time.sleep(0.05)
    if child.returncode:
        raise SystemExit(f"the build job failed with status {child.returncode}")
    result = json.loads(child.stdout.read().splitlines()[-1])
    rows = questions * RESPONSES
    seconds = result["seconds"]
    return {
        "rows": rows,
        "seconds": round(seconds, 1),
        "rows_per_second": round(rows / seconds),
        "peak_memory_mib": round(max(peak / 2**20, result["peak_memory_mib"])),
        "kept": result["kept"],
        "tokens": result["tokens"],
    }


def resident_bytes(pid: int) -> int:
    """Returns the resident memory of a process and its descendants (Linux; shared pages count for each process)."""
    try:
        pages = int(Path(f"/proc/{pid}/statm").read_text().split()[1])
        children = [int(n) for path in Path(f"/proc/{pid}/task").glob("*/children") for n in path.read_text().split()]
    except (OSError, IndexError):
        return 0
    return pages * os.sysconf("SC_PAGE_SIZE") + sum(map(resident_bytes, children))


def prepare(folder: Path, questions: int, tokenizer: str, processes: int) -> None:
    """Writes a task, a complete set of responses, and the config of the build job to FOLDER/config.json."""
    from scotd_jax.tokenization import Tokenizer

    rng = random.Random(0)
    train = write_questions(folder / "t", questions, rng)
    write_responses(folder / "run", train, rng)
    if not tokenizer:
        tokenizer = str(folder / "tokenizer")
        words = Tokenizer.train_word_level([" ".join(WORDS), "question : answer : so the answer is yes no maybe"])
        words.save(tokenizer)
    model = c.Model(architecture="opt-125m", tokenizer=tokenizer)
    config = c.Config(
        tasks={"t": c.Task(kind="jsonl", path=str(folder / "t"), format="plain")},
        rationales={"teacher": c.FileSource(questions=("t.train",))},
        corpora={"c": c.Corpus(rationales=("teacher",), dedup=True, processes=processes)},
        students={"s": c.Student(model=model, corpus="c", dev_sets=("t.dev",))},
    )
    (folder / "config.json").write_text(json.dumps(c.plain(config)))


def random_text(rng: random.Random, minimum: int, maximum: int) -> str:
    return " ".join(rng.choices(WORDS, k=rng.randint(minimum, maximum)))


def write_questions(folder: Path, count: int, rng: random.Random) -> list[Question]:
    """Writes the splits "train" (`count` questions) and "dev" (1,000 questions). Returns the questions of "train"."""

    def question(i: int, split: str) -> Question:
        text = random_text(rng, 20, 40)
        return Question(f"t/{split}/{i}", "t", split, text, ("yes", "no"), rng.choice(("yes", "no")))

    folder.mkdir()
    splits = {"train": [question(i, "train") for i in range(count)], "dev": [question(i, "dev") for i in range(1000)]}
    for split, rows in splits.items():
        (folder / f"{split}.jsonl").write_text("".join(to_json(row) + "\n" for row in rows))
    return splits["train"]


def write_responses(workdir: Path, questions: list[Question], rng: random.Random) -> None:
    """Writes the artefact rationales/teacher: 30 responses per question, 15 % of them without a valid answer."""
    from etils import epath

    from scotd_jax.workdir import Workdir

    artefact = Workdir(str(workdir)).artefact("sample", "teacher")
    artefact.begin({})
    for shard in range(SHARDS):
        path = epath.Path(artefact.path) / f"responses-{shard:05d}-of-{SHARDS:05d}.jsonl"
        with path.open("w") as file:
            for question in questions[shard * len(questions) // SHARDS : (shard + 1) * len(questions) // SHARDS]:
                for index in range(RESPONSES):
                    rationale = random_text(rng, 30, 60)
                    answer = question.answer if rng.random() < 0.85 else "maybe"
                    text, correct = f"{rationale} so the answer is {answer}", answer == question.answer
                    row = Response(question.id, index, text, rationale, answer, correct, "stop", -9.0, 50, "m", "s")
                    file.write(to_json(row) + "\n")
    artefact.finish({})


def build(folder: Path) -> None:
    """Runs the build job in the child process and prints its measurements as the last line."""
    import resource

    from scotd_jax.jobs.build import build as build_corpus
    from scotd_jax.jobs.context import make_context
    from scotd_jax.workdir import Workdir

    config = c.from_mapping(c.Config, json.loads((folder / "config.json").read_text()))
    run = make_context(config, Workdir(str(folder / "run")))
    start = time.perf_counter()
    build_corpus(run, "c")
    seconds = time.perf_counter() - start
    counts = run.artefact("build", "c").manifest()["counts"]
    result = {
        "seconds": seconds,
        "peak_memory_mib": resource.getrusage(resource.RUSAGE_SELF).ru_maxrss / 1024,
        "kept": counts["responses"],
        "tokens": counts["prompt_tokens"] + counts["response_tokens"],
    }
    print(json.dumps(result))


if __name__ == "__main__":
    main()
