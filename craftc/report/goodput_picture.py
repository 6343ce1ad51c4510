"""Goodput and KV cache against replicas per GPU, as a drawing."""

from __future__ import annotations

from collections.abc import Sequence
from pathlib import Path

from craftc.errors import BadInput
from craftc.files.atomic_write import atomic_file
from craftc.serving.goodput_curve import GoodputCurve
from craftc.serving.memory import GIB

_KINDS = {".svg": {"Date": None}, ".png": {"Software": None}}
"""Kinds of pictures by suffix, and what keeps their bytes the same each time."""

_HEADROOM = 1.1
"""Height of an axis over its largest number."""


def check_picture(path: Path) -> None:
    """Raise BadInput unless the name of the file says which kind of picture to write."""
    if path.suffix.lower() not in _KINDS:
        raise BadInput(f"{path}: a picture is written as {' or '.join(_KINDS)}; end the name of the file with one")


def draw_goodput(curves: Sequence[GoodputCurve], path: Path) -> None:
    """Write the drawing to `path`, .svg or .png, whole or not at all; same curves, same bytes.

    curves: at least one; the first one's choice and band are marked, and its ceiling and EPLB are lines.

    Raises BadInput for another suffix, or if the file cannot be written.
    """
    import matplotlib
    from matplotlib.figure import Figure

    check_picture(path)
    with matplotlib.rc_context({"svg.hashsalt": "craftc", "svg.fonttype": "none", "font.size": 9}):
        figure = Figure(figsize=(7.2, 4.4), layout="constrained")
        axis = figure.subplots()
        memory = axis.twinx()
        for number, curve in enumerate(curves):
            _draw_curve(axis, memory, curve, f"C{number}")
        _draw_choice(axis, curves[0])
        # Numbers that are tried double, from 1 on, and 0 has no logarithm.
        counts = sorted({point.replicas_per_gpu for curve in curves for point in curve.points})
        axis.set_xscale("symlog", linthresh=1, base=2)
        axis.set_xticks(counts, [str(count) for count in counts], minor=False)
        axis.set_xticks([], minor=True)
        axis.set_xlim(-0.1, 1.1 * max(1, counts[-1]))
        axis.set_xlabel("replicas per GPU, all layers together")
        axis.set_ylabel("goodput, requests/s (closed form)")
        axis.set_ylim(0, _HEADROOM * max(curves[0].ceiling.goodput, axis.get_ylim()[1]))
        memory.set_ylabel("KV cache per GPU, GiB (dotted)")
        memory.set_ylim(0, _HEADROOM * memory.get_ylim()[1])
        axis.grid(alpha=0.3)
        axis.legend(loc="lower left")
        kind = path.suffix.lower()
        with atomic_file(path) as temporary:
            figure.savefig(temporary, format=kind.removeprefix("."), dpi=150, metadata=_KINDS[kind])


def _draw_curve(axis, memory, curve: GoodputCurve, color: str) -> None:  # type: ignore[no-untyped-def]
    counts = [point.replicas_per_gpu for point in curve.points]
    axis.plot(counts, [point.worth.goodput for point in curve.points], marker=".", color=color, label=curve.planner)
    kept = [max(0.0, point.worth.kv_bytes) / GIB for point in curve.points]
    memory.plot(counts, kept, linestyle=":", color=color)


def _draw_choice(axis, curve: GoodputCurve) -> None:  # type: ignore[no-untyped-def]
    chosen = next(point for point in curve.points if point.replicas_per_gpu == curve.chosen)
    axis.axvspan(*curve.band, color="C2", alpha=0.15, label="within 1% of the best")
    axis.plot([curve.chosen], [chosen.worth.goodput], "o", color="C3", label=f"chosen: {curve.chosen} per GPU")
    axis.axhline(curve.ceiling.goodput, color="0.4", linestyle="--", label="ceiling: perfect balance, no memory")
    axis.axhline(curve.eplb.goodput, color="0.4", linestyle="-.", label="EPLB as published")
