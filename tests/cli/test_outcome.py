import json
import os
import shlex
import signal
import subprocess
import sys
from pathlib import Path

import pytest

from craftc.cli.outcome import INTERRUPTED, PIPE_CLOSED, Format, Result, guarded
from craftc.errors import BadInput, Infeasible
from tests.cli.command_line import PLAN
from tests.places import ROOT

CRAFTC = [sys.executable, "-c", "from craftc.cli import main; import sys; sys.exit(main())"]
"""The command in a process of its own."""
ENVIRONMENT = os.environ | {"PYTHONPATH": str(ROOT)}


def fine(format: Format) -> Result:
    print("a model file prints")
    os.write(1, b"a solver prints from C\n")
    return Result({"answer": 42}, "the answer\n", format, exit_code=1)


def test_only_the_result_reaches_stdout(capfd: pytest.CaptureFixture[str]):
    assert guarded(fine)(format=Format.json) == 1
    out, err = capfd.readouterr()
    assert json.loads(out) == {"answer": 42}
    assert "a model file prints" in err
    assert "a solver prints from C" in err
    assert guarded(fine)(format=Format.text) == 1
    assert capfd.readouterr().out == "the answer\n"


def raising(error: BaseException):
    def command(format: Format) -> Result:
        raise error

    return guarded(command)


@pytest.mark.parametrize(
    ("error", "code", "line"),
    [
        (BadInput("two\nlines"), 2, "error: two lines"),
        (Infeasible("no"), 1, "error: no"),
        (KeyboardInterrupt(), INTERRUPTED, "error: interrupted"),
        (MemoryError(), 2, "error: out of memory"),
        (ZeroDivisionError("one\ntwo"), 2, "error: internal error, please report it"),
    ],
)
def test_every_error_is_one_line(
    capfd: pytest.CaptureFixture[str], monkeypatch: pytest.MonkeyPatch, error: BaseException, code: int, line: str
):
    monkeypatch.delenv("CRAFTC_DEBUG", raising=False)
    assert raising(error)(format=Format.text) == code
    out, err = capfd.readouterr()
    assert out == ""
    assert err.startswith(line)
    assert err.count("\n") == 1


def test_an_error_is_a_document_too_when_json_is_wanted(capfd: pytest.CaptureFixture[str]):
    assert raising(Infeasible("no"))(format=Format.json) == 1
    assert json.loads(capfd.readouterr().out) == {"error": {"kind": "Infeasible", "message": "no"}}


def test_tracebacks_are_shown_when_asked_for(capfd: pytest.CaptureFixture[str], monkeypatch: pytest.MonkeyPatch):
    monkeypatch.setenv("CRAFTC_DEBUG", "1")
    raising(ZeroDivisionError("oops"))(format=Format.text)
    assert "Traceback" in capfd.readouterr().err


def test_a_reader_that_goes_away_is_no_error():
    command = [*CRAFTC, "show", PLAN]
    reader, writer = os.pipe()
    os.close(reader)
    done = subprocess.run(command, cwd=ROOT, stdout=writer, stderr=subprocess.PIPE, timeout=60)
    os.close(writer)
    assert done.returncode == PIPE_CLOSED
    assert done.stderr == b""


def test_control_c_ends_in_one_line(tmp_path: Path):
    """A real process and a real signal, while the model file sleeps."""
    (tmp_path / "slow.py").write_text(
        "import sys, time\ndef build_model():\n    print('building', file=sys.stderr, flush=True)\n    time.sleep(60)\n"
    )
    process = subprocess.Popen(
        [*CRAFTC, "inspect", "slow.py"],
        cwd=tmp_path,
        env=ENVIRONMENT,
        stdout=subprocess.PIPE,
        stderr=subprocess.PIPE,
        text=True,
        preexec_fn=lambda: signal.signal(signal.SIGINT, signal.SIG_DFL),  # background shells start jobs that ignore it
    )
    assert process.stderr is not None
    while "building" not in process.stderr.readline():
        assert process.poll() is None
    process.send_signal(signal.SIGINT)
    out, err = process.communicate(timeout=30)
    assert process.returncode == INTERRUPTED
    assert out == ""
    assert err.splitlines() == ["error: interrupted"]


@pytest.mark.skipif(not Path("/dev/full").exists(), reason="no /dev/full on this system")
@pytest.mark.parametrize("format", ["text", "json"])
def test_a_full_disk_under_stdout_is_one_line(format: str):
    command = [*CRAFTC, "show", PLAN, "--format", format]
    with open("/dev/full", "w") as full:
        ran = subprocess.run(command, env=ENVIRONMENT, stdout=full, stderr=subprocess.PIPE, timeout=60)
    assert (ran.returncode, ran.stderr) == (2, b"error: cannot write to stdout: No space left on device\n")


@pytest.mark.parametrize(("plan", "code"), [(PLAN, 0), ("no_such_plan.json", 2)])
def test_closed_streams_lead_nowhere(plan: str, code: int):
    command = f"{shlex.join([*CRAFTC, 'show', plan])} <&- >&- 2>&-"
    assert subprocess.run(["sh", "-c", command], env=ENVIRONMENT, timeout=60).returncode == code
