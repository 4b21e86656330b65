"""Edits of a generator on those that were grown, shrunk or widened from it."""

from __future__ import annotations

import dataclasses

import pytest
import torch
from testing.tiny_models import make_model, make_pipeline

from sdic_plugin import (
    DirectionEdit,
    Edit,
    EditError,
    GANSpaceEdit,
    SDICPipeline,
    StyleGAN2Generator,
    StyleSpaceEdit,
    read_edits,
    write_edits,
)
from sdic_plugin.edits.base import STYLE_SPACE
from sdic_plugin.models.growing import resize_generator
from sdic_plugin.models.layers import FIRFilter


def random(*shape: int, seed: int = 0) -> torch.Tensor:
    return torch.randn(shape, generator=torch.Generator().manual_seed(seed))


@pytest.fixture(scope="module")
def generator() -> StyleGAN2Generator:
    """Of 64 pixels, with 10 styles of width 16 and 14 modulated layers."""
    return make_model("generator", generator_id="tiny")


def edits() -> dict[str, Edit]:
    component = torch.nn.functional.normalize(random(16), dim=0)
    ganspace = {"component": component, "mean": random(16, seed=1), "std": torch.tensor(0.7)}
    offsets = {1: random(12), 6: random(8, seed=2), 12: random(4, seed=3), 13: random(4, seed=4)}
    return {
        "w": DirectionEdit("w", space="W", tensors={"direction": random(16)}),
        "fine": DirectionEdit("fine", space="W", layers=(6, 10), tensors={"direction": random(16)}),
        "rows": DirectionEdit("rows", tensors={"direction": random(10, 16)}),
        "coarse rows": DirectionEdit("coarse rows", layers=(0, 4), tensors={"direction": random(10, 16)}),
        "target": GANSpaceEdit("target", layers=(3, 10), rule="target", tensors=ganspace),
        "channels": StyleSpaceEdit.from_offsets("channels", offsets),
    }


@torch.no_grad()
def edited(generator: StyleGAN2Generator, edit: Edit, latents: torch.Tensor) -> torch.Tensor:
    strength = torch.tensor([1.5, -0.5])
    if edit.space == STYLE_SPACE:
        return generator(styles=edit.apply_styles(generator.styles(latents), strength)).image
    return generator(edit.apply(latents, strength)).image


@pytest.mark.parametrize("name", edits())
@torch.no_grad()
def test_edited_picture_of_a_grown_generator_is_the_old_edited_one_upsampled(generator, name):
    edit = edits()[name]
    grown = resize_generator(generator, 128, {"32": 9, "64": 8, "128": 5})
    latents = random(2, 12, 16, seed=7)
    before = edited(generator, edit, latents[:, :10])
    assert (before - generator(latents[:, :10]).image).abs().max() > 0.05
    found = edited(grown, edit.resized(64, grown), latents)
    torch.testing.assert_close(found, FIRFilter(gain=4.0).upsample(before), rtol=1e-3, atol=1e-4)


@pytest.mark.parametrize("name", edits())
@torch.no_grad()
def test_edited_picture_of_a_shrunk_generator_is_its_edited_skip_image(generator, name):
    edit = edits()[name]
    shrunk, hooked = resize_generator(generator, 32), resize_generator(generator, feature_resolution=64)
    latents = random(2, 10, 16, seed=7)
    if edit.space == STYLE_SPACE:
        styles = edit.apply_styles(hooked.styles(latents), torch.tensor([1.5, -0.5]))
        wanted = hooked(styles=styles, stop_at_features=True).skip_image
    else:
        wanted = hooked(edit.apply(latents, torch.tensor([1.5, -0.5])), stop_at_features=True).skip_image
    torch.testing.assert_close(edited(shrunk, edit.resized(64, shrunk), latents[:, :8]), wanted)


def test_an_edit_goes_on_as_it_ended(generator):
    grown, all_edits = resize_generator(generator, 128), edits()
    rows = all_edits["rows"].resized(64, grown).direction
    assert torch.equal(rows[:10], random(10, 16)) and torch.equal(rows[10:], random(10, 16)[-1:].expand(2, -1))
    assert torch.equal(all_edits["w"].resized(64, grown).direction, random(1, 16))
    assert all_edits["fine"].resized(64, grown).layers == (6, 12)
    assert all_edits["target"].resized(64, grown).layers == (3, 12)
    assert all_edits["coarse rows"].resized(64, grown).layers == (0, 4)
    styles = dataclasses.replace(all_edits["channels"], layers=(0, 14)).resized(64, grown)
    assert styles.layers == (0, 14) and list(styles.offsets) == [1, 6, 12, 13]
    # An edit whose rows are all alike is the same edit in W.
    alike = DirectionEdit("alike", tensors={"direction": random(16).expand(10, -1)})
    latents, strength = random(1, 12, 16), torch.ones(1)
    assert torch.equal(
        alike.resized(64, grown).apply(latents, strength), all_edits["w"].resized(64, grown).apply(latents, strength)
    )


def test_what_a_shrunk_generator_leaves_of_edits(generator):
    shrunk, all_edits = resize_generator(generator, 32), edits()
    assert all_edits["fine"].resized(64, shrunk).layers == (6, 8)
    assert torch.equal(all_edits["rows"].resized(64, shrunk).direction, random(10, 16)[:8])
    assert list(all_edits["channels"].resized(64, shrunk).offsets) == [1, 6]


def test_resized_edits_are_plain_edits(generator, tmp_path):
    grown = resize_generator(generator, 128)
    resized = [edit.resized(64, grown) for edit in edits().values()]
    write_edits(resized, tmp_path / "set.safetensors", "tiny")
    for edit, read in zip(resized, read_edits(tmp_path / "set.safetensors")[0], strict=True):
        assert (read.name, read.layers, read.space) == (edit.name, edit.layers, edit.space)
        assert all(torch.equal(read.tensors[key], value) for key, value in edit.tensors.items())


def test_pipeline_loads_edits_of_the_generator_before(generator, tmp_path):
    write_edits(list(edits().values()), tmp_path / "set.safetensors", "tiny")
    others = {name: part for name, part in make_pipeline().components.items() if name not in ("encoder", "dicn")}
    grown = resize_generator(generator, 128)
    grown.register_to_config(generator_id="of its own")
    sizes = {"num_styles": 12}
    pipe = SDICPipeline(
        **{
            **others,
            "generator": grown,
            "encoder": make_model("encoder", **sizes),
            "dicn": make_model("dicn", **sizes),
        }
    )
    with pytest.raises(EditError, match="strict=False"):
        pipe.load_edits(tmp_path, resolution=64)
    with pytest.raises(EditError, match="another generator"):
        pipe.load_edits(tmp_path, strict=False)
    assert pipe.load_edits(tmp_path, strict=False, resolution=64) == list(edits())
    assert pipe.get_list_edits()["rows"].direction.shape == (12, 16)


@pytest.mark.parametrize(
    ("edit", "resolution", "after", "message"),
    [
        ("rows", 128, 128, r"has 10 rows, but a generator of 128 pixels has 12 styles: give the resolution"),
        ("fine", 32, 128, r"acts on layers \(6, 10\), but a generator of 32 pixels has 8"),
        ("channels", 32, 128, "changes the modulated layer 13, but a generator of 32 pixels has 11"),
        ("fine", 64, 16, r"acts on layers \(6, 10\), but this generator has 6, so that nothing of it is left"),
        ("w", 48, 128, "made at the resolution 48"),
    ],
)
def test_what_cannot_be_resized_is_refused(generator, edit, resolution, after, message):
    with pytest.raises(EditError, match=message):
        edits()[edit].resized(resolution, resize_generator(generator, after))


def test_edits_of_channels_that_are_gone(generator):
    fine = StyleSpaceEdit.from_offsets("fine", {12: random(4)})
    with pytest.raises(EditError, match=r"changes the modulated layers \[12\], but this generator has 11"):
        fine.resized(64, resize_generator(generator, 32))
    with pytest.raises(EditError, match="another generator"):
        StyleSpaceEdit.from_offsets("wide", {1: random(20)}).resized(64, resize_generator(generator, 128))
