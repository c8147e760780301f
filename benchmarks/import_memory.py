"""Memory that importing weights takes beside the parameters, in each published format.

    python -m benchmarks.import_memory [--layers=20] [--width=2048] [--shards=4] [--formats=safetensors,flax,torch]

Writes a random OPT in float16 (2 GiB with the defaults) in several files, and imports it in a new process per format,
with kernels in bfloat16 as for sampling. `above_parameters_bytes` is the peak of the process's resident memory without
the parameters that it ends with: the interpreter and its libraries, the pages of the mapped file, and the tensor that
is converted. It should stay below `limit_bytes`: the largest file plus 500 MiB.
"""

import argparse
import json
import os
import platform
import re
import subprocess
import sys
import tempfile
import time
from pathlib import Path
from typing import Any

import flax.serialization
import numpy as np
from safetensors.numpy import save_file

from benchmarks.paired_runs import versions
from scotd_jax.models.hf import weight_map
from scotd_jax.models.hf.weight_files import FLAX, SAFETENSORS, TORCH, WeightFormat
from scotd_jax.models.opt_config import OPTConfig

FORMATS = {"safetensors": SAFETENSORS, "flax": FLAX, "torch": TORCH}
LIBRARIES = ("jax", "jaxlib", "flax", "numpy", "safetensors", "torch")
MARGIN = 500 * 2**20


def main() -> None:
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    parser.add_argument("--layers", type=int, default=20)
    parser.add_argument("--width", type=int, default=2048)
    parser.add_argument("--shards", type=int, default=4, help="number of files")
    parser.add_argument("--formats", default=",".join(FORMATS), help="comma-separated")
    parser.add_argument("--load", help="import this folder and print the memory (used by the benchmark itself)")
    args = parser.parse_args()
    if args.load:
        print(json.dumps(load(args.load)))
        return
    config = OPTConfig(
        hidden_size=args.width, num_hidden_layers=args.layers, num_attention_heads=16, ffn_dim=4 * args.width
    )
    cases = {}
    for name in args.formats.split(","):
        with tempfile.TemporaryDirectory() as folder:
            cases[name] = measure(Path(folder), config, FORMATS[name], args.shards)
        print(f"{name}: {json.dumps(cases[name])}", flush=True)
    output = {
        "benchmark": "import_memory",
        "cases": cases,
        "layers": args.layers,
        "width": args.width,
        "shards": args.shards,
        "versions": versions(LIBRARIES),
    }
    print(json.dumps(output | {"device": f"{platform.machine()}, {os.cpu_count()} cores"}))


def measure(folder: Path, config: OPTConfig, form: WeightFormat, shards: int) -> dict[str, Any]:
    """Writes the model and imports it in a new process."""
    write(folder, config, form, shards)
    sizes = [file.stat().st_size for file in folder.iterdir() if form.is_shard(file.name)]
    command = [sys.executable, "-m", "benchmarks.import_memory", f"--load={folder}"]
    child = subprocess.run(command, check=True, stdout=subprocess.PIPE, text=True)
    found = json.loads(child.stdout.splitlines()[-1])
    above, limit = found["peak_bytes"] - found["parameter_bytes"], max(sizes) + MARGIN
    return {
        "above_parameters_bytes": above,
        "limit_bytes": limit,
        "within_limit": above < limit,
        "files_bytes": sum(sizes),
        "largest_file_bytes": max(sizes),
        **found,
    }


def load(folder: str) -> dict[str, Any]:
    """Imports a folder in this process and returns its peak resident memory."""
    import jax

    from scotd_jax.models.hf.loading import load_pretrained

    libraries = peak_bytes()
    start = time.perf_counter()
    _, params = load_pretrained(folder, kernel_dtype="bfloat16")
    seconds = time.perf_counter() - start
    return {
        "parameter_bytes": sum(leaf.nbytes for leaf in jax.tree.leaves(params)),
        "peak_bytes": peak_bytes(),
        "libraries_bytes": libraries,
        "seconds": round(seconds, 1),
    }


def peak_bytes() -> int:
    """Returns the peak resident memory of this process (Linux). `ru_maxrss` would include that of its parent."""
    found = re.search(r"VmHWM:\s+(\d+) kB", Path("/proc/self/status").read_text())
    assert found is not None
    return int(found[1]) * 1024


def write(folder: Path, config: OPTConfig, form: WeightFormat, shards: int) -> None:
    """Writes a random model in files of about equal size, with config.json and the index."""
    (folder / "config.json").write_text(json.dumps(config.to_hf()))
    pairs = weight_map.pairs(config)
    share = -(-sum(np.prod(pair.shape) for pair in pairs) // shards)
    groups: list[list[weight_map.WeightPair]] = [[] for _ in range(shards)]
    count = 0
    for pair in pairs:
        groups[count // share].append(pair)
        count += np.prod(pair.shape)
    values, files = np.random.default_rng(0).standard_normal(2**22, np.float32).astype(np.float16), {}
    for number, group in enumerate(groups, start=1):
        file = f"{form.stem}-{number:05d}-of-{shards:05d}{form.suffix}"
        tensors = {pair.theirs: np.resize(values, pair.stored_shape) for pair in group}
        write_file(folder / file, tensors, form)
        files |= dict.fromkeys(tensors, file)
    (folder / form.index).write_text(json.dumps({"weight_map": files}))


def write_file(file: Path, tensors: dict[str, np.ndarray], form: WeightFormat) -> None:
    """Writes one file of tensors, with the names and shapes of PyTorch in every format."""
    if form == SAFETENSORS:
        save_file(tensors, file, {"format": "pt"})
    elif form == FLAX:
        tree = weight_map.nest({name.replace(".", "/"): value for name, value in tensors.items()})
        file.write_bytes(flax.serialization.msgpack_serialize(tree, in_place=True))
    else:
        import torch

        torch.save({name: torch.from_numpy(value) for name, value in tensors.items()}, file)


if __name__ == "__main__":
    main()
