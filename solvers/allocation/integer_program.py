"""Replicas per layer: a multiple-choice knapsack, as a dynamic program where that is quick, or an integer program.

The dynamic program runs over the bytes, in milliseconds if all experts have about the same size; otherwise, or if asked
for, HiGHS or CBC through PuLP: one binary per layer and candidate count, one choice per layer, replica bytes within the
budget, maximise the benefit. The only module that imports PuLP, late, because that takes longer than most allocations.

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
from typing import Any, get_args

from craftc.errors import BadInput
from craftc.solvers.allocation import dynamic_program
from craftc.solvers.allocation.greedy import candidates_that_matter, greedy_allocation
from craftc.solvers.problem import Allocation, BenefitCurves, SolverName, Status

_TOLERANCE = 1e-7
"""Largest relative gap that still counts as proven: the solvers compute in floating point."""
_MOST_CELLS = 20_000_000
"""Largest dynamic program, about a tenth of a second."""


@dataclass(frozen=True)
class _Solution:
    """What a solver found: the candidate of every layer (or None), whether it claims a proof, and its bound."""

    candidate_L: tuple[int, ...] | None
    proven: bool
    bound: float
    infeasible: bool
    """Whether it claims that there is nothing to find."""


def solve_allocation(
    curves: BenefitCurves,
    expert_bytes_L: Sequence[int],
    budget_bytes: int,
    *,
    least_bytes: int = 0,
    solver: SolverName = "auto",
    time_limit_s: float = 30.0,
) -> Allocation:
    """Replicas per layer with the largest summed benefit that take `least_bytes` to `budget_bytes`.

    `status` is `optimal` only if proven; if the time limit stops the solver first, it is `feasible`, with the better of
    the solver's and the greedy allocation and a valid bound. If it stops before an allocation of `least_bytes` is
    found, the allocation takes fewer. Raises BadInput for an unknown solver, a time limit that is not positive, curves
    that do not match the layers, or if no candidates take `least_bytes` to `budget_bytes`.
    """
    _check(curves, expert_bytes_L, solver, time_limit_s)
    started = time.perf_counter()
    best = _solve_within(curves, expert_bytes_L, budget_bytes, solver, time_limit_s)
    if _bytes(best.replicas_L, expert_bytes_L) >= least_bytes:
        return best
    # Candidates that buy nothing, or less than a cheaper one, may be needed now: none is left out.
    spending = (least_bytes, budget_bytes)
    every_LC = [list(range(len(curves.candidates_C)))] * len(expert_bytes_L)
    left_s = max(0.01, time_limit_s - (time.perf_counter() - started))
    label, solution = _solve(curves, every_LC, expert_bytes_L, spending, solver, left_s)
    if solution.infeasible:
        raise BadInput(f"no replica counts of the curves take {least_bytes} to {budget_bytes} bytes")
    seconds = time.perf_counter() - started
    if solution.candidate_L is not None:
        found_L, value = _found(curves, solution.candidate_L)
        if least_bytes <= _bytes(found_L, expert_bytes_L) <= budget_bytes:
            bound = max(value, min(solution.bound, best.bound))
            return Allocation(found_L, _status(solution, value, bound), value, bound, label, seconds)
    return Allocation(best.replicas_L, "feasible", best.objective, best.bound, best.solver, seconds)


def _solve_within(
    curves: BenefitCurves, expert_bytes_L: Sequence[int], budget_bytes: int, solver: SolverName, time_limit_s: float
) -> Allocation:
    """The best allocation of any number of bytes up to the budget."""
    started = time.perf_counter()
    greedy = greedy_allocation(curves, expert_bytes_L, budget_bytes)
    if greedy.status == "optimal" and solver == "auto":
        return greedy
    matter_LC = candidates_that_matter(curves, expert_bytes_L, budget_bytes, greedy.objective)
    label, solution = _solve(curves, matter_LC, expert_bytes_L, (0, budget_bytes), solver, time_limit_s)
    replicas_L, objective = greedy.replicas_L, greedy.objective
    if solution.candidate_L is not None:
        found_L, value = _found(curves, solution.candidate_L)
        if _bytes(found_L, expert_bytes_L) <= budget_bytes and value >= objective:
            replicas_L, objective = found_L, value
    bound = max(objective, min(solution.bound, greedy.bound))
    status = _status(solution, objective, bound)
    return Allocation(replicas_L, status, objective, bound, label, time.perf_counter() - started)


def _found(curves: BenefitCurves, candidate_L: Sequence[int]) -> tuple[tuple[int, ...], float]:
    """Replicas per layer, and their summed benefit."""
    benefit_LC = curves.benefit_LC
    value = math.fsum(benefit_LC[layer, candidate] for layer, candidate in enumerate(candidate_L))
    return tuple(curves.candidates_C[candidate] for candidate in candidate_L), value


def _bytes(replicas_L: Sequence[int], expert_bytes_L: Sequence[int]) -> int:
    return sum(count * size for count, size in zip(replicas_L, expert_bytes_L, strict=True))


def _status(solution: _Solution, objective: float, bound: float) -> Status:
    closed = bound - objective <= _TOLERANCE * max(1.0, abs(objective))
    return "optimal" if solution.proven and closed else "feasible"


def _check(curves: BenefitCurves, expert_bytes_L: Sequence[int], solver: str, time_limit_s: float) -> None:
    if solver not in get_args(SolverName):
        raise BadInput(f"solver {solver!r} is unknown; choose {', '.join(get_args(SolverName))}")
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
    least_and_most_bytes: tuple[int, int],
    solver: SolverName,
    time_limit_s: float,
) -> tuple[str, _Solution]:
    """What solved it, with its version, and the solution. `auto`: the dynamic program, or HiGHS if it is large."""
    if solver == "auto":
        if dynamic_program.cells(curves, matter_LC, expert_bytes_L, least_and_most_bytes[1]) <= _MOST_CELLS:
            found_L = dynamic_program.best_candidates(curves, matter_LC, expert_bytes_L, *least_and_most_bytes)
            bound = -math.inf if found_L is None else _found(curves, found_L)[1]
            return "dynamic program", _Solution(found_L, True, bound, found_L is None)
        solver = "highs"
    solution = _solve_program(curves, matter_LC, expert_bytes_L, least_and_most_bytes, solver, time_limit_s)
    return f"{solver} {version('highspy' if solver == 'highs' else 'pulp')}", solution


def _solve_program(
    curves: BenefitCurves,
    matter_LC: list[list[int]],
    expert_bytes_L: Sequence[int],
    least_and_most_bytes: tuple[int, int],
    solver: SolverName,
    time_limit_s: float,
) -> _Solution:
    import pulp

    least_bytes, most_bytes = least_and_most_bytes
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
            if count * size > most_bytes:
                break
            binary = program.add_variable(f"x_{layer}_{count}", cat="Binary")
            binaries[candidate] = binary
            lost.append((binary, -float(curves.benefit_LC[layer, candidate])))
            used.append((binary, count * (size // unit)))
        chosen.append(binaries)
    program += pulp.LpAffineExpression(lost)
    for layer, binaries in enumerate(chosen):
        program += pulp.LpAffineExpression([(binary, 1) for binary in binaries.values()]) == 1, f"one_of_layer_{layer}"
    program += pulp.LpAffineExpression(used) <= most_bytes // unit, "budget"
    if least_bytes > 0:
        program += pulp.LpAffineExpression(used) >= -(-least_bytes // unit), "least"
    with _silent_stdout():
        program.solve(_engine(solver, time_limit_s))
    found = program.sol_status in (pulp.LpSolutionOptimal, pulp.LpSolutionIntegerFeasible)
    candidate_L = (
        tuple(max(binaries, key=lambda c: binaries[c].value() or 0.0) for binaries in chosen) if found else None
    )
    # `status` is Optimal even after a time-out; only `sol_status` shows the difference.
    proven = program.sol_status == pulp.LpSolutionOptimal
    infeasible = program.status == pulp.LpStatusInfeasible
    return _Solution(candidate_L, proven, _bound(program, solver, proven), infeasible)


def _engine(solver: SolverName, time_limit_s: float) -> Any:
    import pulp

    if solver == "cbc":
        return pulp.PULP_CBC_CMD(msg=False, timeLimit=time_limit_s, gapRel=0.0, threads=1)
    return pulp.HiGHS(
        msg=False, timeLimit=time_limit_s, gapRel=0.0, gapAbs=0.0, threads=1, mip_feasibility_tolerance=1e-9
    )


def _bound(program: Any, solver: SolverName, proven: bool) -> float:
    """The solver's upper bound on the objective, inf if it has none (CBC through PuLP has one only with a proof)."""
    if solver == "highs":
        return -float(program.solverModel.getInfo().mip_dual_bound)
    return -float(program.objective.value()) if proven else math.inf


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
