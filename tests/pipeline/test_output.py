from __future__ import annotations

import dataclasses
import io
import logging
import pickle
from pathlib import Path

import pytest
import torch
from safetensors import SafetensorError, safe_open
from safetensors.torch import save_file
from testing.tiny_models import make_model, pixels

from sdic_plugin import CheckpointError, SDICError, SDICInversion, SDICPipeline
from sdic_plugin.pipeline import output as module
from sdic_plugin.utils.precision import without_false_alarms


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


def saved_as(inversion: SDICInversion, path: Path, known: str) -> Path:
    """Write an inversion as an earlier version did."""
    tensors = {name: tensor.contiguous().clone() for name, tensor in inversion.tensors().items()}
    if known == "sdic-inversion-1":
        del tensors["reference_skip_image"]
    save_file(tensors, path, metadata={"format": known})
    return path


@pytest.mark.parametrize("known", ["sdic-inversion-1", "sdic-inversion-2"])
def test_files_of_earlier_versions_load(pipe, inversion, tmp_path, known):
    path = saved_as(inversion, tmp_path / "old.safetensors", known)
    for found in (SDICInversion.load(path), pipe.load_inversion(path)):
        assert found.generator_id is None and len(found) == 3
        torch.testing.assert_close(
            pixels(pipe, found, edits={"turn": 1.0}), pixels(pipe, inversion, edits={"turn": 1.0})
        )
    found.save(tmp_path / "new.safetensors")
    assert list(pipe.load_inversion(tmp_path / "new.safetensors").tensors()) == list(found.tensors())


@pytest.fixture
def known_pipe(pipe) -> SDICPipeline:
    pipe.generator.register_to_config(generator_id="0123456789abcdef")
    return pipe


def test_an_inversion_knows_its_generator(known_pipe, photos, tmp_path):
    inversion = known_pipe.invert(photos)
    parts = [inversion, inversion[0], inversion.to(torch.float16), inversion[:1].repeat(4), pickle_of(inversion)]
    parts += [SDICInversion.cat([inversion[0], inversion[1]]), known_pipe.refine(inversion, 1)]
    assert {part.generator_id for part in parts} == {"0123456789abcdef"}
    inversion.save(tmp_path / "a.safetensors")
    with safe_open(tmp_path / "a.safetensors", framework="pt") as file:
        assert file.metadata() == {"format": "sdic-inversion-3", "generator_id": "0123456789abcdef"}
    assert known_pipe.load_inversion(tmp_path / "a.safetensors").generator_id == "0123456789abcdef"
    assert SDICInversion.load(tmp_path / "a.safetensors").generator_id == "0123456789abcdef"


def pickle_of(inversion: SDICInversion) -> SDICInversion:
    return pickle.loads(pickle.dumps(inversion))


def test_an_inversion_of_another_generator_is_refused(known_pipe, photos, tmp_path):
    inversion = known_pipe.invert(photos)
    inversion.save(tmp_path / "a.safetensors")
    known_pipe.generator.register_to_config(generator_id="another")
    for use in (lambda: known_pipe.load_inversion(tmp_path / "a.safetensors"), lambda: known_pipe.edit(inversion)):
        with pytest.raises(
            CheckpointError, match="made with the generator '0123456789abcdef', but this pipeline's is"
        ):
            use()
    with pytest.raises(CheckpointError, match="2 inversions of 2 generators"):
        SDICInversion.cat([inversion, known_pipe.invert(photos)])


def test_the_generator_that_inverted_counts_not_the_one_that_renders(known_pipe, photos):
    other = make_model("generator", generator_id="another")
    swapped = known_pipe.with_generator(other)
    for pipe in (known_pipe, swapped):
        for inversion in (known_pipe.invert(photos), swapped.invert(photos)):
            pipe.edit(inversion)


NOT_IN_FILES = ("generator_id", "transport_at_rest", "transport_key")
IN_FILES = [name for name in SDICInversion.__dataclass_fields__ if name not in NOT_IN_FILES]


@pytest.mark.parametrize("name", IN_FILES)
def test_inversions_of_other_shapes_are_refused_before_they_render(pipe, inversion, tmp_path, name):
    """Features of 1 x 1 would be spread over the picture without a word."""
    tensor = getattr(inversion, name)
    for other in (tensor[..., :1].clone(), tensor[:2].clone(), tensor[:, :1].clone()):
        changed = dataclasses.replace(inversion, **{name: other})
        with pytest.raises(CheckpointError, match=r"has the shape .* is needed by this pipeline"):
            pipe.edit(changed)
    changed = dataclasses.replace(inversion, **{name: tensor[..., :1].clone()})
    changed.save(tmp_path / "a.safetensors")
    with pytest.raises(CheckpointError, match=f"{name} has the shape"):
        pipe.load_inversion(tmp_path / "a.safetensors")


def test_what_is_no_inversion_is_refused(pipe, photos):
    for given in (photos, photos[0], "cat.png", None, torch.zeros(3)):
        with pytest.raises(CheckpointError, match=f"a {type(given).__name__} was given: `invert` the photo first"):
            pipe.edit(given)


def test_inversions_without_images_are_refused(pipe, inversion, tmp_path):
    empty = inversion[:0]
    with pytest.raises(CheckpointError, match="holds no image"):
        empty.save(tmp_path / "a.safetensors")
    with pytest.raises(CheckpointError, match="image has the shape"):
        pipe.edit(empty)
    save_file({name: tensor.clone() for name, tensor in empty.tensors().items()}, tmp_path / "a.safetensors",
              metadata={"format": "sdic-inversion-2"})  # fmt: skip
    with pytest.raises(CheckpointError, match="1 or more, is needed"):
        SDICInversion.load(tmp_path / "a.safetensors")
    with pytest.raises(CheckpointError, match="0 inversions"):
        SDICInversion.cat([])


@pytest.mark.parametrize("device", ["meta", "nonsense", "cpu:x", pytest.param("cuda", marks=pytest.mark.skipif(
    torch.cuda.is_available(), reason="this machine has one"))])  # fmt: skip
def test_a_device_that_is_not_there_is_refused(inversion, tmp_path, device):
    inversion.save(tmp_path / "a.safetensors")
    with pytest.raises(SDICError, match=f"The device '{device}' is not usable here: give cpu"):
        SDICInversion.load(tmp_path / "a.safetensors", device=device)


def test_inversions_and_outputs_are_shown_in_a_few_lines(pipe, inversion):
    assert repr(inversion).splitlines()[:3] == [
        "SDICInversion(3 images, torch.float32 on cpu, generator 'tiny',",
        "  image [3, 3, 32, 32],",
        "  latents [3, 10, 16],",
    ]
    assert len(repr(inversion).splitlines()) == 10
    assert repr(pipe.edit(inversion)) == "SDICPipelineOutput(images: 3 pictures of 64x64)"
    for kind, shape in {"np": [3, 64, 64, 3], "pt": [3, 3, 64, 64], "latent": [3, 10, 16]}.items():
        text = repr(pipe.edit(inversion, output_type=kind))
        assert text.startswith(f"SDICPipelineOutput(images: {shape}, ") and len(text) < 80


def test_half_precision_on_a_cpu_works_and_does_not_warn(pipe, photos, tmp_path):
    """Diffusers warns that it will fail; its other warnings stay."""
    pipe.save_pretrained(tmp_path)
    stream = io.StringIO()
    handler = logging.StreamHandler(stream)
    logging.getLogger("diffusers").addHandler(handler)
    try:
        half = SDICPipeline.from_pretrained(tmp_path, dtype=torch.float16).to("cpu")
        half.to("cpu", torch.float16)
        with without_false_alarms():
            logging.getLogger("diffusers.pipelines.pipeline_utils").warning("something else")
            logging.getLogger("diffusers.models.modeling_utils").warning("kept in float32: ['head'].")
    finally:
        logging.getLogger("diffusers").removeHandler(handler)
    assert stream.getvalue() == "something else\nkept in float32: ['head'].\n"
    assert {network.dtype for network in half.components.values()} == {torch.float16}
    half.set_progress_bar_config(disable=True)
    found = pixels(half, half.invert(photos))
    assert (found.float() - pixels(pipe, pipe.invert(photos))).abs().mean() < 0.01


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
