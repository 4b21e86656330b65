"""What edits cost: K edits an inversion and K passes, and less where they begin after the hook."""

from __future__ import annotations

import dataclasses

import pytest
import torch
from safetensors.torch import load_file, save_file
from testing.tiny_models import pixels

from sdic_plugin import SDICInversion, SDICPipeline, StyleGAN2Generator
from sdic_plugin.evaluation import count_macs


def whole_pass(inversion: SDICInversion) -> SDICInversion:
    """The same inversion without what a pass could begin with."""
    return dataclasses.replace(inversion, reference_skip_image=None)


@torch.no_grad()
def costs(pipe: SDICPipeline, inversion: SDICInversion) -> tuple[int, int]:
    """Multiply-accumulates of a whole pass of the generator, and of a pass up to the hook."""
    latents = inversion.latents
    return count_macs(lambda: pipe.generator(latents)), count_macs(
        lambda: pipe.generator(latents, stop_at_features=True)
    )


@pytest.mark.parametrize("count", [1, 3, 5])
def test_edits_of_one_photo_cost_its_inversion_and_a_pass_each(pipe, photos, inversion, count):
    one = inversion[:1]
    inverting = count_macs(lambda: pipe.invert(photos[:1]))
    whole, _ = costs(pipe, one)

    def edit_in_turn():
        found = pipe.invert(photos[:1])
        for k in range(count):
            pipe.edit(found, edits={"turn": 0.5 * (k + 1)}, output_type="pt")

    def edit_as_a_batch():
        found = pipe.invert(photos[:1]).repeat(count)
        pipe.edit(found, edits={"turn": [0.5 * (k + 1) for k in range(count)]}, output_type="pt")

    for run in (edit_in_turn, edit_as_a_batch):
        assert inverting + count * whole <= count_macs(run) <= inverting + 1.02 * count * whole


def test_a_late_edit_begins_at_the_hook(pipe, inversion):
    whole, begun = costs(pipe, inversion)
    late = count_macs(lambda: pipe.edit(inversion, edits={"colour": 1.5}, output_type="pt"))
    assert whole - begun <= late <= whole - 0.5 * begun  # all styles are computed, they cost little
    assert count_macs(lambda: pipe.edit(inversion, output_type="pt")) == late
    for early in ({"turn": 1.0}, {"turn": 1.0, "colour": 1.5}, {"turn": [0.0, 0.0, 1.0]}):
        assert count_macs(lambda early=early: pipe.edit(inversion, edits=early, output_type="pt")) >= whole


@pytest.mark.parametrize("rule", ["continuous", "official"])
@pytest.mark.parametrize("compensation", [1.0, 0.6])
def test_a_late_edit_gives_the_picture_of_a_whole_pass(pipe, inversion, rule, compensation):
    options = {"feature_edit": rule, "compensation": compensation}
    for edits in ({"colour": 1.5}, {"colour": [0.0, -1.0, 2.0]}, {}):
        found = pixels(pipe, inversion, edits=edits, **options)
        torch.testing.assert_close(found, pixels(pipe, whole_pass(inversion), edits=edits, **options))


def test_late_styles_begin_at_the_hook_as_well(pipe, inversion):
    with torch.no_grad():
        styles = pipe.generator.styles(inversion.compensated_latents)
    whole, begun = costs(pipe, inversion)
    late, early = [style.clone() for style in styles], [style.clone() for style in styles]
    late[pipe.generator.styles_before_hook] += 1  # the first that the features do not depend on
    early[pipe.generator.styles_before_hook - 1] += 1
    assert count_macs(lambda: pipe.edit(inversion, styles=late, output_type="pt")) < whole - 0.5 * begun
    assert count_macs(lambda: pipe.edit(inversion, styles=early, output_type="pt")) > whole - 0.5 * begun
    for changed in (late, early):
        wanted = pixels(pipe, whole_pass(inversion), styles=changed)
        torch.testing.assert_close(pixels(pipe, inversion, styles=changed), wanted)


def test_the_last_row_before_the_hook_counts(pipe, inversion):
    rows = pipe.generator.rows_before_hook
    for row, begins_late in ((rows - 1, False), (rows, True)):
        latents = inversion.compensated_latents.clone()
        latents[:, row] += 1
        assert (pipe.begun_pass(inversion, latents) is not None) == begins_late
        wanted = pixels(pipe, whole_pass(inversion), latents=latents)
        torch.testing.assert_close(pixels(pipe, inversion, latents=latents), wanted)


def test_another_generator_renders_all_of_it(pipe, inversion):
    other = StyleGAN2Generator.from_config(pipe.generator.config).eval()
    swapped = pipe.with_generator(other)
    assert swapped.begun_pass(inversion, inversion.compensated_latents) is None
    found = pixels(swapped, inversion, edits={"colour": 1.0})
    torch.testing.assert_close(found, pixels(swapped, whole_pass(inversion), edits={"colour": 1.0}))


def test_another_dtype_renders_all_of_it(pipe, inversion):
    pipe.to(torch.bfloat16)
    assert pipe.begun_pass(inversion, inversion.compensated_latents) is None


def test_inversions_of_the_first_format_load(pipe, inversion, tmp_path):
    """Saved before there was a skip image; they render alike, and are saved as what they are."""
    path, again = tmp_path / "cat.safetensors", tmp_path / "again.safetensors"
    inversion.save(path)
    tensors = load_file(path)
    del tensors["reference_skip_image"]
    save_file(tensors, path, metadata={"format": "sdic-inversion-1"})
    found = SDICInversion.load(path)
    assert found.reference_skip_image is None
    found.save(again)
    for old in (found, SDICInversion.load(again), SDICInversion.cat([found[0], inversion[1], found[2]])):
        torch.testing.assert_close(
            pixels(pipe, old, edits={"colour": 1.0}), pixels(pipe, inversion, edits={"colour": 1.0})
        )
