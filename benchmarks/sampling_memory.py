"""Growth of a sample job's memory with the number of its questions.

    python -m benchmarks.sampling_memory [--questions=1000,10000] [--n=4] [--tokens=16]

Writes random multiple-choice questions as JSON lines and runs the sample job on them with a tiny model of random
weights, in a new process per case. Prints the peak memory of the process, and its growth per question and per response
between the smallest and the largest case. Slots and buckets are the same in all cases, so the growth is 0 if memory
depends only on these.
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

from benchmarks.paired_runs import versions
from scotd_jax import config as c

WORDS = [f"{a}{b}{d}" for a in "bdfgklmnprst" for b in "aeiou" for d in ("n", "r", "s", "l", "m", "")]
LIBRARIES = ("jax", "jaxlib", "flax", "numpy", "tokenizers", "transformers")


def main() -> None:
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    parser.add_argument("--questions", default="1000,10000", help="numbers of questions, comma-separated")
    parser.add_argument("--n", type=int, default=4, help="responses per question")
    parser.add_argument("--tokens", type=int, default=16, help="maximum tokens per response")
    parser.add_argument("--batch", type=int, default=64, help="questions that are decoded at once")
    args = parser.parse_args()
    counts = sorted({int(count) for count in args.questions.split(",")})
    cases = {}
    for count in counts:
        with tempfile.TemporaryDirectory() as folder:
            cases[str(count)] = measure(Path(folder), count, args.n, args.tokens, args.batch)
        print(f"{count} questions: {json.dumps(cases[str(count)])}", flush=True)
    small, large = cases[str(counts[0])], cases[str(counts[-1])]
    growth = (large["peak_bytes"] - small["peak_bytes"]) / max(1, counts[-1] - counts[0])
    output = {
        "benchmark": "sampling_memory",
        "bytes_per_question": round(growth),
        "bytes_per_response": round(growth / args.n),
        "peak_ratio": round(large["peak_bytes"] / small["peak_bytes"], 3),
        "cases": cases,
        "n": args.n,
        "tokens": args.tokens,
        "batch_size": args.batch,
        "versions": versions(LIBRARIES),
    }
    print(json.dumps(output | {"device": f"{platform.machine()}, {os.cpu_count()} cores"}))


def measure(folder: Path, questions: int, n: int, tokens: int, batch: int) -> dict[str, float]:
    """Runs one sample job in a new process and returns its measurements."""
    prepare(folder, questions, n, tokens, batch)
    command = [sys.executable, "-m", "scotd_jax.main", f"--config={folder}/config.py", f"--workdir={folder}/run"]
    with (folder / "log").open("w") as log:
        start = time.perf_counter()
        child = subprocess.Popen([*command, "--jobs=sample"], stdout=log, stderr=log)
        _, status, usage = os.wait4(child.pid, 0)
        seconds = time.perf_counter() - start
    child.returncode = os.waitstatus_to_exitcode(status)
    if child.returncode:
        log_end = (folder / "log").read_text()[-3000:]
        raise SystemExit(f"the sample job failed with status {child.returncode}:\n{log_end}")
    counts = json.loads((folder / "run/rationales/teacher/manifest.json").read_text())["counts"]
    if counts["responses"] != questions * n:
        raise SystemExit(f"{counts['responses']} responses to {questions} questions; expected {questions * n}")
    return {
        "responses": counts["responses"],
        "peak_bytes": usage.ru_maxrss * (1 if sys.platform == "darwin" else 1024),
        "seconds": round(seconds, 1),
        "responses_per_second": round(counts["responses"] / seconds, 1),
    }


def prepare(folder: Path, questions: int, n: int, tokens: int, batch: int) -> None:
    """Writes the questions to FOLDER/t/train.jsonl and the config of the job to FOLDER/config.py."""
    rng = random.Random(0)
    (folder / "t").mkdir()
    with (folder / "t" / "train.jsonl").open("w") as file:
        for i in range(questions):
            stem = " ".join(rng.choices(WORDS, k=rng.randint(8, 40)))
            choices = [{"label": label, "text": " ".join(rng.choices(WORDS, k=2))} for label in "ABCD"]
            row = {"id": f"q{i}", "question": {"stem": stem, "choices": choices}, "answerKey": rng.choice("ABCD")}
            file.write(json.dumps(row) + "\n")
    teacher = c.ModelSource(
        questions=("t.train",),
        model=c.Model(architecture="opt-tiny", tokenizer="task:t"),
        sampling=c.Sampling(n=n, max_new_tokens=tokens, batch_size=batch),
    )
    tasks = {"t": c.Task(kind="multiple_choice", path=str(folder / "t"))}
    config = c.Config(tasks=tasks, rationales={"teacher": teacher})
    lines = ["from scotd_jax import config as c", f"VALUES = {c.plain(config)!r}"]
    lines += ["def get_config():", "    return c.config_dict(c.from_mapping(c.Config, VALUES))"]
    (folder / "config.py").write_text("\n".join(lines) + "\n")


if __name__ == "__main__":
    main()
