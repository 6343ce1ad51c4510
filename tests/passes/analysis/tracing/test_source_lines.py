"""The model's author is told a line of the model's own code."""

from __future__ import annotations

from torch import nn

from craftc.passes.analysis.tracing.source_lines import reason_with_line, running_line


class Fails(nn.Module):
    def forward(self, x):
        return nn.Linear(3, 4)(x)  # the author's line


def test_the_innermost_line_of_the_models_code_is_named():
    import torch

    try:
        Fails()(torch.zeros(5))
    except RuntimeError as error:
        reason = reason_with_line(error)
    assert "RuntimeError" in reason
    assert reason.startswith("test_source_lines.py, line 12 (return nn.Linear(3, 4)(x)  # the author's line)")


def test_an_error_outside_of_any_model_is_told_as_it_is():
    assert reason_with_line(ValueError("no line")) == "ValueError: no line"


def test_the_running_line():
    assert "test_source_lines.py, line" in running_line()
