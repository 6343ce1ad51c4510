"""A backend for tests that only looks."""

from __future__ import annotations

import torch

from craftc.backend.owners import Frame, captured_frame
from craftc.backend.regions import Region, find_regions
from craftc.passes.compilation import NearMiss


class Captured:
    """A backend that keeps what it was given and runs the graph as it is."""

    def __init__(self):
        self.frames: list[Frame] = []
        self.regions: list[tuple[Region | NearMiss, ...]] = []

    def __call__(self, gm, example_inputs):
        frame = captured_frame(gm, example_inputs)
        self.frames.append(frame)
        self.regions.append(find_regions(gm.graph, [experts.parameters for experts in frame.experts]))
        return gm


def capture(model, *inputs) -> Captured:
    torch._dynamo.reset()
    captured = Captured()
    torch.compile(model, backend=captured)(*inputs)
    return captured
