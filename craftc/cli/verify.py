"""craftc verify: does a model, rewritten to a plan, still compute the same?"""

from __future__ import annotations

from pathlib import Path
from typing import TYPE_CHECKING

from craftc.cli.options import Model, OutputFormat, Plan, Ranks
from craftc.cli.outcome import Format, Result
from craftc.cli.progress import ShownProgress, shown_progress

if TYPE_CHECKING:
    from craftc.passes.compilation import Verification


def verify(model: Model, plan: Plan, ranks: Ranks = None, format: OutputFormat = Format.text) -> Result:
    """Check that a rewrite computes the same.

    Rewrites MODEL to PLAN and compares outputs and tokens per GPU; the exit code is 1 if they differ.

    Example:
      craftc verify model.py plan.json
    """
    from craftc.ranks.jobs import verify_on_ranks
    from craftc.report.verification_report import verification_document, verification_text

    with shown_progress("load model" if ranks is None else f"run {ranks} ranks") as progress:
        verification = _verify_here(model, plan, progress) if ranks is None else verify_on_ranks(model, plan, ranks)
    where = "" if ranks is None else f" on {ranks} ranks"
    text = f"{model} rewritten to {plan} computes the same{where}\n{verification_text(verification)}"
    return Result({"equal": True, **verification_document(verification)}, text, format)


def _verify_here(model: str, plan: Path, progress: ShownProgress) -> Verification:
    from craftc.models.model_file import load_model_source
    from craftc.passes.pipelines import rewritten
    from craftc.plans.file import read_plan

    read = read_plan(plan)
    source = load_model_source(model)
    return rewritten(source.model, source.inputs, read, on_pass=progress).verification
