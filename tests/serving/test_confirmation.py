"""The event simulation's word on an arm, within latency limits."""

from __future__ import annotations

from dataclasses import replace
from typing import Any

import pytest

from craftc.errors import BadInput
from craftc.serving.arm import Arm, measured_arm
from craftc.serving.confirmation import Confirmation, confirmed, ttft_limit
from craftc.serving.saturation import prefill_seconds, saturation
from craftc.serving.workload import Workload
from tests.serving.small_server import LAYERS, TOPOLOGY, cluster_of, server_of, skewed_loads

PLAIN = tuple((2 * gpu, 2 * gpu + 1) for gpu in range(16))
ARM = measured_arm("none", [PLAIN] * LAYERS, skewed_loads(1.0), server_of(), TOPOLOGY)
WORK = ARM.times.server.workload


def arm_of(workload: Workload = WORK, **figures: Any) -> Arm:
    return ARM.on(server_of(cluster_of(**figures), workload=workload))


def found_for(arm: Arm, ttft_limit_s: float, seed: int = 0) -> Confirmation:
    found = confirmed(arm, ttft_limit_s, seed)
    assert found is not None
    return found


def test_the_usual_limit_is_four_times_the_unloaded_time():
    assert ttft_limit(ARM) == pytest.approx(4 * prefill_seconds(ARM.times))
    assert ttft_limit(arm_of(replace(WORK, ttft_limit_s=3.0))) == 3.0


def test_a_limit_below_the_unloaded_time_is_refused_by_name():
    unloaded_s = prefill_seconds(ARM.times)
    ttft_limit(arm_of(replace(WORK, ttft_limit_s=unloaded_s * 1.001)))
    with pytest.raises(BadInput, match=rf"limit of .* s .* is below {unloaded_s:.3g} s, which a request takes without"):
        ttft_limit(arm_of(replace(WORK, ttft_limit_s=unloaded_s * 0.999)))


@pytest.mark.parametrize("sync", [0.0, 0.8, 1.0])
def test_with_many_requests_it_agrees_with_the_closed_form_within_15_percent(sync):
    arm = arm_of(server__sync=sync)
    assert arm.requests >= 50
    found = found_for(arm, ttft_limit(arm))
    assert abs(found.against_closed_form) < 0.15
    assert found.goodput == pytest.approx(saturation(arm.times, arm.requests).rate * (1 + found.against_closed_form))
    assert prefill_seconds(arm.times) < found.ttft_s <= ttft_limit(arm)
    assert found.itl_s > 0


def test_tighter_limits_serve_less():
    tighter, free = (found_for(ARM, factor * prefill_seconds(ARM.times)) for factor in (1.5, 4))
    assert tighter.goodput < 0.5 * free.goodput
    assert tighter.ttft_s == pytest.approx(1.5 * prefill_seconds(ARM.times), rel=0.05)
    limited = arm_of(replace(WORK, itl_limit_s=0.7 * free.itl_s))
    tight = found_for(limited, ttft_limit(ARM))
    assert tight.goodput < free.goodput
    assert tight.itl_s <= 0.7 * free.itl_s


def test_where_an_idle_server_breaks_a_limit_goodput_is_0():
    unloaded_s = prefill_seconds(ARM.times)
    found = found_for(ARM, 0.9 * unloaded_s)
    assert (found.goodput, found.ttft_s, found.against_closed_form) == (0, unloaded_s, -1)


def test_nothing_is_simulated_where_nothing_prefills_or_nothing_fits():
    assert confirmed(arm_of(Workload(1024, 128, phase="decode")), 1.0) is None
    assert confirmed(arm_of(chip__hbm_gib=0.3), 1.0) is None
    assert confirmed(arm_of(replace(WORK, itl_limit_s=1e-9)), 1.0) is None


def test_in_prefill_a_request_leaves_after_its_first_token():
    prefill, mixed = (arm_of(Workload(1024, output, phase="prefill")) for output in (128, 1))
    assert found_for(prefill, ttft_limit(prefill)) == found_for(mixed, ttft_limit(mixed))
    assert abs(found_for(prefill, ttft_limit(prefill)).against_closed_form) < 0.15


def test_the_same_seed_gives_the_same_figures():
    one, same, other = (found_for(ARM, ttft_limit(ARM), seed) for seed in (0, 0, 1))
    assert one == same != other
    assert other.goodput == pytest.approx(one.goodput, rel=0.05)
