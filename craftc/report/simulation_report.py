"""What replicas are worth in goodput, as text: the answer, the table, the choice, and every constant behind them."""

from __future__ import annotations

import math
import textwrap

from craftc.report.balancing_answer import balancing_answer
from craftc.report.simulated_arms import SimulatedArm, SimulatedArms, replicas_words
from craftc.report.text_table import text_table
from craftc.serving.cluster import Cluster, Figure
from craftc.serving.memory import GIB
from craftc.serving.serving_model import ServingModel
from craftc.topology import Topology

_DISAGREEMENT = 0.15
"""Part by which event simulation and closed form may differ without a word."""
_BETTER = 1.03
"""Goodput of a neighbour over the chosen one, by event simulation, that is more than chance: see `_FEWEST_COUNTED`."""
_COLUMNS = (
    "arm",
    "replicas",
    "KV GiB",
    "KV lost",
    "requests",
    "balance",
    "peak",
    "req/s",
    "x none",
    "x EPLB",
    "TTFT s",
    "ITL ms",
    "binds",
    "SLO req/s",
    "SLO TTFT s",
    "",
)
_ABSENT = "-"
_MARKS = {"assumed": "!", "calibrated": "*"}
"""How constants are marked that nobody measured, or that were fitted to measurements of the server."""
_WIDTH = 118
"""Columns of text, but for the table."""
_LEGEND = {
    "replicas": "per GPU, all layers together",
    "requests": "that fit the KV cache of a data-parallel rank",
    "balance": "balancedness",
    "peak": "tokens of the fullest GPU / mean",
    "req/s": "served where requests are always waiting (closed form)",
    "ITL ms": "at that goodput",
    "TTFT s": "of a request that need not wait",
    "SLO req/s": "highest rate that keeps the limits on latency (event simulation)",
    "SLO TTFT s": "mean at that rate",
}
"""What columns mean."""


def simulation_text(arms: SimulatedArms, server: ServingModel, topology: Topology) -> str:
    """All of it, paragraph by paragraph."""
    parts = (
        balancing_answer(arms, server.workload),
        _table(arms),
        "\n".join((*_disagreements(arms), *_choice(arms), *_conditions(arms, server, topology))),
        cluster_text(server.cluster),
        "\n".join(_hanging("taken for granted: ", note) for note in server.notes),
    )
    return "\n\n".join(filter(None, parts))


def cluster_text(cluster: Cluster) -> str:
    """Every constant with its source; assumed and calibrated ones are marked."""
    copies = cluster.network.wire_copies
    lines = [(path, _constant(figure), figure.source) for path, figure in cluster.figures]
    lines.append(("network.wire_copies", copies.value, copies.source))
    origins = [next((origin for origin in _MARKS if source.startswith(origin)), "") for *_, source in lines]
    widths = [max(len(line[column]) for line in lines) for column in (0, 1)]
    rows = [
        _hanging(f"{_MARKS.get(origin, ' ')} {path:<{widths[0]}}  {value:>{widths[1]}}  ", source)
        for (path, value, source), origin in zip(lines, origins, strict=True)
    ]
    counted = [f", {origins.count(origin)} {origin} ({mark})" for origin, mark in _MARKS.items() if origin in origins]
    head = f"cluster {cluster.name} ({cluster.chip.name}): {len(lines)} constants{''.join(counted)}"
    return "\n".join((head, *rows))


def _constant(figure: Figure) -> str:
    """Its value; of a fit, four digits are more than enough."""
    return f"{figure.value:.4g}" if figure.origin == "calibrated" else f"{figure.value:g}"


def _hanging(start: str, text: str) -> str:
    """`text` after `start`, its further lines below its first word."""
    return textwrap.fill(text, _WIDTH, initial_indent=start, subsequent_indent=" " * len(start))


def _table(arms: SimulatedArms) -> str:
    shown, same = _without_repeats(arms)
    rows = [_cells(arm, arms) for arm in (*shown, arms.ceiling)]
    used = [column for column, name in enumerate(_COLUMNS) if not all(row[column] == _ABSENT for row in rows)]
    table = text_table([_COLUMNS[column] for column in used], [[row[column] for column in used] for row in rows])
    legend = "; ".join(
        f"{_COLUMNS[column]}: {_LEGEND[_COLUMNS[column]]}" for column in used if _COLUMNS[column] in _LEGEND
    )
    return "\n".join((table, textwrap.fill(legend, _WIDTH), *same))


def _without_repeats(arms: SimulatedArms) -> tuple[list[SimulatedArm], list[str]]:
    """Rows to show, and a line for each row that other numbers of replicas come to as well."""
    shown: list[SimulatedArm] = []
    asked: list[list[int]] = []
    for arm in arms.rows:
        if shown and arm.asked is not None and (shown[-1].name, shown[-1].worth) == (arm.name, arm.worth):
            asked[-1].append(arm.asked)
            continue
        shown.append(arm)
        asked.append([])
    same = [
        f"{arm.name} places {replicas_words(arm.worth.replicas_per_gpu)} where {', '.join(map(str, more))} are allowed"
        for arm, more in zip(shown, asked, strict=True)
        if more
    ]
    return shown, same


def _cells(arm: SimulatedArm, arms: SimulatedArms) -> tuple[str, ...]:
    worth, confirmed = arm.worth, arm.confirmation
    served = worth.goodput > 0
    limit = "no KV left" if worth.requests < 1 else "ITL limit"
    return (
        arm.name,
        _replicas(arm),
        f"{'-' if worth.kv_bytes < 0 else ''}{_digits(abs(worth.kv_bytes) / GIB)}",
        _percent(arms.kv_lost(arm)),
        str(worth.requests),
        f"{worth.balancedness:.3f}",
        f"{worth.mean_peak:.2f}",
        _digits(worth.goodput),
        _times(arms.against_none(arm) if served else None),
        _times(arms.against_eplb(arm) if served else None),
        _digits(worth.ttft_s if served else 0),
        _digits(1000 * worth.itl_s),
        worth.binds if served else limit,
        _ABSENT if confirmed is None else _digits(confirmed.goodput) if confirmed.goodput else "0",
        _ABSENT if confirmed is None else _digits(confirmed.ttft_s),
        _mark(arm, arms),
    )


def _mark(arm: SimulatedArm, arms: SimulatedArms) -> str:
    if arm is arms.best and arms.rule is not None:
        return "<- chosen"
    return "within 1%" if arm.in_band else ""


def _replicas(arm: SimulatedArm) -> str:
    return arm.placed if arm.asked is None or arm.placed == f"{arm.asked:.3g}" else f"{arm.placed} of {arm.asked}"


def _disagreements(arms: SimulatedArms) -> list[str]:
    """Where the event simulation says something else."""
    shown = _without_repeats(arms)[0]
    broken = [
        f"{arm.words}: not even an idle server keeps the limits on latency"
        for arm in shown
        if arm.confirmation is not None and arm.confirmation.goodput == 0
    ]
    lines = broken + [
        f"{arm.words}: the event simulation serves {abs(arm.confirmation.against_closed_form):.0%} "
        f"{'more' if arm.confirmation.against_closed_form > 0 else 'less'} than the closed form says: go by SLO req/s"
        for arm in shown
        if arm.confirmation is not None
        and arm.confirmation.goodput > 0
        and abs(arm.confirmation.against_closed_form) > _DISAGREEMENT
    ]
    best = arms.best
    if arms.rule is None or best.confirmation is None:
        return lines
    rivals = [arm for arm in arms.rows if arm.name == best.name and arm.confirmation is not None]
    top = max(rivals, key=lambda arm: arm.confirmation.goodput if arm.confirmation else 0.0)
    if top.confirmation is not None and top.confirmation.goodput > _BETTER * best.confirmation.goodput:
        gain = top.confirmation.goodput / best.confirmation.goodput - 1
        lines.append(f"within the limits on latency {top.words} serves {gain:.0%} more than the chosen number")
    return lines


def _choice(arms: SimulatedArms) -> list[str]:
    best, lines = arms.best, []
    if arms.rule is not None:
        band = [str(arm.asked) for arm in _without_repeats(arms)[0] if arm.in_band]
        which = f": {', '.join(band)}" if len(band) > 1 else ""
        lines.append(f"chosen: {best.words} ({arms.rule}{which})")
        tried = [arm.asked for arm in arms.rows if arm.name == best.name and arm.asked is not None]
        if best.asked and best.asked == max(tried):
            lines.append(f"{best.asked} is the largest number tried, and more may be better: try it with --replicas")
    mine, none = best.confirmation, arms.none.confirmation
    if best is not arms.none and mine is not None and none is not None and none.goodput > 0:
        lines.append(
            f"within the limits on latency: {_digits(mine.goodput)} requests/s against {_digits(none.goodput)} without "
            f"replicas, {mine.goodput / none.goodput:.2f}x (event simulation)"
        )
    return lines


def _conditions(arms: SimulatedArms, server: ServingModel, topology: Topology) -> list[str]:
    work, model = server.workload, server.model
    lengths = {
        "mixed": f"{work.input} tokens in, {work.output} out, prefilled in chunks of at most {work.chunk}",
        "prefill": f"{work.input} tokens in, in chunks of at most {work.chunk}; prefill only",
        "decode": f"{work.output} tokens out after {work.input}; decode only, {_batch(server)}",
    }
    planned, judged = arms.judged.planned, arms.judged.judged
    what = "baselines planned" if arms.rule is None else "planned"
    others = "the same" if planned.sha256 == judged.sha256 else f"{judged.steps} others"
    return [
        f"limits: {'; '.join(_limits(arms, server))}",
        f"requests: {lengths[work.phase]}",
        f"server: {model.model_type} with {len(model.layers)} MoE layers on {topology.gpus} GPUs of {topology.nodes} "
        f"node{'' if topology.nodes == 1 else 's'}, {server.ranks(topology)} data-parallel ranks",
        f"steps of the loads: {what} from {planned.steps}, judged on {others}",
    ]


def _limits(arms: SimulatedArms, server: ServingModel) -> list[str]:
    work, found = server.workload, []
    if work.phase != "decode":
        default = "" if work.ttft_limit_s is not None else " (default: four times that without waiting or replicas)"
        found.append(f"mean TTFT at most {_digits(arms.ttft_limit_s)} s{default}")
    if work.phase != "prefill":
        stated = work.itl_limit_s
        found.append("ITL not limited (default)" if stated is None else f"mean ITL at most {_digits(1000 * stated)} ms")
    return found


def _batch(server: ServingModel) -> str:
    batch = server.workload.batch
    return "as many as the KV cache holds" if batch is None else f"at most {batch} in flight per GPU"


def _percent(part: float) -> str:
    return f"{100 * part + 0.0:.1f}%"


def _times(ratio: float | None) -> str:
    return _ABSENT if ratio is None else f"{ratio:.2f}"


def _digits(number: float) -> str:
    """Three significant digits, at least; `-` for 0."""
    if number <= 0:
        return _ABSENT
    return f"{number:.{max(0, 2 - math.floor(math.log10(number)))}f}"
