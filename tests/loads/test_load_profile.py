import numpy as np
import pytest

from craftc.errors import BadInput
from craftc.loads.load_profile import LoadProfile

COUNTS_SLE = np.arange(1, 25).reshape(4, 2, 3)


def with_cell(value: float) -> np.ndarray:
    counts_SLE = COUNTS_SLE.astype(float)
    counts_SLE[2, 1, 0] = value
    return counts_SLE


def test_counts_are_kept_exactly_and_read_only():
    profile = LoadProfile.from_counts(COUNTS_SLE.astype(np.uint8))
    assert profile.counts_SLE.dtype == np.int64
    assert (profile.counts_SLE == COUNTS_SLE).all()
    with pytest.raises(ValueError, match="read-only"):
        profile.counts_SLE[0, 0, 0] = 7


def test_changing_the_callers_array_does_not_change_the_profile():
    mine = COUNTS_SLE.astype(np.int64)
    profile = LoadProfile.from_counts(mine)
    mine[0, 0, 0] = 999
    assert profile.counts_SLE[0, 0, 0] == COUNTS_SLE[0, 0, 0]


def test_a_read_only_array_is_not_copied():
    mine = COUNTS_SLE.astype(np.int64)
    mine.flags.writeable = False
    assert LoadProfile.from_counts(mine).counts_SLE is mine
    assert np.shares_memory(LoadProfile.from_counts(mine).select_steps(slice(1, None)).counts_SLE, mine)


def test_a_read_only_view_of_an_array_that_can_change_is_copied():
    mine = COUNTS_SLE.astype(np.int64)
    view = mine[:]
    view.flags.writeable = False
    assert not np.shares_memory(LoadProfile.from_counts(view).counts_SLE, mine)


@pytest.mark.parametrize(
    ("value", "problem"),
    [
        (np.nan, "is not finite"),
        (np.inf, "is not finite"),
        (-1, "is negative"),
        (0.5, "not a whole number"),
        (2e16, "2\\^53"),
    ],
)
def test_a_bad_cell_is_named(value: float, problem: str):
    with pytest.raises(BadInput, match=rf"counts\[step 2, layer 1, expert 0\].*{problem}"):
        LoadProfile.from_counts(with_cell(value))


@pytest.mark.parametrize("shape", [(3,), (2, 3), (0, 2, 3), (2, 0, 3), (2, 3, 0), (1, 2, 3, 4)])
def test_wrong_shapes_are_refused(shape: tuple[int, ...]):
    with pytest.raises(BadInput, match="shape"):
        LoadProfile.from_counts(np.ones(shape))


def test_wrong_dtype_is_refused():
    with pytest.raises(BadInput, match="dtype"):
        LoadProfile.from_counts(np.full((1, 1, 2), "7"))
    with pytest.raises(BadInput, match="dtype bool"):
        LoadProfile.from_counts(np.ones((1, 1, 2), dtype=bool))


def test_totals_that_would_overflow_are_refused():
    with pytest.raises(BadInput, match=r"layer 0 has 9.01e\+18 tokens, more than 2\^62"):
        LoadProfile.from_counts(np.full((500, 1, 2), 2**53))


def test_a_layer_without_tokens_is_named():
    counts_SLE = COUNTS_SLE.copy()
    counts_SLE[:, 1] = 0
    with pytest.raises(BadInput, match=r"layer 1 \(layers.1\) has no tokens in any of 4 steps"):
        LoadProfile.from_counts(counts_SLE)


def test_names_must_match_the_axes():
    with pytest.raises(BadInput, match="1 layer_names for 2"):
        LoadProfile.from_counts(COUNTS_SLE, layer_names=("only.one",))
    with pytest.raises(BadInput, match="3 step names for 4 steps"):
        LoadProfile.from_counts(COUNTS_SLE, step_names=("a", "b", "c"))


def test_selecting_steps_keeps_their_names():
    even = LoadProfile.from_counts(COUNTS_SLE, step_names=("a", "b", "c", "d")).select_steps(slice(0, None, 2))
    assert even.step_names == ("a", "c")
    assert (even.counts_SLE == COUNTS_SLE[::2]).all()
    some = LoadProfile.from_counts(COUNTS_SLE, step_names=("a", "b", "c", "d")).select_steps((1, 3))
    assert some.step_names == ("b", "d")
    assert (some.counts_SLE == COUNTS_SLE[1::2]).all()
    assert LoadProfile.from_counts(COUNTS_SLE).select_steps([0]).step_names == ()


def test_fingerprint_depends_on_counts_and_shape_only():
    profile = LoadProfile.from_counts(COUNTS_SLE)
    assert profile.sha256 == LoadProfile.from_counts(COUNTS_SLE.astype(np.int32), provenance="elsewhere").sha256
    assert profile.sha256 != LoadProfile.from_counts(COUNTS_SLE.reshape(2, 4, 3)).sha256
    assert profile.sha256 != LoadProfile.from_counts(with_cell(0)).sha256


def test_some_layers_of_layers_that_differ():
    counts_SLE = np.ones((2, 3, 6), dtype=np.int64)
    counts_SLE[:, [0, 2], 4:] = 0
    loads = LoadProfile.from_counts(counts_SLE, layer_experts=(4, 6, 4))
    assert loads.experts_L == (4, 6, 4)
    assert loads.experts_text == "4 to 6 experts"
    assert loads.select_steps([1]).layer_experts == (4, 6, 4)
    alike = loads.select_layers([0, 2])
    assert (alike.layer_experts, alike.experts, alike.experts_text) == (None, 4, "4 experts")
    assert alike.layer_names == ("layers.0", "layers.2")
    assert loads.select_layers([2, 1]).layer_experts == (4, 6)
