"""The contract of a pass: what it needs, what it gives, and whether it may touch the graph. Checked, not trusted."""

from __future__ import annotations

import time
from abc import ABC, abstractmethod
from collections.abc import Callable
from dataclasses import dataclass, field, fields, replace
from typing import ClassVar

from craftc.errors import BadInput, CraftcError
from craftc.passes.compilation import Compilation
from craftc.plans.verifier import require_sound


class PassContractError(CraftcError):
    """A pass broke its contract: a bug in the pass, never the user's mistake."""


@dataclass(frozen=True)
class Pass(ABC):
    """Base class of passes; the fields of a subclass are its options."""

    name: ClassVar[str]
    needs: ClassVar[tuple[str, ...]]
    """Fields of Compilation that must be filled in before."""
    gives: ClassVar[tuple[str, ...]]
    """Fields of Compilation that are filled in after."""
    changes_graph: ClassVar[bool] = False
    """An analysis pass (False) provably leaves graph and parameters as they were."""

    @abstractmethod
    def run(self, compilation: Compilation) -> Compilation:
        """The work; called through `Pipeline`, which checks the contract."""

    def __str__(self) -> str:
        options = ", ".join(f"{option.name}={getattr(self, option.name)!r}" for option in fields(self) if option.repr)
        return f"{self.name}({options})"


@dataclass(frozen=True)
class PassTiming:
    """Wall-clock time of one pass."""

    name: str
    seconds: float


@dataclass(frozen=True)
class Pipeline:
    """Passes in order: a value that can be printed, timed, and stopped after any pass."""

    passes: tuple[Pass, ...]
    """Run in this order."""
    on_pass: Callable[[Pass], None] | None = field(default=None, compare=False)
    """Called before each pass, for progress."""

    def __str__(self) -> str:
        return "\n".join(str(one) for one in self.passes)

    def until(self, name: str) -> Pipeline:
        """The pipeline that stops after the pass called `name`. Raises BadInput if there is none."""
        names = [one.name for one in self.passes]
        if name not in names:
            raise BadInput(f"no pass {name!r} in the pipeline: {', '.join(names)}")
        return replace(self, passes=self.passes[: names.index(name) + 1])

    def run(self, compilation: Compilation) -> tuple[Compilation, tuple[PassTiming, ...]]:
        """Run every pass, checking its contract. Raises PassContractError, or what a pass raises."""
        timings: list[PassTiming] = []
        for one in self.passes:
            if self.on_pass:
                self.on_pass(one)
            started = time.perf_counter()
            compilation = run_checked(one, compilation)
            timings.append(PassTiming(one.name, time.perf_counter() - started))
        return compilation, tuple(timings)


def run_checked(one: Pass, compilation: Compilation) -> Compilation:
    """Run one pass and check what it needs, gives, and leaves alone; then verify graph and plan again."""
    missing = [need for need in one.needs if getattr(compilation, need) is None]
    if missing:
        raise PassContractError(f"pass {one.name} needs {', '.join(missing)}: run the passes that give them first")
    before = _graph_state(compilation)
    after = one.run(compilation)
    ungiven = [gift for gift in one.gives if getattr(after, gift) is None]
    if ungiven:
        raise PassContractError(f"pass {one.name} did not give {', '.join(ungiven)}")
    if not one.changes_graph and _graph_state(after) != before:
        raise PassContractError(f"pass {one.name} changed the graph, but is an analysis pass")
    _verify(after)
    return after


def _verify(compilation: Compilation) -> None:
    """What holds after every pass: a well-formed graph, and a plan that breaks no rule (VerificationFailed)."""
    if compilation.graph is not None:
        compilation.graph.graph.lint()
    if compilation.plan is not None:
        require_sound(compilation.plan)


def _graph_state(compilation: Compilation) -> tuple[str, tuple[tuple[str, int, int], ...]] | None:
    """Nodes, and identity and version of every parameter; enough to see any change to either."""
    if compilation.graph is None:
        return None
    nodes = "\n".join(node.format_node() or str(node) for node in compilation.graph.graph.nodes)
    state = tuple(
        (name, id(value), value._version) for name, value in compilation.graph.state_dict(keep_vars=True).items()
    )
    return nodes, state
