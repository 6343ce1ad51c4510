import errno
import os
from pathlib import Path

import pytest

from craftc.errors import BadInput
from craftc.files.atomic_write import atomic_file, check_writable, write_bytes


def test_replaces_the_old_file_and_leaves_nothing_else(tmp_path: Path):
    path = tmp_path / "file"
    write_bytes(path, b"old")
    write_bytes(path, b"new")
    assert path.read_bytes() == b"new"
    assert list(tmp_path.iterdir()) == [path]
    (tmp_path / "plain").write_bytes(b"")
    assert path.stat().st_mode == (tmp_path / "plain").stat().st_mode, "the rights any new file gets"


def test_an_error_while_writing_keeps_the_old_file(tmp_path: Path):
    path = tmp_path / "file"
    write_bytes(path, b"old")
    with pytest.raises(ZeroDivisionError), atomic_file(path) as temporary:
        temporary.write_bytes(b"half" * (1 // 0))
    assert path.read_bytes() == b"old"
    assert list(tmp_path.iterdir()) == [path]


def test_a_full_disk_is_one_line_about_the_file(tmp_path: Path):
    path = tmp_path / "file"
    with pytest.raises(BadInput, match=r"^cannot write .*file: No space left on device$"), atomic_file(path):
        raise OSError(errno.ENOSPC, os.strerror(errno.ENOSPC))


def test_what_cannot_be_written_is_refused_before_the_work(tmp_path: Path):
    with pytest.raises(BadInput, match="is a folder"):
        check_writable(tmp_path)
    with pytest.raises(BadInput, match="there is no folder"):
        check_writable(tmp_path / "none" / "file")
    with pytest.raises(BadInput, match="File name too long"):
        write_bytes(tmp_path / ("x" * 300), b"")


def test_a_device_or_pipe_is_never_replaced(tmp_path: Path):
    pipe = tmp_path / "pipe"
    os.mkfifo(pipe)
    with pytest.raises(BadInput, match="pipe: it exists and is not a regular file"):
        write_bytes(pipe, b"")
    assert pipe.is_fifo()
