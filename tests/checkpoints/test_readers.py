"""Reading checkpoint files: every kind that people have, every damage named, and nothing in them ever run."""

from __future__ import annotations

import argparse
import collections
import html
import io
import pickle
import types
import zipfile
from pathlib import Path

import numpy as np
import pytest
import safetensors.torch
import torch
from testing.checkpoints import save, sentence
from torch import nn

from sdic_plugin import CheckpointError
from sdic_plugin.conversion import convert, read_checkpoint


def test_published_options_are_read(tmp_path):
    content = {"opts": argparse.Namespace(encoder_type="Encoder4Editing", lr=1e-3, path=None), "x": torch.ones(2)}
    read = read_checkpoint(save(content, tmp_path / "a.pt"))
    assert read["opts"] == content["opts"]
    assert torch.equal(read["x"], content["x"])


def test_numpy_values_in_options_are_read(tmp_path):
    values = {"lr": np.float64(1e-3), "size": np.int64(256), "flip": np.bool_(True), "mean": np.ones(3)}
    for zipped in (True, False):
        path = save({"opts": argparse.Namespace(**values)}, tmp_path / "a.pt", _use_new_zipfile_serialization=zipped)
        options = vars(read_checkpoint(path)["opts"])
        assert all(np.array_equal(options[name], value) for name, value in values.items())
    save({"opts": values, "x": np.array([Path("/home")], dtype=object)}, path)
    with pytest.raises(CheckpointError) as error:
        read_checkpoint(path)
    sentence(error, "pathlib", "refused")
    assert "numpy" not in str(error.value)


@pytest.mark.parametrize("suffix", [".pt", ".pth", ".ckpt", ".tar", ""])
def test_the_format_before_pytorch_1_6(tmp_path, suffix):
    content = {"state_dict": collections.OrderedDict(x=torch.arange(6.0).reshape(2, 3).T)}
    path = save(content, tmp_path / f"a{suffix}", _use_new_zipfile_serialization=False)
    assert torch.equal(read_checkpoint(path)["state_dict"]["x"], content["state_dict"]["x"])


@pytest.mark.parametrize("zipped", [True, False])
def test_files_saved_on_a_gpu(tmp_path, monkeypatch, zipped):
    monkeypatch.setattr(torch.serialization, "location_tag", lambda storage: "cuda:3")
    path = save({"x": torch.ones(3)}, tmp_path / "a.pt", _use_new_zipfile_serialization=zipped)
    assert b"cuda:3" in path.read_bytes()
    read = read_checkpoint(path)["x"]
    assert read.device.type == "cpu"
    assert read.tolist() == [1, 1, 1]


@pytest.mark.parametrize("suffix", [".safetensors", ".pt"])
def test_safetensors_are_told_by_their_content(tmp_path, suffix):
    safetensors.torch.save_file({"x": torch.ones(3)}, tmp_path / f"a{suffix}")
    assert read_checkpoint(tmp_path / f"a{suffix}")["x"].tolist() == [1, 1, 1]


def text_file(text: bytes):
    return lambda path: path.write_bytes(text)


def cut(zipped: bool, keep: float):
    def write(path: Path) -> None:
        torch.save({"x": torch.randn(2000)}, path, _use_new_zipfile_serialization=zipped)
        data = path.read_bytes()
        path.write_bytes(data[: int(len(data) * keep)])

    return write


def cut_safetensors(keep: int):
    def write(path: Path) -> None:
        path.write_bytes(safetensors.torch.save({"x": torch.randn(2000)})[:keep])

    return write


def archive(*members: str):
    def write(path: Path) -> None:
        with zipfile.ZipFile(path, "w") as file:
            for member in members:
                file.writestr(member, "content")

    return write


BAD_FILES = {
    "empty": ("a.pt", text_file(b""), ["empty", "download it again"]),
    "web page": ("a.pt", text_file(b"\n <!DOCTYPE html><html><body>Virus scan warning"), ["web page", "again"]),
    "web page, old": ("a.safetensors", text_file(b"<HTML><HEAD>"), ["web page", "again"]),
    "error page": ("a.pt", text_file(b'<?xml version="1.0"?><Error>'), ["web page", "again"]),
    "byte order mark": ("a.pkl", text_file("\ufeff<!doctype html>".encode()), ["web page", "again"]),
    "LFS": ("a.pt", text_file(b"version https://git-lfs.github.com/spec/v1\noid sha256:1"), ["git lfs pull"]),
    "text": ("a.pt", text_file(b"access denied"), ["no checkpoint", "access denied", ".safetensors"]),
    "noise": ("a.pt", text_file(bytes(range(40, 250))), ["no checkpoint"]),
    "zip, cut": ("a.pt", cut(True, 0.6), ["cut off", "download it again"]),
    "zip, cut at its end": ("a.pt", cut(True, 0.99), ["cut off", "download it again"]),
    "legacy, cut in the tensors": ("a.pt", cut(False, 0.6), ["damaged or cut off", "download it again"]),
    "legacy, cut in the pickle": ("a.pt", cut(False, 0.02), ["damaged or cut off", "download it again"]),
    "safetensors, cut": ("a.safetensors", cut_safetensors(4000), ["damaged or cut off", "download it again"]),
    "safetensors, cut in the header": ("a.safetensors", cut_safetensors(20), ["damaged or cut off"]),
    "safetensors, text": ("a.safetensors", text_file(b"not found at all"), ["damaged or cut off"]),
    "other archive": ("a.zip", archive("model/weights.pt", "readme.txt"), ["ZIP archive", "unpack"]),
    "TorchScript": ("a.pt", archive("a/data.pkl", "a/constants.pkl"), ["TorchScript"]),
    "tensor": ("a.pt", lambda path: torch.save(torch.ones(3), path), ["a Tensor rather than named weights"]),
    "list": ("a.pt", lambda path: torch.save([torch.ones(3)], path), ["a list rather than named weights"]),
    "numbered": ("a.pt", lambda path: torch.save({0: torch.ones(3)}, path), ["rather than named weights"]),
    "plain pickle": ("a.pt", lambda path: path.write_bytes(pickle.dumps({"x": 1}, 4)), ["torch.save"]),
}


@pytest.mark.parametrize("name", BAD_FILES)
def test_bad_files_get_a_plain_sentence(tmp_path, name):
    file, write, words = BAD_FILES[name]
    write(tmp_path / file)
    with pytest.raises(CheckpointError) as error:
        read_checkpoint(tmp_path / file)
    sentence(error, file, *words)
    with pytest.raises(CheckpointError):
        convert(tmp_path / file, tmp_path / "out")
    assert [path.name for path in tmp_path.iterdir()] == [file]


def test_missing_file_and_folder(tmp_path):
    with pytest.raises(CheckpointError) as error:
        read_checkpoint(tmp_path / "absent.pt")
    sentence(error, "no file", "absent.pt")
    with pytest.raises(CheckpointError) as error:
        read_checkpoint(tmp_path)
    sentence(error, "is a folder")


class Trap:
    """Creates a file when it is unpickled."""

    def __init__(self, path: Path) -> None:
        self.path = path

    def __reduce__(self) -> tuple:
        return open, (str(self.path), "w")


class LateTrap(Trap):
    """The same by way of `exec`, which needs no file name that looks like one."""

    def __reduce__(self) -> tuple:
        return exec, (f"import pathlib; pathlib.Path({str(self.path)!r}).touch()",)


def zip_with_pickle(content: bytes, path: Path) -> None:
    """Put another pickle into a checkpoint that `torch.save` wrote."""
    buffer = io.BytesIO()
    torch.save({"x": torch.ones(3)}, buffer)
    with zipfile.ZipFile(buffer) as source, zipfile.ZipFile(path, "w") as target:
        for member in source.namelist():
            target.writestr(member, content if member.endswith("data.pkl") else source.read(member))


@pytest.mark.parametrize("trap", [Trap, LateTrap])
@pytest.mark.parametrize("container", ["zip", "legacy", "pickle 2", "pickle 4", "rewritten zip"])
def test_nothing_in_a_file_is_ever_run(tmp_path, monkeypatch, trap, container):
    # Not even when the user's environment asks PyTorch to trust everything.
    monkeypatch.setenv("TORCH_FORCE_NO_WEIGHTS_ONLY_LOAD", "1")
    witness, path = tmp_path / "ran", tmp_path / "hostile.pt"
    content = {"state_dict": {"x": torch.ones(2)}, "opts": trap(witness)}
    if container in ("zip", "legacy"):
        torch.save(content, path, _use_new_zipfile_serialization=container == "zip")
    elif container == "rewritten zip":
        zip_with_pickle(pickle.dumps({"opts": trap(witness)}, 2), path)
    else:
        path.write_bytes(pickle.dumps({"opts": trap(witness)}, int(container[-1])))
    with pytest.raises(CheckpointError) as error:
        read_checkpoint(path)
    sentence(error, "refused", "exec" if trap is LateTrap else "io.open")
    assert not witness.exists()
    # The trap is real: trusting the file springs it.
    if container.startswith("pickle"):
        pickle.loads(path.read_bytes())
        assert witness.exists()


def test_only_namespaces_are_allowed_beside_tensors(tmp_path):
    for name, content in {
        "types.SimpleNamespace": types.SimpleNamespace(encoder_type="e4e"),
        "torch.nn.modules.linear.Linear": nn.Linear(2, 2),
        "pathlib": Path("/home"),
        "html.unescape": html.unescape,
    }.items():
        path = save({"state_dict": {}, "opts": content}, tmp_path / "a.pt")
        with pytest.raises(CheckpointError) as error:
            read_checkpoint(path)
        sentence(error, name, "refused")
    assert argparse.Namespace not in torch.serialization.get_safe_globals()
