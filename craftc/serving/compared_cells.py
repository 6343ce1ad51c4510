"""The cells of a table of measurements that are compared with predictions.

Times to the first token are compared up to 70% of the rate at saturation only: beyond, they are mostly queue.
"""

from __future__ import annotations

from collections.abc import Mapping, Sequence
from dataclasses import dataclass, replace

import numpy as np

from craftc.errors import BadInput
from craftc.serving.arm import Arm
from craftc.serving.cluster import Cluster
from craftc.serving.measurements import QUANTITIES, Measurement
from craftc.serving.memory import GIB
from craftc.serving.predictions import QueueFactors, log_ratio, predicted, queue_factors
from craftc.serving.saturation import saturation
from craftc.serving.serving_model import ServingModel

_QUEUE_SHARE = 0.7
"""Share of the rate at saturation up to which times to the first token are compared."""
_STEADY_SHARE = 0.95
"""Share of the rate at saturation up to which other rows are simulated: beyond, queues grow for as long as a run
lasts."""


@dataclass(frozen=True)
class Cell:
    """A measured cell."""

    row: Measurement
    """Its row."""
    quantity: str
    """Its column, one of those in `QUANTITIES`."""

    @property
    def measured(self) -> float:
        """What was measured, in the column's unit, above 0."""
        return float(getattr(self.row, self.quantity))


@dataclass(frozen=True, eq=False)
class Runs:
    """The arms that were measured, and what the event simulation changes for every row."""

    server: ServingModel
    """Model and workload; its cluster does not matter."""
    arms: Mapping[tuple[str, float], Arm]
    """By name and replicas per GPU, one for every row."""
    factors: Mapping[Measurement, QueueFactors]
    """Rows that are missing have none."""

    def on(self, cluster: Cluster) -> dict[tuple[str, float], Arm]:
        """The arms on a cluster."""
        server = replace(self.server, cluster=cluster)
        return {key: arm.on(server) for key, arm in self.arms.items()}

    def predictions(self, cells: Sequence[Cell], cluster: Cluster) -> list[float]:
        """What the model expects of every cell, in its column's unit; at most 0 where no request fits the KV cache."""
        arms = self.on(cluster)
        timed = {arm_key(cell.row) for cell in cells if cell.quantity != "kv_tokens"}
        idle = saturation(next(iter(arms.values())).times, 0)
        reached = {key: saturation(arm.times, arm.requests) if key in timed else idle for key, arm in arms.items()}
        none = QueueFactors()
        return [
            predicted(cell.quantity, cell.row, arms[key], reached[key], self.factors.get(cell.row, none))
            for cell in cells
            for key in [arm_key(cell.row)]
        ]

    def errors(self, cells: Sequence[Cell], cluster: Cluster) -> np.ndarray:
        """Log ratio of prediction and measurement of every cell."""
        expected = self.predictions(cells, cluster)
        return np.array([log_ratio(value, cell.measured) for value, cell in zip(expected, cells, strict=True)])

    def requeued(self, cells: Sequence[Cell], cluster: Cluster) -> Runs:
        """The same, with the event simulation on a cluster."""
        arms = self.on(cluster)
        queued = {cell.row for cell in cells if cell.quantity == "ttft_ms"}
        rows = dict.fromkeys(cell.row for cell in cells if cell.quantity in ("ttft_ms", "itl_ms"))
        factors = {
            row: queue_factors(row, arms[arm_key(row)], _QUEUE_SHARE if row in queued else _STEADY_SHARE)
            for row in rows
        }
        return replace(self, factors=factors)


def arm_key(row: Measurement) -> tuple[str, float]:
    """Name and replicas per GPU."""
    return row.arm, row.replicas_per_gpu


def comparable(measurements: Sequence[Measurement], server: ServingModel) -> tuple[list[Cell], list[str]]:
    """The cells that the model has a prediction for, and a line for every column that it has none for."""
    work, shape = server.workload, server.shape
    partly = any(window.bytes_per_token for window in shape.windows) or shape.state_bytes > 0
    no_tokens = work.phase == "prefill" or (work.phase == "mixed" and work.output == 1)
    reasons = {
        "ttft_ms": "a server that only decodes does not prefill" if work.phase == "decode" else None,
        "itl_ms": "no request gets more than one token" if no_tokens else None,
        "kv_tokens": "some layers keep part of a context only, and servers count their tokens differently"
        if partly or not shape.kv_bytes_per_token
        else None,
    }
    cells, left = [], dict.fromkeys(reasons, 0)
    for row in measurements:
        for quantity in QUANTITIES:
            if getattr(row, quantity) is None:
                continue
            if reasons.get(quantity):
                left[quantity] += 1
                continue
            cells.append(Cell(row, quantity))
    return cells, [f"{name} left out ({count} cells): {reasons[name]}" for name, count in left.items() if count]


def unqueued(cells: Sequence[Cell], runs: Runs, cluster: Cluster) -> tuple[list[Cell], list[str]]:
    """`cells` without times to the first token near saturation, and a line that names those left out.

    Saturation is what was measured of the arm, or else predicted on `cluster`.
    """
    rates = {key: saturation(arm.times, arm.requests).rate for key, arm in runs.on(cluster).items()}
    full = [cell for cell in cells if cell.quantity == "throughput" and cell.row.saturated]
    for key in {arm_key(cell.row) for cell in full}:
        rates[key] = max(cell.measured for cell in full if arm_key(cell.row) == key)

    def queues(cell: Cell) -> bool:
        row = cell.row
        if cell.quantity != "ttft_ms":
            return False
        return row.saturated or row.request_rate is None or row.request_rate > _QUEUE_SHARE * rates[arm_key(row)]

    lines = [str(cell.row.line) for cell in cells if queues(cell)]
    if not lines:
        return list(cells), []
    return [cell for cell in cells if not queues(cell)], [
        f"ttft_ms left out on {'line' if len(lines) == 1 else 'lines'} {', '.join(lines)}: above {_QUEUE_SHARE:.0%} of "
        f"the rate at saturation, or without request_rate, it is mostly queue"
    ]


def require_room(cells: Sequence[Cell], runs: Runs, cluster: Cluster) -> None:
    """Raise BadInput, naming the row, if a server was measured that has no memory for a request."""
    arms = runs.on(cluster)
    for row in dict.fromkeys(cell.row for cell in cells):
        arm = arms[arm_key(row)]
        if arm.requests < 1:
            missing = (arm.cache.request_bytes - arm.cache.bytes_per_gpu) / GIB
            raise BadInput(
                f"{row.where}: {row.arm} with {row.replicas_per_gpu:g} replicas per GPU was measured, but on cluster "
                f"{cluster.name} it is {missing:.2f} GiB short of KV cache for a request: give kv_tokens, or the "
                f"server's own memory_fraction in a cluster file"
            )
