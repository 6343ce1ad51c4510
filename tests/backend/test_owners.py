from __future__ import annotations

import pytest

from tests.backend.captured import capture
from tests.backend.tiny_moe import TinyMoE, batch


@pytest.mark.parametrize("call", ["closure", "submodule"])
def test_names_are_relative_to_the_outermost_module_of_the_frame(call):
    model = TinyMoE()
    target = (lambda hidden: model(hidden) * 2) if call == "closure" else model.layers[1]
    captured = capture(target, batch())
    assert captured.frames[0].root is (model if call == "closure" else model.layers[1])
    names = [experts.parameters.name for experts in captured.frames[0].experts]
    assert names == (["layers.0.experts", "layers.1.experts"] if call == "closure" else ["experts"])


def test_parameters_are_enough_where_dynamos_scope_cannot_be_read(monkeypatch):
    monkeypatch.setattr("craftc.backend.owners._dynamo_scope", lambda: None)
    model = TinyMoE()
    captured = capture(model, batch())
    assert captured.frames[0].root is model
    assert [experts.module for experts in captured.frames[0].experts] == [layer.experts for layer in model.layers]


def test_a_graph_without_parameters_has_no_root():
    assert capture(lambda hidden: hidden * 2, batch()).frames[0].root is None
