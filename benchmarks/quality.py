"""Balancedness of every planner on recorded and synthetic traces, held out and on the plan's own steps, with a bound.

Run from the repository root: `python -m benchmarks.quality [TRACE.npz ...] [--gpus G] [--nodes N] [--sum-steps K]
[--evenly N] [--png FILE]`. Without a trace: the traces in `../shared/traces`, where present, and a synthetic one.

Plans are made on the even steps. "held out" is judged on the odd ones, "own steps" on the even ones. R is replicas per
GPU, in brackets where fewer or more were spent. The bound holds for every placement with as many replicas in every
layer as craftc's plan with R=8. All entries of a trace come from one run.

Axes: S steps, L layers.
"""

from __future__ import annotations

import argparse
import sys
import time
from collections.abc import Callable, Iterator, Sequence
from dataclasses import dataclass, replace
from pathlib import Path

import numpy as np

from benchmarks.quality_chart import Panel, draw_chart
from benchmarks.quality_traces import RECORDED, Trace, known_traces, trace_of
from benchmarks.reference_search import ReferencePlanner
from craftc.errors import CraftcError
from craftc.solvers.allocation.auto_budget import budget_curve
from craftc.solvers.bound import balancedness_bounds
from craftc.solvers.planners.contiguous import contiguous_placements
from craftc.solvers.planners.eplb import eplb_placements, uniform_replicas
from craftc.solvers.planners.registry import planner_for
from craftc.solvers.problem import Placement, Planner, PlanningProblem
from craftc.solvers.replay import placements_of, replay
from craftc.topology import Topology

_IN_TABLE = (0, 4, 8)
"""Replicas per GPU in the table."""
_COLUMNS = (
    ("contiguous", "contiguous", 0),
    ("placement only", "CRAFT", 0),
    ("EPLB", "EPLB", 0),
    ("CRAFT R=8", "CRAFT", 8),
    ("reference R=0", "reference", 0),
    ("reference R=8", "reference", 8),
    ("craftc R=0", "craftc", 0),
    ("craftc R=4", "craftc", 4),
    ("craftc R=8", "craftc", 8),
    ("bound R=8", "bound", 8),
)
"""Head, entry, replicas per GPU allowed (of EPLB always its least)."""


@dataclass(frozen=True)
class Point:
    """One plan, or a bound, judged."""

    replicas_L: tuple[int, ...]
    replicas_per_gpu: float
    """Spent, all layers together."""
    held_out: float
    """Balancedness on the odd steps, in 0..1."""
    own_steps: float
    """Balancedness on the even steps, in 0..1."""


@dataclass(frozen=True)
class Entry:
    """One way to plan, at several budgets."""

    points: dict[int, Point]
    """By replicas per GPU allowed, ascending."""
    seconds: float = 0.0
    """From loads to the placements with R=8, or EPLB's least."""
    deviation: float = 0.0
    """Mean over layers of |what the curves promise - what the plan reaches|, own steps, R=8."""
    chosen: int = 0
    """Replicas per GPU that `--budget auto` takes."""


@dataclass(frozen=True, eq=False)
class Quality:
    """Everything measured on one trace."""

    trace: Trace
    entries: dict[str, Entry]
    """By name."""


def main(arguments: Sequence[str]) -> None:
    options = parse(arguments)
    try:
        traces = chosen_traces(options)
        measured = [measure(trace) for trace in announced(traces)]
    except CraftcError as error:
        raise SystemExit(str(error)) from None
    print("\n".join([*quality_table(measured), "", *planning_table(measured)]))
    if options.png:
        draw_chart([panel(quality) for quality in measured], options.png)


def parse(arguments: Sequence[str]) -> argparse.Namespace:
    parser = argparse.ArgumentParser(
        prog="python -m benchmarks.quality", description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter
    )
    parser.add_argument("traces", nargs="*", type=Path, metavar="TRACE.npz")
    parser.add_argument("--gpus", type=int, default=8, help="for the traces given")
    parser.add_argument("--nodes", type=int, default=1, help="for the traces given")
    parser.add_argument("--sum-steps", type=int, default=1, help="consecutive steps summed into one")
    parser.add_argument("--evenly", type=int, default=10**9, help="steps kept after that, evenly spaced")
    parser.add_argument("--png", type=Path, help="draw balancedness against replicas per GPU")
    return parser.parse_args(arguments)


def chosen_traces(options: argparse.Namespace) -> Sequence[Trace] | Iterator[Trace]:
    """Those given, or else the known ones. Raises BadInput for a file that cannot be used."""
    if not options.traces:
        return known_traces(RECORDED)
    topology = Topology(options.gpus, options.nodes)
    return [trace_of(path, topology, options.sum_steps, options.evenly) for path in options.traces]


def announced(traces: Sequence[Trace] | Iterator[Trace]) -> Iterator[Trace]:
    """The traces, each named on stderr when its turn comes."""
    for trace in traces:
        steps, layers, experts = trace.counts_SLE.shape
        print(f"{trace.name}: {steps} x {layers} x {experts}, {trace.topology.gpus} GPUs", file=sys.stderr, flush=True)
        yield trace


def measure(trace: Trace) -> Quality:
    """Plan on the even steps with every entry and every budget, and judge on even and odd ones."""
    problem = PlanningProblem(trace.counts_SLE[::2], trace.topology, (1,) * trace.counts_SLE.shape[1], budget_bytes=0)
    entries = {
        "contiguous": Entry({0: judged(trace, contiguous_placements(problem))}),
        "EPLB": eplb_entry(trace, problem),
        "CRAFT": planned(trace, problem, lambda: planner_for("craft", problem)),
        "reference": planned(trace, problem, lambda: ReferencePlanner.search(problem)),
        "craftc": planned(trace, problem, lambda: planner_for("craftc", problem)),
    }
    full = entries["craftc"].points[_IN_TABLE[-1]]
    held_out, own_steps = (
        float(balancedness_bounds(trace.counts_SLE[half::2], full.replicas_L, trace.topology.gpus).mean())
        for half in (1, 0)
    )
    bound = replace(full, held_out=held_out, own_steps=own_steps)
    return Quality(trace, {**entries, "bound": Entry({_IN_TABLE[-1]: bound})})


def planned(trace: Trace, problem: PlanningProblem, make: Callable[[], Planner]) -> Entry:
    """A planner at every budget; `make` belongs to its time."""
    started = time.perf_counter()
    planner = make()
    made_s = time.perf_counter() - started
    gpus, layers = trace.topology.gpus, problem.layers
    everything = replace(problem, budget_bytes=layers * gpus)
    widest = planner.estimate(everything)
    chosen = budget_curve(widest, problem.expert_bytes_L, gpus, most_bytes=everything.budget_bytes).chosen
    points, plans, seconds, curves_of = {}, {}, {}, {}
    for budget in budgets(problem, chosen):
        started = time.perf_counter()
        allowed = replace(problem, budget_bytes=budget * gpus)
        curves = curves_of[budget] = planner.estimate(allowed)
        plans[budget] = planner.place(allowed, planner.allocate(allowed, curves).replicas_L)
        seconds[budget] = made_s + time.perf_counter() - started
        points[budget] = judged(trace, plans[budget])
    full = _IN_TABLE[-1]
    curves = curves_of[full]
    promised_L = [
        np.interp(count, curves.candidates_C, balancedness_C)
        for count, balancedness_C in zip(points[full].replicas_L, curves.balancedness_LC, strict=True)
    ]
    reached_L = replay(problem.counts_SLE, plans[full]).mean(axis=0)
    return Entry(points, seconds[full], float(np.abs(reached_L - promised_L).mean()), chosen)


def budgets(problem: PlanningProblem, chosen: int) -> tuple[int, ...]:
    """Replicas per GPU to plan with: none, doubling up to one in every layer on every GPU, the table's, chosen."""
    doubling = {2**power for power in range(problem.layers.bit_length())}
    return tuple(sorted({0, *doubling, problem.layers, *_IN_TABLE, chosen}))


def eplb_entry(trace: Trace, problem: PlanningProblem) -> Entry:
    """EPLB as published with its least uniform number of replicas, and with one more on every GPU in every layer."""
    least, gpus = uniform_replicas(problem.experts, problem.topology), trace.topology.gpus
    started = time.perf_counter()
    plans = [eplb_plan(problem, least)]
    seconds = time.perf_counter() - started
    if least + gpus <= problem.experts * (gpus - 1):
        plans.append(eplb_plan(problem, least + gpus))
    return Entry({number: judged(trace, plan) for number, plan in enumerate(plans)}, seconds)


def eplb_plan(problem: PlanningProblem, replicas: int) -> tuple[Placement, ...]:
    return placements_of(eplb_placements(problem.counts_SLE.sum(axis=0), replicas, problem.topology))


def judged(trace: Trace, placements: Sequence[Placement]) -> Point:
    experts = trace.counts_SLE.shape[2]
    replicas_L = tuple(sum(map(len, placement)) - experts for placement in placements)
    balancedness_S = replay(trace.counts_SLE, placements).mean(axis=1)
    own_steps, held_out = float(balancedness_S[::2].mean()), float(balancedness_S[1::2].mean())
    return Point(replicas_L, sum(replicas_L) / trace.topology.gpus, held_out, own_steps)


def quality_table(measured: Sequence[Quality]) -> Iterator[str]:
    """Markdown: two rows a trace."""
    yield from markdown_head("trace", "judged on", *(head for head, _, _ in _COLUMNS), "to reach")
    for quality in measured:
        for held_out in (True, False):
            cells = [cell(quality.entries[entry].points[allowed], allowed, held_out) for _, entry, allowed in _COLUMNS]
            name = f"{quality.trace.name}, {quality.trace.topology.gpus} GPUs"
            yield markdown_row(name, "held out" if held_out else "own steps", *cells, reach(quality, held_out))


def cell(point: Point, allowed: int, held_out: bool) -> str:
    spent = "" if abs(point.replicas_per_gpu - allowed) < 0.5 else f" ({point.replicas_per_gpu:.0f}/GPU)"
    return f"{point.held_out if held_out else point.own_steps:.3f}{spent}"


def reach(quality: Quality, held_out: bool) -> str:
    """The aims, and whether craftc meets them as printed or by how much it does not."""
    parts = []
    for aim in quality.trace.aims:
        if aim.held_out == held_out:
            point = quality.entries["craftc"].points[aim.replicas_per_gpu]
            short = aim.balancedness - (point.held_out if held_out else point.own_steps)
            verdict = f"missed by {short:.3f}" if short > 0 else "met"
            parts.append(f"R={aim.replicas_per_gpu} {aim.balancedness:.2f}: {verdict}")
    return ", ".join(parts)


def planning_table(measured: Sequence[Quality]) -> Iterator[str]:
    """Markdown: how true the curves are, what `--budget auto` takes, and times."""
    timed = ("EPLB", "CRAFT", "reference", "craftc")
    yield from markdown_head("trace", "curves off by", "auto: R", "held out", *(f"{entry}, s" for entry in timed))
    for quality in measured:
        craftc = quality.entries["craftc"]
        auto = (str(craftc.chosen), f"{craftc.points[craftc.chosen].held_out:.3f}")
        seconds = (f"{quality.entries[entry].seconds:.2f}" for entry in timed)
        yield markdown_row(quality.trace.name, f"{craftc.deviation:.4f}", *auto, *seconds)


def panel(quality: Quality) -> Panel:
    lines = {
        name: tuple((point.replicas_per_gpu, point.held_out) for point in entry.points.values())
        for name, entry in quality.entries.items()
        if name != "bound"
    }
    craftc = quality.entries["craftc"]
    chosen = craftc.points[craftc.chosen]
    _, layers, experts = quality.trace.counts_SLE.shape
    title = f"{quality.trace.name}\n{layers} x {experts}, {quality.trace.topology.gpus} GPUs"
    return Panel(title, lines, (chosen.replicas_per_gpu, chosen.held_out))


def markdown_head(*heads: str) -> Iterator[str]:
    yield markdown_row(*heads)
    yield markdown_row(*("---" for _ in heads))


def markdown_row(*cells: str) -> str:
    return f"| {' | '.join(cells)} |"


if __name__ == "__main__":
    main(sys.argv[1:])
