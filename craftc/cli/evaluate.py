"""craftc evaluate: a plan judged on loads, best on ones it was not made from."""

from __future__ import annotations

from craftc.cli.options import Loads, OutputFormat, Plan
from craftc.cli.outcome import Format, Result


def evaluate(plan: Plan, loads: Loads, format: OutputFormat = Format.text) -> Result:
    """Judge a plan on measured loads: balancedness per layer and overall, beside contiguous and the bound."""
    from craftc.evaluation import evaluate_plan
    from craftc.manifests.read_loads import read_loads
    from craftc.plan_file import read_plan
    from craftc.report.evaluation_report import evaluation_document, evaluation_text

    evaluation = evaluate_plan(read_plan(plan), read_loads(loads))
    return Result(evaluation_document(evaluation), evaluation_text(evaluation), format)
