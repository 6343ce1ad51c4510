"""Options of the serving model: what they make, and what is refused with the name of the option."""

from __future__ import annotations

import inspect
from typing import Any

import pytest

from craftc.cli import serving_options
from craftc.cli.serving_options import PhaseChoice, given_server, given_workload
from craftc.errors import BadInput
from craftc.serving.cluster import preset_names
from craftc.serving.workload import Workload
from tests.serving.small_server import model_of

DEFAULTS: dict[str, Any] = {
    "input": 4096,
    "output": 256,
    "chunk": 4096,
    "phase": PhaseChoice.mixed,
    "batch": None,
    "slo_ttft": None,
    "slo_itl": None,
}


def workload_of(**options: Any) -> Workload:
    return given_workload(**{**DEFAULTS, **options})


def test_defaults_are_those_of_a_workload():
    assert workload_of() == Workload()


def test_every_option_arrives():
    made = workload_of(input=100, output=10, chunk=50, slo_ttft="1.5s", slo_itl="200ms")
    assert made == Workload(100, 10, 50, ttft_limit_s=1.5, itl_limit_s=0.2)
    assert workload_of(phase=PhaseChoice.decode, batch=3) == Workload(phase="decode", batch=3)


@pytest.mark.parametrize(
    ("options", "message"),
    [
        ({"batch": 4}, "--batch goes with --phase decode"),
        ({"batch": 4, "phase": PhaseChoice.prefill}, "--batch goes with --phase decode; in phase prefill"),
        ({"batch": 0, "phase": PhaseChoice.decode}, "batch must be at least 1"),
        ({"slo_ttft": "1s", "phase": PhaseChoice.decode}, "--slo-ttft has no use with --phase decode"),
        ({"slo_itl": "1s", "phase": PhaseChoice.prefill}, "--slo-itl has no use with --phase prefill"),
        ({"slo_ttft": "10"}, "--slo-ttft: time '10' has no unit: write 10s or 10ms"),
        ({"slo_itl": "fast"}, "--slo-itl: time 'fast': expected a number and a unit"),
        ({"slo_itl": "-1s"}, "--slo-itl: time '-1s': expected"),
        ({"slo_ttft": "0s"}, "--slo-ttft: a limit must be above 0, got '0s'"),
        ({"input": 0}, "input must be a number of tokens"),
        ({"output": -1}, "output must be a number of tokens"),
        ({"chunk": 0}, "chunk must be a number of tokens"),
    ],
)
def test_what_is_wrong_or_has_no_use_is_named(options: dict[str, Any], message: str):
    with pytest.raises(BadInput) as caught:
        workload_of(**options)
    assert message in str(caught.value)
    assert "\n" not in str(caught.value)


def test_a_server_is_a_model_on_a_cluster():
    server = given_server(model_of(), "h200-ib", workload_of())
    assert (server.cluster.name, server.workload) == ("h200-ib", Workload())


def test_a_server_needs_the_models_config_and_a_known_cluster():
    with pytest.raises(BadInput, match=r"--cluster needs --model-config config\.json"):
        given_server(None, "h200-ib", workload_of())
    with pytest.raises(BadInput, match=r"cluster 'h200' is neither a file nor a preset; did you mean h200-ib"):
        given_server(model_of(), "h200", workload_of())


def test_the_help_names_every_preset():
    text = inspect.getsource(serving_options)
    for name in preset_names():
        assert name in text


def test_phases_are_those_of_a_workload():
    for phase in PhaseChoice:
        assert workload_of(phase=phase).phase == phase.value
