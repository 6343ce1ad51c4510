import os
import signal
import subprocess
import sys
from pathlib import Path

import pytest

from craftc.errors import BadInput
from craftc.files import output_folder as module
from craftc.files.output_folder import check_replaceable, output_folder

OURS = ("plan.json", "weights/*.safetensors")

KILLED = """
import sys, time
from pathlib import Path
from craftc.files.output_folder import output_folder
from craftc.files import output_folder as module
with output_folder(Path(sys.argv[1]), ("plan.json", "weights/*.safetensors")) as folder:
    (folder / "plan.json").write_text("half")
    if sys.argv[2] == "swapping":
        module._swap_in = lambda temporary, target: (print("ready", flush=True), time.sleep(60))
    else:
        print("ready", flush=True)
        time.sleep(60)
"""


def write(path: Path, text: str) -> None:
    with output_folder(path, OURS) as folder:
        (folder / "weights").mkdir()
        (folder / "weights" / "gpu-00000.safetensors").write_text(text)
        (folder / "plan.json").write_text(text)


def texts(path: Path) -> dict[str, str]:
    return {file.relative_to(path).as_posix(): file.read_text() for file in path.rglob("*") if file.is_file()}


def both(text: str) -> dict[str, str]:
    return {"plan.json": text, "weights/gpu-00000.safetensors": text}


def test_the_new_folder_takes_the_old_ones_place(tmp_path: Path):
    target = tmp_path / "deep" / "out [1]"
    write(target, "old")
    write(target, "new")
    assert texts(target) == both("new")
    assert list(target.parent.iterdir()) == [target]


def test_without_an_atomic_exchange_too(tmp_path: Path, monkeypatch: pytest.MonkeyPatch):
    monkeypatch.setattr(module, "_exchange", lambda first, other: False)
    write(tmp_path / "out", "old")
    write(tmp_path / "out", "new")
    assert texts(tmp_path / "out") == both("new")
    assert list(tmp_path.iterdir()) == [tmp_path / "out"]


def test_an_error_while_writing_keeps_the_old_folder(tmp_path: Path):
    write(tmp_path / "out", "old")
    with pytest.raises(ZeroDivisionError), output_folder(tmp_path / "out", OURS) as folder:
        (folder / "plan.json").write_text("half" * (1 // 0))
    assert texts(tmp_path / "out") == both("old")
    assert list(tmp_path.iterdir()) == [tmp_path / "out"]


@pytest.mark.parametrize("moment", ["writing", "swapping"])
@pytest.mark.parametrize("old", [True, False])
def test_a_kill_keeps_the_old_folder_and_the_next_run_cleans_up(tmp_path: Path, moment: str, old: bool):
    target = tmp_path / "out"
    if old:
        write(target, "old")
    process = subprocess.Popen([sys.executable, "-c", KILLED, str(target), moment], stdout=subprocess.PIPE, text=True)
    assert process.stdout is not None
    assert process.stdout.readline() == "ready\n"
    process.send_signal(signal.SIGKILL)
    process.wait(timeout=30)
    process.stdout.close()
    assert (texts(target) if target.exists() else {}) == (both("old") if old else {})
    assert len(list(tmp_path.glob(".out.craftc-*"))) == 1
    write(target, "new")
    assert texts(target) == both("new")
    assert list(tmp_path.iterdir()) == [target]


def test_a_run_that_is_alive_is_not_cleaned_up(tmp_path: Path):
    with output_folder(tmp_path / "out", OURS) as folder:
        (folder / "plan.json").write_text("first")
        write(tmp_path / "out", "second")
        assert texts(folder) == {"plan.json": "first"}
    assert texts(tmp_path / "out") == {"plan.json": "first"}


def test_a_folder_with_other_files_is_never_replaced(tmp_path: Path):
    (tmp_path / "thesis.txt").write_text("ten years")
    with pytest.raises(BadInput, match=r"did not write, such as thesis\.txt \(1 in all\): choose a new folder"):
        write(tmp_path, "new")
    assert texts(tmp_path) == {"thesis.txt": "ten years"}


def test_neither_a_file_nor_a_link_is_replaced(tmp_path: Path):
    (tmp_path / "file").write_text("")
    (tmp_path / "link").symlink_to(tmp_path)
    for name in ("file", "link"):
        with pytest.raises(BadInput, match="is not a folder"):
            check_replaceable(tmp_path / name, OURS)
    with pytest.raises(BadInput, match="no permission to write in"):
        check_replaceable(tmp_path / "file" / "below", OURS)


@pytest.mark.skipif(os.geteuid() == 0, reason="root may write everywhere")
def test_a_read_only_parent_is_refused(tmp_path: Path):
    tmp_path.chmod(0o500)
    with pytest.raises(BadInput, match="no permission to write"):
        check_replaceable(tmp_path / "out", OURS)
