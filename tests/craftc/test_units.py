import pytest
from hypothesis import given
from hypothesis import strategies as st

from craftc.errors import BadInput
from craftc.units import format_size, parse_seconds, parse_size


@pytest.mark.parametrize(
    ("text", "size_bytes"),
    [
        ("0B", 0),
        ("512 b", 512),
        ("84MiB", 84 * 2**20),
        ("1.5 GiB", 3 * 2**29),
        ("80GB", 80 * 10**9),
        ("2tib", 2**41),
    ],
)
def test_parses_explicit_units(text: str, size_bytes: int):
    assert parse_size(text) == size_bytes


def test_ambiguous_unit_is_refused_with_both_readings():
    with pytest.raises(BadInput, match=r"8GB \(8,000,000,000 bytes\) or 8GiB \(8,589,934,592 bytes\)"):
        parse_size("8G")


@pytest.mark.parametrize(
    "text", ["", "GiB", "-1GiB", "nan GiB", "inf", "1e3GiB", "1.2.3MB", "12", "5XB", "9" * 400 + "GiB"]
)
def test_refuses_in_one_line(text: str):
    with pytest.raises(BadInput) as caught:
        parse_size(text)
    assert "\n" not in str(caught.value)


@given(st.integers(0, 2**60))
def test_formatting_keeps_the_size_to_half_a_percent(size_bytes: int):
    number, unit = format_size(size_bytes).split()
    assert parse_size(f"{number}{unit}") == pytest.approx(size_bytes, rel=0.006)


@pytest.mark.parametrize(
    ("text", "seconds"),
    [("10s", 10), ("200ms", 0.2), ("1.5 s", 1.5), (" 30 S ", 30), ("250us", 0.00025), ("2min", 120), ("1h", 3600)],
)
def test_parses_times(text: str, seconds: float):
    assert parse_seconds(text) == pytest.approx(seconds, rel=1e-12)


def test_a_time_without_unit_is_refused_with_both_readings():
    with pytest.raises(BadInput, match="time '10' has no unit: write 10s or 10ms"):
        parse_seconds("10")


@pytest.mark.parametrize(
    "text", ["", "s", "-1s", "nan s", "inf", "1e3s", "1.2.3s", "1,5s", "5 sec", "10 s 200 ms", "9" * 400 + "s", "٣s"]
)
def test_refuses_other_times_in_one_line(text: str):
    with pytest.raises(BadInput) as caught:
        parse_seconds(text)
    assert "\n" not in str(caught.value)


@given(st.floats(0, 1e6), st.sampled_from(["us", "ms", "s"]))
def test_larger_numbers_are_longer_times(number: float, unit: str):
    text = f"{number:.6f}"
    assert parse_seconds(f"{text}{unit}") <= parse_seconds(f"{float(text) + 1:.6f}{unit}")
