"""Sizes, dtypes and devices steer control flow in every spelling; what they decided is checked on other inputs."""

from __future__ import annotations

import copy
import io
from typing import Any

import pytest
import torch
from torch import Tensor, nn

from craftc.errors import BadInput, Unsupported
from craftc.passes.analysis.trace import trace
from craftc.passes.analysis.tracing.guards import require_same
from examples.plain_moe.model import HIDDEN as H
from examples.plain_moe.model import MoE


class Steered(nn.Module):
    """An MoE block behind a condition of the subclass."""

    def __init__(self) -> None:
        super().__init__()
        self.limit = 8
        self.moe = MoE(0.0)

    def forward(self, x: Tensor) -> Tensor:
        x = self.moe(x)
        return self.steered(x)

    def steered(self, x: Tensor) -> Tensor:
        raise NotImplementedError


class Asserts(Steered):
    def steered(self, x):
        _, t, _ = x.size()
        assert t <= self.limit, f"sequence of {t} tokens"
        return x


class ComparesWithAConstant(Steered):
    def steered(self, x):
        return x * 2 if x.shape[0] == 4 else x


class ComparesShapes(Steered):
    def steered(self, x):
        return x + 1 if x.shape == x.transpose(0, 1).shape else x


class ComparesCounts(Steered):
    def steered(self, x):
        return x * 2 if x.numel() > 64 * H or x.size(1) // 2 > 100 else x


class AsksForTheDevice(Steered):
    def steered(self, x):
        return x * 2 if x.device.type == "cpu" else x


class AsksForTheDtype(Steered):
    def steered(self, x):
        return x * 2 if x.dtype == torch.float64 else x


class LoopsOverHalf(Steered):
    def steered(self, x):
        for position in range(x.shape[1] // 2):
            x = x + position
        return x


class RepeatsAList(Steered):
    def steered(self, x):
        return x * torch.tensor([1.5] * x.shape[-1])


class TakesTheLength(Steered):
    def steered(self, x):
        return x / len(x) + torch.arange(len(x[0]))[None, :, None]


class SlicesAList(Steered):
    def steered(self, x):
        return x + sum([1.0, 2.0, 3.0, 4.0][: x.shape[0]])


class TakesTheSmaller(Steered):
    def steered(self, x):
        return x[:, : min(x.shape[1], self.limit)] * int(x.shape[0] * 1.5)


class LooksUpASize(Steered):
    def steered(self, x):
        return x * {2: 1.0, 3: 2.0}.get(x.shape[0], 5.0)


class ComparesText(Steered):
    def steered(self, x):
        return x * 2 if str(x.dtype) == "torch.float32" and f"{x.shape[0]}" != "4" else x


class DividesWithRest(Steered):
    def steered(self, x):
        quotient, rest = divmod(x.shape[1], 4)
        return x + quotient - rest


class MatchesASize(Steered):
    def steered(self, x):
        match x.shape[0]:
            case 2:
                return x * 2
            case _:
                return x if x.shape[1] in (5, 7) else x * 3


KINDS = [
    LooksUpASize,
    ComparesText,
    DividesWithRest,
    MatchesASize,
    Asserts,
    ComparesWithAConstant,
    ComparesShapes,
    ComparesCounts,
    AsksForTheDevice,
    AsksForTheDtype,
    LoopsOverHalf,
    RepeatsAList,
    TakesTheLength,
    SlicesAList,
    TakesTheSmaller,
]
"""Forms of asking for a size."""


def traced(kind: type[nn.Module], *shape: int) -> tuple[Any, Any]:
    torch.manual_seed(0)
    model = kind().eval()
    graph, missed = trace(model, {"x": torch.randn(*shape, H)})
    assert not missed
    return model, graph


@pytest.mark.parametrize("kind", KINDS)
def test_the_traced_model_computes_the_same(kind):
    model, graph = traced(kind, 2, 6)
    x = torch.randn(2, 6, H)
    torch.testing.assert_close(graph(x=x), model(x=x))


@pytest.mark.parametrize("kind", KINDS)
def test_on_another_shape_it_computes_the_same_or_refuses_with_the_authors_line(kind):
    model, graph = traced(kind, 2, 6)
    refusals: list[str] = []
    for shape in ((3, 6), (2, 5), (4, 8), (6, 6), (40, 7)):
        x = torch.randn(*shape, H)
        try:
            got = graph(x=x)
        except BadInput as error:
            refusals.append(str(error))
            continue
        torch.testing.assert_close(got, model(x=x))
    assert all(refusal.startswith("test_guards.py, line ") for refusal in refusals)


@pytest.mark.parametrize("kind", [TakesTheLength, TakesTheSmaller])
def test_sizes_that_only_compute_stay_symbolic(kind):
    model, graph = traced(kind, 2, 6)
    x = torch.randn(5, 3, H)
    torch.testing.assert_close(graph(x=x), model(x=x))


def test_a_guard_says_what_was_asked_and_what_it_is_now():
    _, graph = traced(ComparesWithAConstant, 2, 6)
    with pytest.raises(BadInput, match=r"line \d+ \(return x \* 2 if x.shape\[0\] == 4 .*was False .* is True now"):
        graph(x=torch.randn(4, 6, H))


def test_guards_survive_copies_dead_code_elimination_and_files():
    _, graph = traced(ComparesWithAConstant, 2, 6)
    again: Any = copy.deepcopy(graph)
    again.graph.eliminate_dead_code()
    again.recompile()
    file = io.BytesIO()
    torch.save(again, file)
    file.seek(0)
    with pytest.raises(BadInput, match="was False"):
        torch.load(file, weights_only=False)(x=torch.randn(4, 6, H))


class ReadsData(Steered):
    def steered(self, x):
        return x * 2 if x.sum() > 0 else x


class ReadsADataDependentSize(Steered):
    def steered(self, x):
        return x * 2 if x[x > 0].shape[0] > 3 else x


class ReadsAnItem(Steered):
    def steered(self, x):
        return x * 2 if int(x.argmax().item()) > 3 else x


class Counts(nn.Module):
    def forward(self, x):
        return x, [int((x > 0).sum())]


class ReadsANumberThatAModuleReturns(Steered):
    def __init__(self) -> None:
        super().__init__()
        self.counts = Counts()

    def steered(self, x):
        x, counts = self.counts(x)
        return x * 2 if counts[0] > 3 else x


@pytest.mark.parametrize("kind", [ReadsData, ReadsADataDependentSize, ReadsAnItem, ReadsANumberThatAModuleReturns])
def test_what_depends_on_contents_is_refused_with_the_authors_line(kind):
    with pytest.raises(Unsupported, match=r"test_guards.py, line \d+ \(return x \* 2 if .* what tensors hold"):
        traced(kind, 2, 6)


def test_require_same():
    require_same(3, 3, "here")
    with pytest.raises(BadInput, match=r"^here: .* was 3 .* is 4 now"):
        require_same(4, 3, "here")


class Keeps(nn.Module):
    def __init__(self) -> None:
        super().__init__()
        self.scale = torch.ones(())
        self.last: Tensor | None = None

    def forward(self, x):
        self.last = x.mean()
        return x


class ReadsWhatAModuleKept(Steered):
    def __init__(self) -> None:
        super().__init__()
        self.keeps: Any = Keeps()

    def steered(self, x):
        return self.keeps(x) * self.keeps.scale + self.keeps.last


def test_a_tensor_that_a_module_kept_in_its_forward_is_no_constant():
    with pytest.raises(Unsupported, match="reads a tensor that keeps kept as an attribute in its own forward"):
        traced(ReadsWhatAModuleKept, 2, 6)
