"""Balancedness on held-out steps against replicas per GPU: one panel a trace, one line per entry."""

from __future__ import annotations

from collections.abc import Sequence
from dataclasses import dataclass
from pathlib import Path

from matplotlib.figure import Figure

_COLUMNS = 3
_STYLES = {
    "contiguous": {"color": "0.6", "linestyle": ":"},
    "EPLB": {"color": "C1", "linestyle": "--", "marker": "s"},
    "CRAFT": {"color": "C0", "marker": "."},
    "reference": {"color": "C2", "marker": "."},
    "craftc": {"color": "C3", "marker": "."},
}


@dataclass(frozen=True)
class Panel:
    """One trace."""

    title: str
    lines: dict[str, tuple[tuple[float, float], ...]]
    """By entry: replicas per GPU and balancedness, ascending; an entry with a single point is drawn as a level."""
    mark: tuple[float, float]
    """What `--budget auto` chooses."""


def draw_chart(panels: Sequence[Panel], path: Path) -> None:
    """Write `path` as PNG; same panels, same bytes."""
    columns = min(_COLUMNS, len(panels))
    rows = -(-len(panels) // columns)
    figure = Figure(figsize=(3.6 * columns + 0.4, 3.0 * rows + 0.5), layout="constrained")
    axes = figure.subplots(rows, columns, squeeze=False).ravel()
    for axis, panel in zip(axes, panels, strict=False):
        for entry, points in panel.lines.items():
            if len(points) == 1:
                axis.axhline(points[0][1], label=entry, **_STYLES[entry])
            else:
                axis.plot(*zip(*points, strict=True), label=entry, **_STYLES[entry])
        axis.plot(*panel.mark, "*", color="C3", markersize=13, markeredgecolor="k", label="craftc, --budget auto")
        axis.set_title(panel.title, fontsize=9)
        axis.set_xscale("symlog", base=2, linthresh=1)
        axis.xaxis.set_major_formatter("{x:.0f}")
        axis.set_xlim(left=0)
        axis.grid(alpha=0.3)
    for axis in axes[len(panels) :]:
        axis.remove()
    figure.supxlabel("replicas per GPU, all layers together", fontsize=10)
    figure.supylabel("balancedness, held-out steps", fontsize=10)
    figure.legend(
        *axes[0].get_legend_handles_labels(), loc="outside upper center", ncols=2 * columns, frameon=False, fontsize=9
    )
    figure.savefig(path, format="png", dpi=100, metadata={"Software": None})
