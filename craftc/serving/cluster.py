"""Clusters: GPUs, nodes, network and settings of a server; every number has a source.

A cluster is a preset that comes with craftc, or a YAML file of the same form (presets/*.yaml are examples).
"""

from __future__ import annotations

import hashlib
import json
import math
import os
from collections.abc import Iterator
from dataclasses import dataclass, fields, is_dataclass, replace
from importlib import resources
from pathlib import Path
from typing import Any, Literal

from craftc.errors import BadInput, folded
from craftc.files.atomic_write import write_bytes
from craftc.files.outside_documents import read_bytes
from craftc.serving.cluster_file import close_match, part_content, read_part, written_part

_LARGEST = 1e9
"""Larger than any number of a cluster in its unit: what is beyond it is a typing mistake."""
_SMALLEST = 1e-9
"""Smaller than any number of a cluster in its unit, but for 0."""
_SAME_PEAK = {"float16": "bfloat16"}
"""Types that tensor cores multiply as fast as another one."""


@dataclass(frozen=True)
class Figure:
    """A number, and where it comes from."""

    value: float
    """The number; its unit is in the name of the field that holds it. Finite."""
    source: str
    """Where it comes from, one line, not empty; "assumed ..." if nobody measured it, "calibrated ..." if fitted."""

    def __post_init__(self) -> None:
        if isinstance(self.value, bool) or not isinstance(self.value, (int, float)) or not math.isfinite(self.value):
            raise BadInput(f"value must be a finite number, got {self.value!r}")
        object.__setattr__(self, "value", float(self.value))
        object.__setattr__(self, "source", _one_line("source", self.source))

    @property
    def origin(self) -> Literal["assumed", "calibrated", "stated"]:
        """What kind of source it is."""
        if self.source.startswith("assumed"):
            return "assumed"
        return "calibrated" if self.source.startswith("calibrated") else "stated"


@dataclass(frozen=True)
class WireCopies:
    """How often a token crosses the network, and where that comes from."""

    value: str
    """"expert": one copy for each of its experts; "node": one for each node that has any of them."""
    source: str
    """As in Figure."""

    def __post_init__(self) -> None:
        if self.value not in ("expert", "node"):
            raise BadInput(f"value must be expert or node, got {self.value!r}")
        object.__setattr__(self, "source", _one_line("source", self.source))


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
        given = tuple(field.name for field in fields(self) if getattr(self, field.name) is not None)
        _require_between(self, ("bfloat16", *given), _SMALLEST, _LARGEST)


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
        object.__setattr__(self, "name", _one_line("name", self.name))
        _require_between(self, ("hbm_gib", "hbm_tb_per_s"), _SMALLEST, _LARGEST)
        _require_between(self, ("expert_efficiency", "dense_efficiency", "streaming_efficiency"), _SMALLEST, 1)

    def peak(self, dtype: str) -> float:
        """Peak in 10^12 operations per second. Raises BadInput for a type that the chip has no peak for."""
        name = _SAME_PEAK.get(dtype, dtype)
        peaks = {field.name: getattr(self.peak_tflops, field.name) for field in fields(self.peak_tflops)}
        figure: Figure | None = peaks.get(name)
        if figure is None:
            known = ", ".join(other for other, peak in peaks.items() if peak is not None)
            raise BadInput(
                f"{self.name} has no peak for {dtype} (it has {known}): add chip.peak_tflops.{name} to a cluster file, "
                f"with the peak of the type that the server multiplies in instead"
            )
        return figure.value


@dataclass(frozen=True)
class NodeSpec:
    """One machine."""

    gpus: Figure
    """GPUs, a whole number, at least 1."""
    link_gb_per_s: Figure
    """Bandwidth of NVLink or xGMI per GPU and direction in 10^9 bytes per second, above 0."""

    def __post_init__(self) -> None:
        _require_count(self, "gpus")
        _require_between(self, ("link_gb_per_s",), _SMALLEST, _LARGEST)


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
        _require_between(self, ("nic_gbit_per_s",), _SMALLEST, _LARGEST)
        _require_count(self, "gpus_per_nic")
        _require_between(self, ("efficiency",), _SMALLEST, 1)
        _require_between(self, ("all_to_all_latency_ms",), 0, _LARGEST)
        _require_between(self, ("overlap",), 0, 1)


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
        _require_between(self, ("memory_fraction",), _SMALLEST, 1)
        _require_between(self, ("buffer_gib_per_rank",), 0, _LARGEST)
        _require_count(self, "tensor_parallel")
        _require_between(self, ("sync",), 0, 1)


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
        object.__setattr__(self, "name", _one_line("name", self.name))
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
    """Write a cluster file that reads back as an equal value, whole or not at all. Raises BadInput if that fails."""
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


def _require_between(part: Any, names: tuple[str, ...], low: float, high: float) -> None:
    for name in names:
        figure = getattr(part, name)
        if not isinstance(figure, Figure):
            raise BadInput(f"{name} must be a Figure(value, source), got {figure!r}")
        if not low <= figure.value <= high:
            bounds = f"above 0 and at most {high:g}" if low == _SMALLEST else f"between {low:g} and {high:g}"
            raise BadInput(f"{name} must be {bounds}, got {figure.value:g}")


def _require_count(part: Any, name: str) -> None:
    _require_between(part, (name,), 1, _LARGEST)
    count = getattr(part, name).value
    if not count.is_integer():
        raise BadInput(f"{name} must be a whole number, got {count:g}")


def _one_line(name: str, text: str) -> str:
    line = folded(text) if isinstance(text, str) else ""
    if not line or not line.isprintable():
        raise BadInput(f"{name} must be a line of printable text, got {text!r}")
    return line
