"""craftc verify: does a model, rewritten to a plan, still compute the same?"""

from __future__ import annotations

from craftc.cli.options import Model, OutputFormat, Plan
from craftc.cli.outcome import Format, Result
from craftc.cli.progress import shown_progress


def verify(model: Model, plan: Plan, format: OutputFormat = Format.text) -> Result:
    """Rewrite a model to a plan and compare outputs and tokens per GPU; exit code 1 where they differ."""
    from craftc.model_file import load_model_source
    from craftc.passes.base import Compilation
    from craftc.pipelines import analysis_pipeline, joined, rewriting_pipeline, run_pipeline
    from craftc.plan_file import read_plan
    from craftc.report.verification_report import verification_document, verification_text

    read = read_plan(plan)
    with shown_progress("load model") as progress:
        source = load_model_source(model)
        start = Compilation(model=source.model, inputs=source.inputs, plan=read)
        done, _ = run_pipeline(joined(analysis_pipeline(), rewriting_pipeline()), start, progress)
    assert done.verification is not None
    text = f"{source.name} rewritten to {plan} computes the same\n{verification_text(done.verification)}"
    return Result({"equal": True, **verification_document(done.verification)}, text, format)
