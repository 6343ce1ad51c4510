"""Help of commands as plain text: many options are grouped in panels, and a worked example comes last."""

from __future__ import annotations

import inspect
import textwrap
from collections.abc import Callable
from typing import Any

from typer.core import TyperCommand

INPUT, BUDGET, SERVING, SEARCH = "Input", "Budget", "Serving", "Search"
REPLANNING, OUTPUT = "Replanning", "Output"
"""Panels, in the order of the help; `rich_help_panel` of an option names one."""
_ORDER = (INPUT, BUDGET, SERVING, SEARCH, REPLANNING, OUTPUT)
_FEW = 10
"""Up to this many options are one list."""


class PanelCommand(TyperCommand):
    """A command whose options are grouped in panels if there are many."""

    def format_options(self, ctx: Any, formatter: Any) -> None:
        """Arguments first, then the panels."""
        arguments: list[tuple[str, str]] = []
        panels: dict[str, list[tuple[str, str]]] = {}
        for parameter in self.get_params(ctx):
            record = parameter.get_help_record(ctx)
            if record is None:
                continue
            if parameter.param_type_name == "argument":
                arguments.append(record)
            else:
                panels.setdefault(getattr(parameter, "rich_help_panel", None) or OUTPUT, []).append(record)
        if sum(map(len, panels.values())) <= _FEW:
            panels = {"Options": [record for panel in panels.values() for record in panel]}
        else:
            panels = {title: panels[title] for title in _ORDER if title in panels}
        for title, records in {"Arguments": arguments, **panels}.items():
            if records:
                with formatter.section(title):
                    formatter.write_dl(records)

    def format_epilog(self, ctx: Any, formatter: Any) -> None:
        """The example, its lines as they are."""
        if self.epilog:
            with formatter.section("Example"):
                formatter.write_text(f"\b\n{self.epilog}")


def help_and_example(command: Callable[..., Any]) -> tuple[str, str]:
    """A command's docstring up to its last paragraph, `Example:`, and the command lines in that."""
    text, _, example = (inspect.getdoc(command) or "").partition("\n\nExample:\n")
    return text, textwrap.dedent(example)
