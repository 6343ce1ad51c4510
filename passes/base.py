"""The contract of a pass: what it needs, what it gives, and whether it may change the graph. Checked, not trusted."""

from __future__ import annotations

import time
from abc import ABC, abstractmethod
from collections.abc import Callable
from dataclasses import dataclass, fields, replace
from typing import ClassVar

from craftc.errors import BadInput
from craftc.passes.compilation import Compilation, PassContractError, PassTiming, updated
from craftc.planning_options import PlanningRequest
from craftc.plans.verifier import require_sound

Progress = Callable[[str], None]
"""Called with the name of every pass as it starts."""


@dataclass(frozen=True)
class Pass(ABC):
    """Base class of passes; the fields of a subclass are its options."""

    name: ClassVar[str]
    needs: ClassVar[tuple[str, ...]]
    """Fields of Compilation that must be known before it runs."""
    gives: ClassVar[tuple[str, ...]]
    """Fields of Compilation that are known after it ran."""
    changes_graph: ClassVar[bool] = False
    """Whether the pass may change graph and parameters; checked if False."""

    @abstractmethod
    def run(self, compilation: Compilation) -> Compilation:
        """The work; called through `Pipeline`, which checks the contract."""

    def __str__(self) -> str:
        options = ", ".join(f"{option.name}={getattr(self, option.name)!r}" for option in fields(self) if option.repr)
        return f"{self.name}({options})"


@dataclass(frozen=True)
class Pipeline:
    """Passes in order, as a value that can be printed, run, and stopped after any pass."""

    passes: tuple[Pass, ...]
    """The passes, in the order in which they run."""
    request: PlanningRequest | None = None
    """What to plan, if the pipeline plans: printed first, and known to every pass."""

    def __str__(self) -> str:
        stated = () if self.request is None else (self.request,)
        return "\n".join(map(str, (*stated, *self.passes)))

    def until(self, name: str) -> Pipeline:
        """The pipeline that stops after the pass called `name`. Raises BadInput if there is none."""
        names = [each.name for each in self.passes]
        if name not in names:
            raise BadInput(f"no pass {name!r} in the pipeline: {', '.join(names)}")
        return replace(self, passes=self.passes[: names.index(name) + 1])

    def run(self, compilation: Compilation, on_pass: Progress | None = None) -> Compilation:
        """Run every pass, checking its contract. Raises PassContractError, or what a pass raises."""
        if self.request is not None:
            compilation = updated(compilation, request=self.request)
        for each in self.passes:
            if on_pass:
                on_pass(each.name)
            started = time.perf_counter()
            compilation = run_checked(each, compilation)
            timing = PassTiming(each.name, time.perf_counter() - started, str(each))
            compilation = updated(compilation, timings=(*compilation.timings, timing))
        return compilation


def run_checked(each: Pass, compilation: Compilation) -> Compilation:
    """Run one pass and check what it needs, gives and must not change; then verify graph and plan again."""
    missing = [need for need in each.needs if not compilation.knows(need)]
    if missing:
        raise PassContractError(f"pass {each.name} needs {', '.join(missing)}: run the passes that give them first")
    before = _graph_state(compilation)
    after = each.run(compilation)
    ungiven = [gift for gift in each.gives if not after.knows(gift)]
    if ungiven:
        raise PassContractError(f"pass {each.name} did not give {', '.join(ungiven)}")
    if not each.changes_graph and _graph_state(after) != before:
        raise PassContractError(f"pass {each.name} changed the graph, but is an analysis pass")
    _verify(after)
    return after


def _verify(compilation: Compilation) -> None:
    """What holds after every pass: a well-formed graph, and a plan that breaks no rule (VerificationFailed)."""
    if compilation.knows("graph"):
        compilation.graph.graph.lint()
    if compilation.knows("plan"):
        require_sound(compilation.plan)


def _graph_state(compilation: Compilation) -> tuple[str, tuple[tuple[str, int, int], ...]] | None:
    """Nodes, and identity and version of every parameter; enough to see any change to either."""
    if not compilation.knows("graph"):
        return None
    nodes = "\n".join(node.format_node() or str(node) for node in compilation.graph.graph.nodes)
    state = tuple(
        (name, id(value), value._version) for name, value in compilation.graph.state_dict(keep_vars=True).items()
    )
    return nodes, state
