"""Clusters: GPUs, nodes, network and settings of a server; every number has a source.

A cluster is a preset that comes with craftc, or a YAML file of the same form (presets/*.yaml are examples).
"""

from __future__ import annotations

import hashlib
import json
import os
from collections.abc import Iterator
from dataclasses import dataclass, fields, is_dataclass, replace
from importlib import resources
from pathlib import Path
from typing import Any

from craftc.errors import BadInput
from craftc.files.atomic_write import write_bytes
from craftc.files.outside_documents import read_bytes
from craftc.serving.cluster_figures import (
    LARGEST,
    SMALLEST,
    Figure,
    WireCopies,
    one_line,
    require_between,
    require_count,
)
from craftc.serving.cluster_file import close_match, part_content, read_part, written_part

_SAME_PEAK = {"float16": "bfloat16"}
"""Types that tensor cores multiply as fast as another one."""


@dataclass(frozen=True)
class PeakTflops:
    """Peaks of the tensor cores in dense products, without sparsity, in 10^12 operations per second, above 0."""

    bfloat16: Figure
    """bfloat16 and float16."""
    float8: Figure | None = None
    """None if the chip cannot."""
    int8: Figure | None = None
    """None if the chip cannot."""
    float4: Figure | None = None
    """None if the chip cannot."""

    def __post_init__(self) -> None:
        require_between(self, ("bfloat16", *self.given), SMALLEST, LARGEST)

    @property
    def given(self) -> dict[str, Figure]:
        """The peaks that the chip has, by type."""
        peaks = {field.name: getattr(self, field.name) for field in fields(self)}
        return {name: peak for name, peak in peaks.items() if peak is not None}


@dataclass(frozen=True)
class Chip:
    """One GPU."""

    name: str
    """Its name, one line."""
    hbm_gib: Figure
    """Memory in GiB, above 0."""
    hbm_tb_per_s: Figure
    """Bandwidth of the memory in 10^12 bytes per second, above 0."""
    peak_tflops: PeakTflops
    """Peaks by type."""
    expert_efficiency: Figure
    """Part of the peak that fused products of experts reach, above 0 and at most 1."""
    dense_efficiency: Figure
    """Part of the peak that other products, and attention, reach in prefill, above 0 and at most 1."""
    streaming_efficiency: Figure
    """Part of the bandwidth that reading weights reaches, above 0 and at most 1."""

    def __post_init__(self) -> None:
        object.__setattr__(self, "name", one_line("name", self.name))
        require_between(self, ("hbm_gib", "hbm_tb_per_s"), SMALLEST, LARGEST)
        require_between(self, ("expert_efficiency", "dense_efficiency", "streaming_efficiency"), SMALLEST, 1)

    def multiplies(self, dtype: str) -> bool:
        """Whether it has a peak for a type."""
        return _SAME_PEAK.get(dtype, dtype) in self.peak_tflops.given

    def peak(self, dtype: str) -> float:
        """Peak in 10^12 operations per second. Raises BadInput for a type that the chip has no peak for."""
        name, given = _SAME_PEAK.get(dtype, dtype), self.peak_tflops.given
        if name not in given:
            raise BadInput(
                f"{self.name} has no peak for {dtype} (it has {', '.join(given)}): add chip.peak_tflops.{name} to a "
                f"cluster file, with the peak of the type that the server multiplies in instead"
            )
        return given[name].value


@dataclass(frozen=True)
class NodeSpec:
    """One machine."""

    gpus: Figure
    """GPUs, a whole number, at least 1."""
    link_gb_per_s: Figure
    """Bandwidth of NVLink or xGMI per GPU and direction in 10^9 bytes per second, above 0."""

    def __post_init__(self) -> None:
        require_count(self, "gpus")
        require_between(self, ("link_gb_per_s",), SMALLEST, LARGEST)


@dataclass(frozen=True)
class Network:
    """The network between machines."""

    nic_gbit_per_s: Figure
    """Bandwidth of a network card per direction in 10^9 bits per second, above 0; the sum, if a GPU has several."""
    gpus_per_nic: Figure
    """GPUs that share a card, a whole number, at least 1; divides the GPUs of a node."""
    efficiency: Figure
    """Part of that bandwidth that an all-to-all reaches, above 0 and at most 1."""
    all_to_all_latency_ms: Figure
    """Time of an all-to-all of one layer in one direction without its bytes, in milliseconds, at least 0."""
    wire_copies: WireCopies
    """Copies of a token on the wire."""
    overlap: Figure
    """Part of the all-to-all that is hidden behind computation, 0 to 1."""

    def __post_init__(self) -> None:
        require_between(self, ("nic_gbit_per_s",), SMALLEST, LARGEST)
        require_count(self, "gpus_per_nic")
        require_between(self, ("efficiency",), SMALLEST, 1)
        require_between(self, ("all_to_all_latency_ms",), 0, LARGEST)
        require_between(self, ("overlap",), 0, 1)


@dataclass(frozen=True)
class Server:
    """Settings of the server."""

    memory_fraction: Figure
    """Part of the memory for weights, buffers and KV cache, above 0 and at most 1."""
    buffer_gib_per_rank: Figure
    """Buffers on every GPU for each data-parallel rank of the server, in GiB, at least 0."""
    tensor_parallel: Figure
    """GPUs that share the attention of a data-parallel rank, a whole number, at least 1; divides the GPUs of a node."""
    sync: Figure
    """How far data-parallel ranks prefill in the same steps: 0 independently, 1 all together."""

    def __post_init__(self) -> None:
        require_between(self, ("memory_fraction",), SMALLEST, 1)
        require_between(self, ("buffer_gib_per_rank",), 0, LARGEST)
        require_count(self, "tensor_parallel")
        require_between(self, ("sync",), 0, 1)


@dataclass(frozen=True)
class Cluster:
    """Everything that the time and memory of a server depend on, besides the model."""

    name: str
    """Its name, one line."""
    chip: Chip
    """The GPUs, all alike."""
    node: NodeSpec
    """The machines, all alike."""
    network: Network
    """Between machines."""
    server: Server
    """Settings."""

    def __post_init__(self) -> None:
        object.__setattr__(self, "name", one_line("name", self.name))
        gpus = self.node.gpus.value
        for path in ("network.gpus_per_nic", "server.tensor_parallel"):
            part = dict(self.figures)[path].value
            if gpus % part:
                raise BadInput(f"{path}: {part:g} does not divide the {gpus:g} GPUs of a node (node.gpus)")

    @property
    def figures(self) -> tuple[tuple[str, Figure], ...]:
        """Every number with its dotted path, such as `server.sync`, in the order of the fields."""
        return tuple(_figures(self, ""))

    @property
    def fingerprint(self) -> str:
        """sha256, hex, of names, numbers and sources."""
        content = json.dumps(part_content(self), sort_keys=True)
        return hashlib.sha256(content.encode()).hexdigest()

    def with_figure(self, path: str, figure: Figure) -> Cluster:
        """This cluster with another figure at a dotted path. Raises BadInput for an unknown path, or a wrong value."""
        known = [name for name, _ in self.figures]
        if path not in known:
            raise BadInput(f"cluster {self.name} has no figure {path!r}{close_match(path, known)}")
        changed: Cluster = _replaced(self, path.split("."), figure)
        return changed


def read_cluster(name_or_path: str | Path) -> Cluster:
    """A preset by its name, or a cluster file (YAML).

    Raises BadInput for a name that is neither, and, naming the key, for anything but a sound cluster file.
    """
    name, presets = str(name_or_path), preset_names()
    if name in presets:
        return read_part(Cluster, (_presets() / f"{name}.yaml").read_bytes(), f"preset {name}")
    if not os.path.isfile(name):
        raise BadInput(
            f"cluster {name!r} is neither a file nor a preset{close_match(name, presets)} "
            f"(presets: {', '.join(presets)})"
        )
    return read_part(Cluster, read_bytes(Path(name)), name)


def write_cluster(cluster: Cluster, path: str | Path) -> None:
    """Write a cluster file that reads back as an equal value.

    cluster: what to write.
    path: an existing file is replaced, whole or not at all.

    Raises BadInput if it cannot be written.
    """
    write_bytes(Path(path), written_part(cluster))


def preset_names() -> tuple[str, ...]:
    """Names of the clusters that come with craftc."""
    names = (file.name for file in _presets().iterdir())
    return tuple(sorted(name.removesuffix(".yaml") for name in names if name.endswith(".yaml")))


def _presets() -> Any:
    return resources.files("craftc.serving") / "presets"


def _figures(part: Any, prefix: str) -> Iterator[tuple[str, Figure]]:
    for field in fields(part):
        value = getattr(part, field.name)
        if isinstance(value, Figure):
            yield f"{prefix}{field.name}", value
        elif is_dataclass(value):
            yield from _figures(value, f"{prefix}{field.name}.")


def _replaced(part: Any, names: list[str], figure: Figure) -> Any:
    first, *rest = names
    return replace(part, **{first: _replaced(getattr(part, first), rest, figure) if rest else figure})
