from pathlib import Path

import pytest

from craftc.errors import BadInput
from craftc.report.goodput_picture import check_picture, draw_goodput
from tests.report.small_curves import curve_of

CURVES = [curve_of({0: 2.0, 1: 2.98, 2: 3.0, 4: 2.5}), curve_of({0: 2.0, 4: 2.6}, planner="craft")]


def test_curves_choice_band_and_baselines_are_drawn(tmp_path: Path):
    draw_goodput(CURVES, tmp_path / "a.svg")
    text = (tmp_path / "a.svg").read_text()
    for label in (
        "craftc",
        "craft",
        "chosen: 1 per GPU",
        "within 1% of the best",
        "EPLB as published",
        "ceiling",
        "GiB",
    ):
        assert label in text


@pytest.mark.parametrize(("suffix", "start"), [("svg", b"<?xml"), ("png", b"\x89PNG"), ("PNG", b"\x89PNG")])
def test_same_curves_same_bytes(tmp_path: Path, suffix: str, start: bytes):
    for name in ("a", "b"):
        draw_goodput(CURVES, tmp_path / f"{name}.{suffix}")
    first = (tmp_path / f"a.{suffix}").read_bytes()
    assert first.startswith(start)
    assert first == (tmp_path / f"b.{suffix}").read_bytes()


def test_another_choice_is_another_picture(tmp_path: Path):
    draw_goodput(CURVES, tmp_path / "a.svg")
    draw_goodput([curve_of({0: 2.0, 1: 2.5, 2: 3.0, 4: 2.5})], tmp_path / "b.svg")
    assert "chosen: 2 per GPU" in (tmp_path / "b.svg").read_text()


def test_one_number_of_replicas_can_be_drawn(tmp_path: Path):
    draw_goodput([curve_of({0: 2.0})], tmp_path / "a.svg")
    assert "chosen: 0 per GPU" in (tmp_path / "a.svg").read_text()


@pytest.mark.parametrize("name", ["a.pdf", "a", "a.svg.txt"])
def test_other_kinds_of_files_are_refused(tmp_path: Path, name: str):
    with pytest.raises(BadInput, match=r"a picture is written as \.svg or \.png"):
        check_picture(tmp_path / name)
    with pytest.raises(BadInput, match=r"\.svg or \.png"):
        draw_goodput(CURVES, tmp_path / name)
    assert list(tmp_path.iterdir()) == []


def test_a_folder_that_is_not_there(tmp_path: Path):
    with pytest.raises(BadInput, match="there is no folder"):
        draw_goodput(CURVES, tmp_path / "none" / "a.svg")
