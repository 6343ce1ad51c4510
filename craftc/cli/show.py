"""craftc show: a plan for people."""

from __future__ import annotations

from craftc.cli.options import OutputFormat, Plan
from craftc.cli.outcome import Format, Result


def show(plan: Plan, format: OutputFormat = Format.text) -> Result:
    """Show a plan and what it is worth.

    Prints the budget, the comparison with the baselines on the plan's own loads, and every layer.

    Example:
      craftc show plan.json
    """
    from craftc.plans.file import plan_document, read_plan
    from craftc.report.plan_report import comparison_table, layer_table, plan_summary, validation_text

    read = read_plan(plan)
    parts = (plan_summary(read), comparison_table(read), validation_text(read), layer_table(read))
    return Result(plan_document(read), "\n\n".join(filter(None, parts)), format, warnings=read.warnings)
