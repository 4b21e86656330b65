"""Files appear whole or not at all, with the permissions of ordinary files."""

from __future__ import annotations

import os
from collections.abc import Iterator
from pathlib import Path

import pytest
import torch
from safetensors.torch import save_file

from sdic_plugin import SDICError, SDICInversion
from sdic_plugin.utils.files import check_output_file, check_output_folder, new_file_mode, replacing_file

pytestmark = pytest.mark.skipif(os.name != "posix", reason="permissions of POSIX systems")


@pytest.fixture(params=[0o022, 0o007, 0o077], ids=oct)
def ordinary(request, tmp_path) -> Iterator[int]:
    """The permissions of a file that is written in the ordinary way, under several umasks."""
    previous = os.umask(request.param)
    (tmp_path / "ordinary").write_text("x")
    yield mode(tmp_path / "ordinary")
    os.umask(previous)


def mode(path: Path) -> int:
    return path.stat().st_mode & 0o777


def test_permissions_are_those_of_ordinary_files(ordinary, tmp_path, pipe, inversion):
    assert new_file_mode(tmp_path) == ordinary
    pipe.save_pretrained(tmp_path / "model")
    pipe.save_edits(tmp_path / "edits")
    inversion.save(tmp_path / "a.safetensors")
    with replacing_file(tmp_path / "new" / "b.safetensors") as temporary:
        save_file({"x": torch.ones(1)}, temporary)
    files = [path for path in tmp_path.rglob("*") if path.is_file()]
    assert len([path for path in files if path.suffix == ".safetensors"]) == 8
    assert {path.name: mode(path) for path in files} == {path.name: ordinary for path in files}


def test_a_file_that_is_replaced_keeps_its_permissions(tmp_path, inversion):
    inversion.save(tmp_path / "a.safetensors")
    (tmp_path / "a.safetensors").chmod(0o640)
    inversion[:1].save(tmp_path / "a.safetensors")
    assert mode(tmp_path / "a.safetensors") == 0o640
    assert len(SDICInversion.load(tmp_path / "a.safetensors")) == 1


def test_a_failure_leaves_what_was_there(tmp_path):
    (tmp_path / "a").write_text("old")
    with pytest.raises(RuntimeError), replacing_file(tmp_path / "a") as temporary:
        temporary.write_text("half")
        raise RuntimeError
    assert {path.name: path.read_text() for path in tmp_path.iterdir()} == {"a": "old"}


def test_outputs_that_can_be_written_leave_no_trace_when_they_are_checked(tmp_path):
    (tmp_path / "there").mkdir()
    for folder in (tmp_path, tmp_path / "there", tmp_path / "new" / "below"):
        check_output_folder(folder)
        check_output_file(folder / "set.safetensors")
    assert [path.name for path in tmp_path.rglob("*")] == ["there"]


@pytest.mark.parametrize(
    ("name", "reason"),
    [
        ("file", "Not a directory"),
        ("file/below", "Not a directory"),
        ("dangling", "No such file"),
        ("/proc/sdic/out", "No such file|Permission denied|Read-only|not permitted"),
        ("/dev/null/out", "Not a directory"),
        ("x" * 300, "File name too long"),
        ("null\0byte", "null"),
        ("\x1b[31m/" + "y" * 300, "File name too long"),
    ],
    ids=lambda text: repr(text[:9]),
)
def test_outputs_that_cannot_be_written_are_refused_before_the_work(tmp_path, name, reason):
    (tmp_path / "file").write_text("x")
    (tmp_path / "dangling").symlink_to(tmp_path / "nowhere")
    for check in (check_output_folder, lambda folder: check_output_file(folder / "set.safetensors")):
        with pytest.raises(SDICError, match=rf"cannot be (made or )?written \(.*({reason})") as caught:
            check(tmp_path / name)
        assert str(caught.value).isprintable() and len(str(caught.value)) < 300
    with pytest.raises(SDICError, match="is a folder"):
        check_output_file(tmp_path)
