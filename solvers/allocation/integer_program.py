"""Replicas per layer as an integer program: a multiple-choice knapsack, solved by HiGHS or CBC through PuLP.

One binary per layer and candidate count, one choice per layer, replica bytes within the budget, maximise the benefit.
The only module that imports PuLP.

Axes: L layers, C candidate replica counts.
"""

from __future__ import annotations

import contextlib
import math
import os
import sys
import time
from collections.abc import Iterator, Sequence
from dataclasses import dataclass
from importlib.metadata import version
from typing import Any

import pulp

from craftc.errors import BadInput
from craftc.solvers.allocation.greedy import candidates_that_matter, greedy_allocation
from craftc.solvers.problem import Allocation, BenefitCurves, SolverName, Status

_TOLERANCE = 1e-7
"""Largest relative gap that still counts as proven: the solvers compute in floating point."""


@dataclass(frozen=True)
class _Solution:
    """What a solver found: the candidate of every layer (or None), whether it claims a proof, and its bound."""

    candidate_L: tuple[int, ...] | None
    proven: bool
    bound: float


def solve_allocation(
    curves: BenefitCurves,
    expert_bytes_L: Sequence[int],
    budget_bytes: int,
    *,
    solver: SolverName = "highs",
    time_limit_s: float = 30.0,
) -> Allocation:
    """Replicas per layer with the largest summed benefit within `budget_bytes`.

    `status` is `optimal` only if proven; if the time limit stops the solver first, it is `feasible`, with the better of
    the solver's and the greedy allocation and a valid bound. Raises BadInput for an unknown solver, a time limit that
    is not positive, or curves that do not match the layers.
    """
    _check(curves, expert_bytes_L, solver, time_limit_s)
    started = time.perf_counter()
    greedy = greedy_allocation(curves, expert_bytes_L, budget_bytes)
    label = f"{solver} {version('highspy' if solver == 'highs' else 'pulp')}"
    if greedy.status == "optimal":
        return Allocation(greedy.replicas_L, "optimal", greedy.objective, greedy.objective, label, greedy.seconds)
    matter_LC = candidates_that_matter(curves, expert_bytes_L, budget_bytes, greedy.objective)
    solution = _solve(curves, matter_LC, expert_bytes_L, budget_bytes, solver, time_limit_s)
    replicas_L, objective = greedy.replicas_L, greedy.objective
    if solution.candidate_L is not None:
        found_L = tuple(curves.candidates_C[candidate] for candidate in solution.candidate_L)
        value = math.fsum(curves.benefit_LC[layer, candidate] for layer, candidate in enumerate(solution.candidate_L))
        fits = sum(count * size for count, size in zip(found_L, expert_bytes_L, strict=True)) <= budget_bytes
        if fits and value >= objective:
            replicas_L, objective = found_L, value
    bound = max(objective, min(solution.bound, greedy.bound))
    closed = bound - objective <= _TOLERANCE * max(1.0, abs(objective))
    status: Status = "optimal" if solution.proven and closed else "feasible"
    return Allocation(replicas_L, status, objective, bound, label, time.perf_counter() - started)


def _check(curves: BenefitCurves, expert_bytes_L: Sequence[int], solver: str, time_limit_s: float) -> None:
    if solver not in ("highs", "cbc"):
        raise BadInput(f"solver {solver!r} is unknown; choose highs or cbc")
    if not time_limit_s > 0:
        raise BadInput(f"time limit must be positive, got {time_limit_s} s")
    if curves.balancedness_LC.shape != (len(expert_bytes_L), len(curves.candidates_C)):
        raise BadInput(
            f"curves of shape {list(curves.balancedness_LC.shape)} do not fit {len(expert_bytes_L)} layers and "
            f"{len(curves.candidates_C)} candidates"
        )


def _solve(
    curves: BenefitCurves,
    matter_LC: list[list[int]],
    expert_bytes_L: Sequence[int],
    budget_bytes: int,
    solver: SolverName,
    time_limit_s: float,
) -> _Solution:
    # Bytes in units of their greatest common divisor keep the coefficients small and the solver's tolerances sharp.
    unit = math.gcd(*expert_bytes_L)
    # Minimise the negative: PuLP turns maximisation into that for HiGHS anyway, and then reports bounds of that sign.
    program = pulp.LpProblem("replicas_per_layer", pulp.LpMinimize)
    chosen: list[dict[int, Any]] = []
    lost, used = [], []
    for layer, size in enumerate(expert_bytes_L):
        binaries: dict[int, Any] = {}
        for candidate in matter_LC[layer]:
            count = curves.candidates_C[candidate]
            if count * size > budget_bytes:
                break
            binary = program.add_variable(f"x_{layer}_{count}", cat="Binary")
            binaries[candidate] = binary
            lost.append((binary, -float(curves.benefit_LC[layer, candidate])))
            used.append((binary, count * (size // unit)))
        chosen.append(binaries)
    program += pulp.LpAffineExpression(lost)
    for layer, binaries in enumerate(chosen):
        program += pulp.LpAffineExpression([(binary, 1) for binary in binaries.values()]) == 1, f"one_of_layer_{layer}"
    program += pulp.LpAffineExpression(used) <= budget_bytes // unit, "budget"
    with _silent_stdout():
        program.solve(_engine(solver, time_limit_s))
    found = program.sol_status in (pulp.LpSolutionOptimal, pulp.LpSolutionIntegerFeasible)
    candidate_L = (
        tuple(max(binaries, key=lambda c: binaries[c].value() or 0.0) for binaries in chosen) if found else None
    )
    # `status` is Optimal even after a time-out; only `sol_status` shows the difference.
    proven = program.sol_status == pulp.LpSolutionOptimal
    return _Solution(candidate_L, proven, _bound(program, solver, proven))


def _engine(solver: SolverName, time_limit_s: float) -> Any:
    if solver == "cbc":
        return pulp.PULP_CBC_CMD(msg=False, timeLimit=time_limit_s, gapRel=0.0, threads=1)
    return pulp.HiGHS(
        msg=False, timeLimit=time_limit_s, gapRel=0.0, gapAbs=0.0, threads=1, mip_feasibility_tolerance=1e-9
    )


def _bound(program: Any, solver: SolverName, proven: bool) -> float:
    """The solver's upper bound on the objective, inf if it has none (CBC through PuLP has one only with a proof)."""
    if solver == "highs":
        return -float(program.solverModel.getInfo().mip_dual_bound)
    return -float(pulp.value(program.objective)) if proven else math.inf


@contextlib.contextmanager
def _silent_stdout() -> Iterator[None]:
    """Redirect file descriptor 1 to the null device: HiGHS prints a banner there even when told to be quiet."""
    sys.stdout.flush()
    kept = os.dup(1)
    nowhere = os.open(os.devnull, os.O_WRONLY)
    try:
        os.dup2(nowhere, 1)
        yield
    finally:
        os.dup2(kept, 1)
        os.close(kept)
        os.close(nowhere)
