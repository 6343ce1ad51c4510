"""Lookups in a step table, and the tables that are refused."""

import numpy as np
import pytest
from hypothesis import given, settings
from hypothesis import strategies as st

from craftc.errors import BadInput
from craftc.serving.step_table import StepTable

DECODES = np.array([0.0, 10.0, 40.0])
SECONDS = np.array([[0.0, 1.0, 1.6], [2.0, 3.0, 6.0], [4.0, 5.0, 5.0]])


def test_a_lookup_is_linear_between_columns_and_goes_on_beyond_the_last():
    table = StepTable(DECODES, SECONDS)
    assert table.ranks == 2
    looked_up = [table.seconds(0, 0), table.seconds(0, 5), table.seconds(1, 10), table.seconds(1, 20)]
    assert looked_up == pytest.approx([0.0, 0.5, 3.0, 4.0])
    assert [table.seconds(1, 40), table.seconds(1, 60)] == pytest.approx([6.0, 8.0])


def test_time_never_falls_beyond_the_last_column():
    table = StepTable(DECODES, np.array([[1.0, 2.0, 0.5], [1.0, 2.0, 3.0]]))
    assert table.seconds(0, 1e9) == 0.5


def test_one_column_is_constant():
    table = StepTable(np.array([0.0]), np.array([[1.0], [2.0]]))
    assert [table.seconds(0, 99), table.seconds(1, 0)] == [1.0, 2.0]


def test_whole_numbers_are_numbers():
    assert StepTable(np.array([0, 2]), np.array([[1, 2], [3, 4]])).seconds(1, 1) == 3.5


@settings(deadline=None, max_examples=50)
@given(st.integers(0, 2**32 - 1), st.integers(1, 5), st.integers(1, 6))
def test_within_the_table_it_agrees_with_numpy(seed, ranks, columns):
    rng = np.random.default_rng(seed)
    decodes_D = np.concatenate([[0.0], np.cumsum(rng.uniform(0.1, 9, columns))])
    seconds_KD = rng.uniform(0.01, 5, (ranks + 1, columns + 1))
    table = StepTable(decodes_D, seconds_KD)
    for decodes in [*decodes_D, *rng.uniform(0, decodes_D[-1], 5)]:
        row = int(rng.integers(0, ranks + 1))
        assert table.seconds(row, decodes) == pytest.approx(np.interp(decodes, decodes_D, seconds_KD[row]))


@pytest.mark.parametrize(
    ("decodes_D", "seconds_KD", "message"),
    [
        ([0.0, 1.0], SECONDS, "decodes_D must be an array of numbers with 1 axes, got list"),
        (np.array(["0"]), SECONDS, "decodes_D must be an array of numbers"),
        (DECODES, SECONDS[0], "seconds_KD must be an array of numbers with 2 axes"),
        (DECODES[1:], SECONDS[:, 1:], "must start at 0 and ascend"),
        (np.array([0.0, 5.0, 5.0]), SECONDS, "must start at 0 and ascend"),
        (np.array([]), np.zeros((2, 0)), "must start at 0 and ascend"),
        (np.array([0.0, np.nan, 5.0]), SECONDS, "decodes_D must be finite, got nan"),
        (DECODES, SECONDS[:1], "1 or more ranks"),
        (DECODES, SECONDS[:, :2], "3 columns like decodes_D"),
        (DECODES, np.where(SECONDS == 3, np.nan, SECONDS), "seconds_KD must be finite, got nan"),
        (DECODES, np.where(SECONDS == 3, np.inf, SECONDS), "seconds_KD must be finite, got inf"),
        (DECODES, np.where(SECONDS == 3, -3, SECONDS), "1 ranks that prefill and 10 decodes .* got -3"),
        (DECODES, np.where(SECONDS == 1.6, 0, SECONDS), "0 ranks that prefill and 40 decodes"),
        (DECODES, SECONDS - 0.1, "0 ranks that prefill and 0 decodes"),
    ],
)
def test_a_table_that_cannot_be_is_refused_in_one_line(decodes_D, seconds_KD, message):
    with pytest.raises(BadInput, match=message) as error:
        StepTable(decodes_D, seconds_KD)
    assert "\n" not in str(error.value)


@pytest.mark.parametrize(("prefilling", "decodes"), [(-1, 0), (3, 0), (0, -1), (0, np.nan), (0, np.inf)])
def test_a_step_outside_the_table_is_refused(prefilling, decodes):
    with pytest.raises(BadInput, match=r"holds 0\.\.2 ranks"):
        StepTable(DECODES, SECONDS).seconds(prefilling, decodes)
