"""How long recorded loads take to read: 3,000 steps x 61 decoder layers x 256 experts, in every format that holds
steps.

`python -m benchmarks.manifests [--steps N]` writes each recording into a temporary folder, reads it in a process of
its own, and prints seconds (elapsed, and of processor time), and peak memory, start-up and imports included, beside
reading the same counts with `numpy.load` alone.
"""

from __future__ import annotations

import argparse
import json
import subprocess
import sys
import tempfile
import time
from collections.abc import Callable, Mapping
from pathlib import Path

import numpy as np

DENSE, LAYERS, EXPERTS, SLOTS, OMNI_RANKS = 3, 58, 256, 288, 8


def counts(steps: int) -> np.ndarray:
    """Skewed counts `[steps, 61, 256]` int32 whose first three layers are dense."""
    rng = np.random.default_rng(0)
    rate_LE = rng.lognormal(3, 1.5, (LAYERS, EXPERTS)) + 1
    moe_SLE = rng.poisson(rate_LE, (steps, LAYERS, EXPERTS)).astype(np.int32)
    return np.concatenate([np.zeros((steps, DENSE, EXPERTS), np.int32), moe_SLE], axis=1)


def slot_map(layers: int) -> np.ndarray:
    """`expert_LP`: every expert once, the first 32 twice."""
    return np.tile(np.arange(SLOTS) % EXPERTS, (layers, 1))


def write_npy(folder: Path, counts_SLE: np.ndarray) -> Path:
    np.save(folder / "counts.npy", counts_SLE)
    return folder / "counts.npy"


def write_npz(folder: Path, counts_SLE: np.ndarray) -> Path:
    np.savez(folder / "loads.npz", counts=counts_SLE[:, DENSE:])
    return folder / "loads.npz"


def write_stat(folder: Path, counts_SLE: np.ndarray) -> Path:
    import torch

    torch.save(
        {"rank": 0, "logical_count": torch.from_numpy(counts_SLE)}, folder / "expert_distribution_recorder_1.5.pt"
    )
    return folder / "expert_distribution_recorder_1.5.pt"


def write_per_pass(folder: Path, counts_SLE: np.ndarray) -> Path:
    import torch

    expert_LP = slot_map(counts_SLE.shape[1])
    records = [
        {
            "forward_pass_id": step,
            "rank": 0,
            "gatherer_key": "primary",
            "global_physical_count": torch.from_numpy(counts_LE[:, expert_LP[0]]),
        }
        for step, counts_LE in enumerate(counts_SLE)
    ]
    dump = {"records": records, "last_physical_to_logical_map": torch.from_numpy(expert_LP)}
    torch.save(dump, folder / "expert_distribution_recorder_1.5_0.pt")
    return folder


def write_trtllm(folder: Path, counts_SLE: np.ndarray) -> Path:
    from safetensors.numpy import save_file

    (folder / "meta_info.json").write_text(json.dumps({"num_experts": EXPERTS, "num_experts_per_token": 8}))
    tensors = {
        f"{step}_{layer}": counts_SLE[step, layer].astype(np.int64)
        for step in range(len(counts_SLE))
        for layer in range(DENSE, DENSE + LAYERS)
    }
    save_file(tensors, folder / "rank0.safetensors")
    return folder


def write_vllm(folder: Path, counts_SLE: np.ndarray) -> Path:
    expert_LP = slot_map(LAYERS)
    with (folder / "stats.jsonl").open("w") as file:
        for step, counts_LE in enumerate(counts_SLE):
            record = {
                "record_type": "eplb_load_stats",
                "version": 1,
                "step": step,
                "num_ranks": 32,
                "expert_load": counts_LE[DENSE:, expert_LP[0]].tolist(),
                "p2l_map": expert_LP.tolist(),
            }
            file.write(json.dumps(record) + "\n")
    return folder / "stats.jsonl"


def write_csv(folder: Path, counts_SLE: np.ndarray) -> Path:
    with (folder / "loads.csv").open("w") as file:
        file.write(",".join(["step", "layer", *map(str, range(EXPERTS))]) + "\n")
        for step, counts_LE in enumerate(counts_SLE[:, DENSE:].tolist()):
            file.writelines(
                f"{step},{DENSE + layer},{','.join(map(str, row))}\n" for layer, row in enumerate(counts_LE)
            )
    return folder / "loads.csv"


def write_omni(folder: Path, counts_SLE: np.ndarray) -> Path:
    width = EXPERTS // OMNI_RANKS
    for step, counts_LE in enumerate(counts_SLE[:, DENSE:]):
        for rank in range(OMNI_RANKS):
            rows = counts_LE[:, rank * width : (rank + 1) * width].tolist()
            text = "".join("\t".join(map(str, row)) + "\t\n" for row in rows)
            (folder / f"activation_counts_recordstep_{step}_rank_{rank}.txt").write_text(text)
    return folder


WRITERS: Mapping[str, Callable[[Path, np.ndarray], Path]] = {
    "numpy.load alone": write_npy,
    "npz": write_npz,
    "sglang stat": write_stat,
    "sglang per_pass": write_per_pass,
    "trtllm": write_trtllm,
    "vllm": write_vllm,
    "omni": write_omni,
    "csv": write_csv,
}


def read_one(path: Path) -> None:
    """Read `path` in this process and print seconds and peak bytes."""
    started = time.perf_counter()
    if path.suffix == ".npy":
        shape = np.load(path).shape
    else:
        from craftc.loads.read_loads import read_loads

        shape = read_loads(path).counts_SLE.shape
    status = Path("/proc/self/status").read_text()  # ru_maxrss would count the parent's memory as well
    peak_bytes = int(status.partition("VmHWM:")[2].split()[0]) * 1024
    elapsed, busy = time.perf_counter() - started, time.process_time()
    print(json.dumps({"seconds": elapsed, "busy_seconds": busy, "peak_bytes": peak_bytes, "shape": shape}))


def main() -> None:
    """Write, read and print the table."""
    parser = argparse.ArgumentParser(description=(__doc__ or "").splitlines()[0])
    parser.add_argument("--steps", type=int, default=3000)
    parser.add_argument("--read", type=Path, help=argparse.SUPPRESS)
    options = parser.parse_args()
    if options.read:
        read_one(options.read)
        return
    counts_SLE = counts(options.steps)
    print(f"{'format':<18} {'file MiB':>9} {'seconds':>8} {'x numpy':>8} {'CPU':>6} {'peak GiB':>9}  read as")
    baseline = None
    for name, write in WRITERS.items():
        with tempfile.TemporaryDirectory() as folder:
            path = write(Path(folder), counts_SLE)
            size = sum(file.stat().st_size for file in Path(folder).iterdir()) / 2**20
            command = [sys.executable, "-m", "benchmarks.manifests", "--read", str(path)]
            found = json.loads(subprocess.run(command, check=True, capture_output=True, text=True).stdout)
        baseline = baseline or found["seconds"]
        shape = " x ".join(map(str, found["shape"]))
        ratio, peak = found["seconds"] / baseline, found["peak_bytes"] / 2**30
        columns = f"{found['seconds']:>8.2f} {ratio:>8.1f} {found['busy_seconds']:>6.2f} {peak:>9.2f}"
        print(f"{name:<18} {size:>9.0f} {columns}  {shape}")


if __name__ == "__main__":
    main()
