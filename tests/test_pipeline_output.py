from __future__ import annotations

import pytest
import torch
from safetensors import SafetensorError
from safetensors.torch import save_file
from tiny_models import pixels

import sdic_plugin.pipeline_output as module
from sdic_plugin import CheckpointError, SDICInversion


def test_inversion_file_round_trip_is_bitwise(inversion, tmp_path):
    path = tmp_path / "cat.safetensors"
    inversion.save(path)
    found = SDICInversion.load(path)
    for name, tensor in inversion.tensors().items():
        assert torch.equal(getattr(found, name), tensor)
        assert getattr(found, name).dtype == tensor.dtype
    assert [file.name for file in tmp_path.iterdir()] == [path.name]


def test_an_inversion_that_was_loaded_is_edited_alike(pipe, inversion, tmp_path):
    inversion[1].save(tmp_path / "one.safetensors")
    found = pixels(pipe, SDICInversion.load(tmp_path / "one.safetensors"), edits={"turn": 1.0})
    assert torch.equal(found, pixels(pipe, inversion[1], edits={"turn": 1.0}))


def test_half_precision_inversion_file(pipe, photos, tmp_path):
    pipe.to(torch.bfloat16)
    inversion = pipe.invert(photos)
    inversion.save(tmp_path / "half.safetensors")
    assert torch.equal(SDICInversion.load(tmp_path / "half.safetensors").features, inversion.features)


def test_a_damaged_inversion_file_is_refused(inversion, tmp_path):
    path = tmp_path / "cat.safetensors"
    inversion.save(path)
    whole = path.read_bytes()
    for content in (whole[: len(whole) // 2], b"", b"<!DOCTYPE html><html></html>", whole[:100]):
        path.write_bytes(content)
        with pytest.raises(CheckpointError, match="cannot be read"):
            SDICInversion.load(path)
    with pytest.raises(CheckpointError, match="cannot be read"):
        SDICInversion.load(tmp_path / "missing.safetensors")
    save_file({"image": torch.zeros(1)}, path)
    with pytest.raises(CheckpointError, match=r"is no inversion.*\['image'\]"):
        SDICInversion.load(path)
    tensors = {name: tensor.contiguous() for name, tensor in inversion.tensors().items()}
    tensors["latents"] = tensors["latents"][:2].clone()
    save_file(tensors, path, metadata={"format": "sdic-inversion-2"})
    with pytest.raises(CheckpointError, match="'latents': 2"):
        SDICInversion.load(path)


def test_a_failed_save_leaves_the_old_file(inversion, tmp_path, monkeypatch):
    path = tmp_path / "cat.safetensors"
    inversion.save(path)
    before = path.read_bytes()

    def fail_half_way(tensors, filename, metadata):
        filename.write_bytes(b"half")
        raise OSError("disk full")

    monkeypatch.setattr(module, "save_file", fail_half_way)
    with pytest.raises(OSError, match="disk full"):
        inversion.save(path)
    assert path.read_bytes() == before
    assert list(tmp_path.iterdir()) == [path]


def test_a_disk_that_safetensors_finds_full_is_an_os_error(inversion, tmp_path, monkeypatch):
    """So that a folder of photos notes it and goes on; safetensors' own error is none."""

    def fail(tensors, filename, metadata):
        raise SafetensorError("I/O error: No space left on device (os error 28)")

    monkeypatch.setattr(module, "save_file", fail)
    with pytest.raises(OSError, match=r"cannot be written .*No space left.*make room"):
        inversion.save(tmp_path / "cat.safetensors")
    assert not list(tmp_path.iterdir())


def test_inversion_indexing_and_joining(inversion):
    assert len(inversion) == 3
    one, last, part = inversion[1], inversion[-1], inversion[1:]
    assert (len(one), len(last), len(part), len(inversion[[2, 0]])) == (1, 1, 2, 2)
    for name, tensor in inversion.tensors().items():
        assert torch.equal(getattr(one, name), tensor[1:2])
        assert torch.equal(getattr(last, name), tensor[2:])
        assert torch.equal(getattr(inversion[[2, 0]], name), tensor[[2, 0]])
        assert torch.equal(getattr(SDICInversion.cat([inversion[0], part]), name), tensor)
    with pytest.raises(IndexError, match="Image 3 was asked for, but the inversion holds 3"):
        inversion[3]


def test_inversion_moves_and_casts(inversion):
    half = inversion.to(torch.float16)
    assert {tensor.dtype for tensor in half.tensors().values()} == {torch.float16}
    assert {tensor.dtype for tensor in inversion.tensors().values()} == {torch.float32}
    assert {tensor.device.type for tensor in inversion.to("meta").tensors().values()} == {"meta"}
