"""Efficiencies of the shipped clusters against the tables they come from: NVIDIA's aiconfigurator-core (Apache-2.0).

Run from the repository root: `python -m benchmarks.cluster_tables`. It needs the optional extra `tables` (0.5 GB); the
presets in craftc/serving/presets hold what was found with version 0.12.0.

All rows are SGLang's, of matrices of DeepSeek's shape (hidden 7168, experts 2048 wide, top-8), one GPU holding all
experts, tokens balanced. Streaming is taken with 384 experts (Kimi-K2): for 256 experts in float8, SGLang 0.5.14's rows
come to 1.7 times the bandwidth of the memory, so not all of their experts were read.
"""

from __future__ import annotations

import sys
from collections.abc import Callable, Sequence
from dataclasses import dataclass
from importlib.util import find_spec
from pathlib import Path
from typing import Any

from craftc.errors import BadInput
from craftc.report.text_table import text_table
from craftc.serving.cluster import Chip, Cluster, read_cluster

Row = dict[str, Any]
"""One measurement, by column."""

_HIDDEN, _WIDTH, _TOP_K = 7168, 2048, 8
_MATRICES = ((1536, 7168), (7168, 16384), (4096, 7168), (7168, 2048))
"""Outputs and inputs of those of DeepSeek's matrices that the tables hold: attention, shared expert."""
_CHUNK = 4096
"""Tokens of a prefill step on one rank."""
_FEW_TOKENS = 128
"""Most tokens at which reading weights takes longer than multiplying."""
_INSTALL = "aiconfigurator-core is not installed: pip install 'craftc[tables]', or leave the presets as they are"


@dataclass(frozen=True)
class Source:
    """Where the figures of a preset come from."""

    preset: str
    """Name of the cluster."""
    system: str
    """Folder of the chip in the tables."""
    version: str
    """SGLang's version."""
    kind: str
    """Type of the matrices as the tables name it."""
    dtype: str
    """The same as clusters name it."""
    weight_bytes: int
    """Bytes of a weight."""


SOURCES = (
    Source("a100-80g-efa", "a100_sxm", "0.5.10", "bfloat16", "bfloat16", 2),
    Source("a100-80g-ib", "a100_sxm", "0.5.10", "bfloat16", "bfloat16", 2),
    Source("h100-ib", "h100_sxm", "0.5.14", "fp8_block", "float8", 1),
    Source("h200-ib", "h200_sxm", "0.5.14", "fp8_block", "float8", 1),
    Source("b200-ib", "b200_sxm", "0.5.14", "fp8_block", "float8", 1),
)
"""MI300X is in no table."""


@dataclass(frozen=True)
class Found:
    """A figure from the tables."""

    value: float
    """The figure, in the unit of the cluster file."""
    row: str
    """Where it was found, and the measured speed."""


def expert_efficiency(rows: Sequence[Row], source: Source, chip: Chip) -> Found:
    """Best part of the peak over all numbers of tokens, 256 experts."""
    best = max(_expert_rows(rows, source, 256), key=lambda row: _expert_flops(row) / row["latency"])
    tflops = _expert_flops(best) / best["latency"] / 1e9
    row = f"{best['kernel_source']}, {best['num_tokens']} tokens, {tflops:.0f} TFLOP/s"
    return Found(tflops / chip.peak(source.dtype), row)


def streaming_efficiency(rows: Sequence[Row], source: Source, chip: Chip) -> Found:
    """Best part of the bandwidth where all 384 experts are read for few tokens each."""
    read = [
        row
        for row in _expert_rows(rows, source, 384)
        if row["num_tokens"] * _TOP_K >= 384 and row["num_tokens"] <= _FEW_TOKENS
    ]
    best = min(
        _some(read, f"{source.system} with 384 experts and 48 to {_FEW_TOKENS} tokens"), key=lambda row: row["latency"]
    )
    tb_per_s = 384 * 3 * _HIDDEN * _WIDTH * source.weight_bytes / best["latency"] / 1e9
    return Found(
        tb_per_s / chip.hbm_tb_per_s.value,
        f"{best['kernel_source']}, 384 experts, {best['num_tokens']} tokens, {tb_per_s:.2f} TB/s",
    )


def dense_efficiency(rows: Sequence[Row], source: Source, chip: Chip) -> Found:
    """Part of the peak over DeepSeek's matrices together, for one chunk of tokens."""
    chosen = [
        row
        for row in rows
        if row["gemm_dtype"] == source.kind and row["m"] == _CHUNK and (row["n"], row["k"]) in _MATRICES
    ]
    kept = _some(chosen, f"{source.system} with matrices of DeepSeek and {_CHUNK} tokens")
    tflops = sum(2 * row["m"] * row["n"] * row["k"] for row in kept) / sum(row["latency"] for row in kept) / 1e9
    return Found(
        tflops / chip.peak(source.dtype),
        f"{kept[0]['kernel_source']}, {len(kept)} matrices, {_CHUNK} tokens, {tflops:.0f} TFLOP/s",
    )


def all_to_all_latency_ms(rows: Sequence[Row]) -> Found:
    """Time of DeepEP's low-latency kernels for two tokens, mean of both directions, 8 nodes."""
    there, back = _low_latency(rows, 2)
    return Found((there + back) / 2000, f"{there:.0f} us there, {back:.0f} us back")


def network_efficiency(rows: Sequence[Row], nic_gbit_per_s: float) -> Found:
    """Part of a card's bandwidth that they reach with 256 tokens, mean of both directions, 8 nodes.

    Tokens go out in 8 bits with a scale for every 128 values, and come back in 16.
    """
    gb_per_s = [
        256 * _TOP_K * 7 / 8 * _HIDDEN * value_bytes / microseconds / 1e3
        for value_bytes, microseconds in zip((1 + 4 / 128, 2), _low_latency(rows, 256), strict=True)
    ]
    there, back = gb_per_s
    return Found((there + back) / 2 / (nic_gbit_per_s / 8), f"{there:.0f} GB/s there, {back:.0f} back")


def _low_latency(rows: Sequence[Row], tokens: int) -> tuple[float, float]:
    """Microseconds there and back on 8 nodes."""
    chosen = [
        row
        for row in rows
        if (row["node_num"], row["num_token"], row["hidden_size"], row["num_topk"], row["num_experts"])
        == (8, tokens, _HIDDEN, _TOP_K, 256)
    ]
    row = _some(chosen, f"DeepEP's low-latency kernels on 8 nodes with {tokens} tokens")[0]
    return row["dispatch_avg_t_us"], row["combine_avg_t_us"]


def comparison(data: Path) -> list[tuple[str, ...]]:
    """One row per figure of the presets: preset, figure, in the file, in the tables, where."""
    kinds: tuple[tuple[str, str, Callable[[Sequence[Row], Source, Chip], Found]], ...] = (
        ("expert_efficiency", "moe", expert_efficiency),
        ("dense_efficiency", "gemm", dense_efficiency),
        ("streaming_efficiency", "moe", streaming_efficiency),
    )
    lines = []
    for source in SOURCES:
        cluster = read_cluster(source.preset)
        for name, operator, find in kinds:
            table = data / source.system / operator / "sglang" / source.version / f"{operator}_perf.parquet"
            lines.append(_line(cluster, f"chip.{name}", find(_rows(table), source, cluster.chip)))
    table = data / "h100_sxm" / "comm" / "sglang" / "0.5.6.post2" / "wideep_deepep_ll_perf.parquet"
    cluster, rows = read_cluster("h100-ib"), _rows(table)
    lines.append(_line(cluster, "network.efficiency", network_efficiency(rows, cluster.network.nic_gbit_per_s.value)))
    lines.append(_line(cluster, "network.all_to_all_latency_ms", all_to_all_latency_ms(rows)))
    return lines


def main() -> int:
    """Print the comparison; 1 if the package is missing or a figure differs."""
    package, parquet = find_spec("aiconfigurator_core"), find_spec("pyarrow")
    if package is None or parquet is None or not package.submodule_search_locations:
        print(_INSTALL, file=sys.stderr)
        return 1
    try:
        lines = comparison(Path(package.submodule_search_locations[0]) / "systems" / "data")
    except BadInput as error:
        print(error, file=sys.stderr)
        return 1
    print(text_table(("preset", "figure", "in the file", "in the tables", "row"), lines))
    return int(any(line[2] != line[3] for line in lines))


def _line(cluster: Cluster, path: str, found: Found) -> tuple[str, ...]:
    in_file = dict(cluster.figures)[path].value
    return cluster.name, path, f"{in_file:.2f}", f"{found.value:.2f}", found.row


def _expert_rows(rows: Sequence[Row], source: Source, experts: int) -> list[Row]:
    wanted = {
        "moe_dtype": source.kind,
        "hidden_size": _HIDDEN,
        "inter_size": _WIDTH,
        "topk": _TOP_K,
        "num_experts": experts,
        "moe_tp_size": 1,
        "moe_ep_size": 1,  # rows of larger groups send the tokens of other GPUs to expert 0
        "distribution": "balanced",
    }
    chosen = [row for row in rows if all(row[name] == value for name, value in wanted.items())]
    return _some(chosen, f"{source.system} with {experts} experts in {source.kind}")


def _some(rows: list[Row], what: str) -> list[Row]:
    if not rows:
        raise BadInput(f"the tables have no rows of {what}: compare with aiconfigurator-core 0.12.0")
    return rows


def _expert_flops(row: Row) -> float:
    """Operations of a layer: three matrices per token and expert, a multiplication and an addition per weight."""
    return float(row["num_tokens"] * _TOP_K * 2 * 3 * _HIDDEN * _WIDTH)


def _rows(table: Path) -> list[Row]:
    if not table.is_file():
        raise BadInput(f"{table}: no such table: compare with aiconfigurator-core 0.12.0")
    from pyarrow.parquet import read_table  # only where the extra is installed

    rows: list[Row] = read_table(table).to_pylist()
    return rows


if __name__ == "__main__":
    sys.exit(main())
