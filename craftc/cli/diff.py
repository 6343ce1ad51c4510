"""craftc diff: the weights that travel between two plans."""

from __future__ import annotations

from pathlib import Path
from typing import Annotated

import typer

from craftc.cli.options import OutputFormat
from craftc.cli.outcome import Format, Result


def diff(
    old: Annotated[Path, typer.Argument(metavar="OLD", help="The plan in use.")],
    new: Annotated[Path, typer.Argument(metavar="NEW", help="The plan to change to.")],
    format: OutputFormat = Format.text,
) -> Result:
    """List what every GPU must receive to change from one plan to another, with bytes.

    Example:
      craftc diff running.json plan.json
    """
    from craftc.plans.diff import diff_plans
    from craftc.plans.file import read_plan
    from craftc.report.diff_report import diff_document, diff_text

    found = diff_plans(read_plan(old), read_plan(new))
    return Result(diff_document(found), diff_text(found), format)
