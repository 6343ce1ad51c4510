"""Tables of measurements: what is read, and what is refused with its line."""

from __future__ import annotations

import pytest

from craftc.errors import BadInput
from craftc.serving.measurements import Measurement, read_measurements

HEADER = "arm,replicas_per_gpu,request_rate,throughput,ttft_ms,itl_ms,kv_tokens"
ROWS = ("none,0,,10,,300,1000000", "craft,8,5,5,200.5,,", "plan.json,8,5,,180,,")


def read(tmp_path, *lines, end="\n"):
    path = tmp_path / "m.csv"
    path.write_bytes(end.join(lines).encode())
    return read_measurements(path)


def test_rows_are_read_with_their_lines(tmp_path):
    none, craft, plan = read(tmp_path, HEADER, *ROWS)
    assert (none.arm, none.replicas_per_gpu, none.request_rate, none.throughput, none.itl_ms) == (
        "none",
        0,
        None,
        10,
        300,
    )
    assert (none.kv_tokens, none.line, none.saturated) == (1e6, 2, True)
    assert (craft.line, craft.ttft_ms, craft.kv_tokens, craft.saturated) == (3, 200.5, None, False)
    assert plan.arm == "plan.json"


def test_spreadsheets_are_read_alike(tmp_path):
    plain = read(tmp_path, HEADER, *ROWS)
    lines = [
        f"\ufeff{HEADER.upper()}",
        *(f'"{row.replace(",", chr(34) + ", " + chr(34))}"' for row in ROWS),
        ",,,,,,",
        "",
    ]
    assert read(tmp_path, *lines, end="\r\n") == plain


def test_columns_come_in_any_order_and_may_be_missing(tmp_path):
    rows = read(tmp_path, "throughput,plan", "3,none", "", "3,none", "3.1,none")
    assert [(row.throughput, row.replicas_per_gpu, row.line) for row in rows] == [(3, 0, 2), (3, 0, 4), (3.1, 0, 5)]


def test_a_row_that_does_not_keep_up_is_saturated():
    assert Measurement("m", 2, "none", 0, request_rate=10, throughput=9).saturated
    assert not Measurement("m", 2, "none", 0, request_rate=10, throughput=9.8).saturated
    assert not Measurement("m", 2, "none", 0, request_rate=10, ttft_ms=9).saturated


@pytest.mark.parametrize(
    ("lines", "message"),
    [
        ([""], "empty"),
        ([HEADER], "0 rows have throughput or ttft_ms, calibration needs at least 3"),
        ([HEADER, *ROWS[:2]], "2 rows have"),
        (
            [HEADER.replace("throughput", "troughput"), *ROWS],
            "line 1: unknown column 'troughput'; did you mean throughput",
        ),
        ([HEADER.replace(",", ";"), *ROWS], "commas between them"),
        ([HEADER.replace("itl_ms", "ttft_ms"), *ROWS], "column ttft_ms is given 2 times"),
        (["arm,plan,throughput", "none,none,3"], "one column must be arm or plan"),
        (["throughput", "3"], "one column must be arm or plan"),
        (["arm,itl_ms", "none,3"], "no column throughput or ttft_ms"),
        ([HEADER, *ROWS, "none,0,5"], "line 5: 3 cells under 7 columns"),
        ([HEADER, *ROWS, ",0,,5,,,"], "line 5: arm or plan must be"),
        ([HEADER, *ROWS, "craft,,,5,,,"], "line 5: replicas_per_gpu is empty"),
        ([HEADER, *ROWS, "none,8,,5,,,"], "line 5: arm none has no replicas"),
        ([HEADER, *ROWS, "none,0,5,,,,"], "line 5: nothing is measured"),
        ([HEADER, *ROWS, "none,0,5,5.5,,,"], "line 5: throughput 5.5 is above the request_rate 5"),
        ([HEADER, *ROWS, "none,0,,12.5,,,"], "lines 2 and 5 contradict each other: throughput 10 and 12.5"),
        ([HEADER, *ROWS, "craft,8,5,,300,,"], "lines 3 and 5 contradict each other: ttft_ms"),
        ([HEADER, *ROWS, "none,0,3,,,,700000"], "lines 2 and 5 contradict each other: kv_tokens"),
        ([HEADER, *ROWS, '"none,0'], "not a table with commas"),
    ],
)
def test_what_cannot_be_used_is_refused(tmp_path, lines, message):
    with pytest.raises(BadInput, match=r"m\.csv") as caught:
        read(tmp_path, *lines)
    assert message in str(caught.value)
    assert "\n" not in str(caught.value)


@pytest.mark.parametrize("cell", ["nan", "inf", "-3", "0", "1_000", "12 ms", "1e999", "1e-999", "٣", "0x10", '"1,000"'])
def test_cells_are_plain_numbers_above_0(tmp_path, cell):
    with pytest.raises(BadInput, match="line 5: throughput"):
        read(tmp_path, HEADER, *ROWS, f"none,0,,{cell},,,")


@pytest.mark.parametrize("data", [b"\xff\xfea\x00", b"arm,\x00", b"\x80"])
def test_other_files_are_refused(tmp_path, data):
    (tmp_path / "m.csv").write_bytes(data)
    with pytest.raises(BadInput, match=r"m\.csv"):
        read_measurements(tmp_path / "m.csv")


def test_a_file_that_is_not_there_is_refused(tmp_path):
    with pytest.raises(BadInput, match="cannot be read"):
        read_measurements(tmp_path / "m.csv")


def test_a_rate_that_differs_a_little_is_not_a_contradiction(tmp_path):
    assert len(read(tmp_path, HEADER, *ROWS, "none,0,,11.9,,,", "craft,8,4,,300,,")) == 5
