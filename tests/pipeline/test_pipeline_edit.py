from __future__ import annotations

import numpy as np
import pytest
import torch
from PIL import Image
from testing.tiny_models import continued_features, count_calls, hook_features, pixels, render

from sdic_plugin import ImageError, SDICError, SDICPipeline
from sdic_plugin.evaluation import count_macs


def direction(pipe: SDICPipeline, name: str) -> torch.Tensor:
    return pipe.get_list_edits()[name].direction


# Edits: latents.


def test_one_photo_takes_several_strengths(pipe, inversion):
    """As README's example says: one picture per strength, the same as one by one."""
    one = inversion[0]
    pictures = pipe.edit(one, edits={"turn": [0, 1, 2], "colour": 0.5}, output_type="pt").images
    assert len(pictures) == 3
    for picture, strength in zip(pictures, (0, 1, 2), strict=True):
        single = pipe.edit(one, edits={"turn": strength, "colour": 0.5}, output_type="pt").images[0]
        torch.testing.assert_close(picture, single, atol=1e-5, rtol=0)
    given = pipe.edit(one, edits={"turn": torch.tensor([0.0, 1.0, 2.0]), "colour": 0.5}, output_type="pt").images
    assert torch.equal(given, pictures)
    with pytest.raises(SDICError, match="strengths"):
        pipe.edit(inversion, edits={"turn": [0, 1]})
    with pytest.raises(SDICError, match="strengths"):
        pipe.edit(one, edits={"turn": [0, 1, 2], "colour": [1, 2]})


def test_edits_add_up_on_the_compensated_latents(pipe, inversion):
    found = pipe.edit(inversion, edits={"turn": 1.5, "colour": -2}, output_type="latent").images
    wanted = inversion.compensated_latents + 1.5 * direction(pipe, "turn")
    wanted[:, 6:] -= 2 * direction(pipe, "colour")[6:]
    torch.testing.assert_close(found, wanted)


def test_a_strength_per_image(pipe, inversion):
    strengths = [0.0, 1.0, -2.0]
    found = pipe.edit(inversion, edits={"turn": strengths}, output_type="latent").images
    for i, strength in enumerate(strengths):
        one = pipe.edit(inversion, edits={"turn": strength}, output_type="latent").images
        assert torch.equal(found[i], one[i])
    assert torch.equal(found[0], inversion.compensated_latents[0])
    wanted = torch.cat([pixels(pipe, inversion, edits={"turn": s})[i : i + 1] for i, s in enumerate(strengths)])
    torch.testing.assert_close(pixels(pipe, inversion, edits={"turn": strengths}), wanted, rtol=0, atol=1e-5)


def test_an_inversion_with_other_latents_is_where_edits_start_from(pipe, inversion):
    own = pipe.with_latents(inversion, inversion.compensated_latents)
    torch.testing.assert_close(pixels(pipe, own), pixels(pipe, inversion), rtol=0, atol=1e-5)
    latents = inversion.compensated_latents + 0.5 * torch.randn(3, 10, 16, generator=torch.Generator().manual_seed(3))
    moved = pipe.with_latents(inversion, latents)
    wanted = render(pipe, latents, inversion.compensated_features)
    torch.testing.assert_close(pixels(pipe, moved, edits={}), wanted, rtol=0, atol=1e-5)
    assert torch.equal(inversion.compensated_latents, own.compensated_latents), "the original is left alone"


def test_latents_are_rendered_as_given(pipe, inversion):
    latents = inversion.compensated_latents + 0.5 * torch.randn(3, 10, 16, generator=torch.Generator().manual_seed(3))
    assert torch.equal(pipe.edit(inversion, latents=latents, output_type="latent").images, latents)
    edited = hook_features(pipe, latents)
    features = inversion.compensated_features + (edited - inversion.reference_features)
    wanted = render(pipe, latents, features)
    torch.testing.assert_close(pixels(pipe, inversion, latents=latents), wanted, rtol=0, atol=1e-5)
    on_top = pipe.edit(inversion, latents=latents, edits={"turn": 1.0}, output_type="latent").images
    torch.testing.assert_close(on_top, latents + direction(pipe, "turn"))


def test_edited_initial_latents_move_the_compensated_ones(pipe, inversion):
    change = torch.randn(1, 10, 16, generator=torch.Generator().manual_seed(3))
    latents = inversion.latents + change
    found = pipe.edit(inversion, latents=latents, latents_from="initial", output_type="latent").images
    torch.testing.assert_close(found, inversion.compensated_latents + change)


def test_one_row_of_latents_serves_every_image(pipe, inversion):
    latents = inversion.compensated_latents[:1]
    found = pipe.edit(inversion, latents=latents, output_type="latent").images
    assert torch.equal(found, latents.expand(3, -1, -1))


# Edits: features.


@pytest.mark.parametrize("dtype", [torch.float32, torch.bfloat16])
def test_zero_strength_is_the_inversion_bitwise(pipe, photos, dtype):
    pipe.to(dtype)
    inversion = pipe.invert(photos)
    plain = pixels(pipe, inversion)
    assert torch.equal(pixels(pipe, inversion, edits={"turn": 0.0, "colour": 0.0}), plain)
    assert torch.equal(pixels(pipe, inversion, latents=inversion.compensated_latents), plain)
    assert torch.equal(plain, render(pipe, inversion.compensated_latents, inversion.compensated_features))
    assert torch.equal(pipe(photos, edits={"turn": 0.0}, output_type="pt").images, plain)


def test_zero_strength_takes_no_short_cut(pipe, inversion):
    """The function at the hook runs, whatever the strength."""
    received = continued_features(pipe, inversion, edits={"turn": 0.0}, feature_edit="official")
    wanted = inversion.compensated_features + (inversion.reference_features - inversion.features)
    torch.testing.assert_close(received, wanted)


@pytest.mark.parametrize("rule", ["continuous", "official"])
def test_features_follow_the_edit(pipe, inversion, rule):
    reference = inversion.reference_features if rule == "continuous" else inversion.features
    latents = inversion.compensated_latents + 1.2 * direction(pipe, "turn")
    features = inversion.compensated_features + (hook_features(pipe, latents) - reference)
    found = pixels(pipe, inversion, edits={"turn": 1.2}, feature_edit=rule)
    torch.testing.assert_close(found, render(pipe, latents, features), rtol=0, atol=1e-5)


def test_the_rules_differ_and_the_default_comes_from_the_configuration(pipe, inversion):
    edits = {"turn": 1.0}
    continuous = pixels(pipe, inversion, edits=edits, feature_edit="continuous")
    official = pixels(pipe, inversion, edits=edits, feature_edit="official")
    assert (continuous - official).abs().mean() > 0.005
    assert torch.equal(pixels(pipe, inversion, edits=edits), continuous)
    other = SDICPipeline(**pipe.components, feature_edit="official")
    other.add_edit(pipe.get_list_edits()["turn"])
    assert torch.equal(pixels(other, inversion, edits=edits), official)
    # Without an edit there is nothing to follow: both rules give the inversion.
    assert torch.equal(pixels(other, inversion), pixels(pipe, inversion))


@pytest.mark.parametrize("rule", ["continuous", "official"])
def test_no_compensation_is_the_plain_generator(pipe, inversion, rule):
    latents = inversion.compensated_latents + direction(pipe, "turn")
    found = pixels(pipe, inversion, edits={"turn": 1.0}, compensation=0.0, feature_edit=rule)
    assert torch.equal(found, render(pipe, latents))


def test_compensation_goes_from_the_plain_to_the_full_features(pipe, inversion):
    edited = hook_features(pipe, inversion.compensated_latents + direction(pipe, "turn"))
    full = inversion.compensated_features + (edited - inversion.reference_features)
    for amount in (0.0, 0.3, 1.0):
        received = continued_features(pipe, inversion, edits={"turn": 1.0}, compensation=amount)
        torch.testing.assert_close(received, edited + amount * (full - edited), rtol=1e-4, atol=1e-5)


def test_mask_chooses_between_edit_and_photo(pipe, inversion):
    edits = {"turn": 1.0}
    full = continued_features(pipe, inversion, edits=edits)
    none = continued_features(pipe, inversion, edits=edits, compensation=0.0)
    mask = np.zeros((32, 32))
    mask[:8] = 1  # the two uppermost of eight feature rows
    received = continued_features(pipe, inversion, edits=edits, mask=mask)
    assert torch.equal(received[:, :, 3:], none[:, :, 3:])
    assert torch.equal(received[:, :, :1], full[:, :, :1])
    at_size = np.zeros((8, 8), np.float32)
    at_size[:, 5:], at_size[2, 3] = 1, 0.25
    received = continued_features(pipe, inversion, edits=edits, mask=at_size)
    assert torch.equal(received[..., 5:], full[..., 5:])
    assert torch.equal(received[:, :, :2, :5], none[:, :, :2, :5])
    torch.testing.assert_close(received[:, :, 2, 3], (none + 0.25 * (full - none))[:, :, 2, 3])
    assert not torch.allclose(full, none, atol=0.1)


def test_masks_of_zeros_and_ones_are_no_and_full_compensation(pipe, inversion):
    options = {"edits": {"turn": 1.0}}
    black = pixels(pipe, inversion, mask=np.zeros((32, 32)), **options)
    assert torch.equal(black, pixels(pipe, inversion, compensation=0.0, **options))
    assert torch.equal(pixels(pipe, inversion, mask=np.ones((32, 32)), **options), pixels(pipe, inversion, **options))


def test_mask_per_image_and_together_with_compensation(pipe, inversion):
    edits = {"turn": 1.0}
    full = continued_features(pipe, inversion, edits=edits)
    none = continued_features(pipe, inversion, edits=edits, compensation=0.0)
    masks = [Image.new("L", (32, 32), value) for value in (0, 255, 255)]
    received = continued_features(pipe, inversion, edits=edits, mask=masks, compensation=0.5)
    assert torch.equal(received[0], none[0])
    torch.testing.assert_close(received[1:], (none + 0.5 * (full - none))[1:])
    with pytest.raises(ImageError, match="2 masks"):
        pipe.edit(inversion, mask=masks[:2])


# Cost.


def test_an_edit_costs_one_generator_pass(pipe, inversion):
    with torch.no_grad():
        pass_cost = count_macs(lambda: pipe.generator(inversion.latents))
    counts = count_calls(pipe)
    options = {"edits": {"turn": 1.0, "colour": 1.0}, "mask": np.ones((8, 8)), "compensation": 0.5}
    for rule in ("continuous", "official"):
        cost = count_macs(lambda rule=rule: pipe.edit(inversion, feature_edit=rule, output_type="pt", **options))
        assert pass_cost <= cost <= 1.02 * pass_cost
    assert count_macs(lambda: pipe.edit(inversion, output_type="pt")) <= 1.02 * pass_cost
    assert counts == {"encoder": 0, "dipn": 0, "dicn": 0, "generator": 3}


def test_latents_alone_cost_nothing(pipe, inversion):
    assert count_macs(lambda: pipe.edit(inversion, edits={"turn": 1.0}, output_type="latent")) == 0


def test_styles_are_one_for_all_images_or_one_each(pipe, inversion):
    styles = pipe.generator.styles(inversion.compensated_latents[:1])
    repeated = [style.repeat(3, 1) for style in styles]
    assert torch.equal(pixels(pipe, inversion, styles=styles), pixels(pipe, inversion, styles=repeated))
    two = [style[:2] for style in repeated]
    for photos in (inversion, inversion[:1]):
        with pytest.raises(SDICError, match=r"layer 0 have shape \[2, \d+\], but .* give one row each"):
            pipe.edit(photos, styles=two)
    with pytest.raises(SDICError, match="leave latents_from out"):
        pipe.edit(inversion, styles=styles, latents_from="initial")


def test_values_that_are_no_numbers_are_named(pipe, inversion, photos):
    latents = inversion.compensated_latents.clone()
    latents[0, 0, 0] = torch.nan
    for call in (lambda: pipe.edit(inversion, latents=latents), lambda: pipe.invert(photos, latents=latents)):
        with pytest.raises(SDICError, match="latents hold NaN or infinite values"):
            call()
    with pytest.raises(SDICError, match="styles hold NaN"):
        pipe.edit(inversion, styles=pipe.generator.styles(latents))
    for compensation in (None, "0.5", torch.nan):
        with pytest.raises(SDICError, match=r"but must lie in \[0, 1\], as a number"):
            pipe.edit(inversion, compensation=compensation)
    for size in (2.5, None, "2"):
        with pytest.raises(SDICError, match=r"batch_size is .* but must be a whole number"):
            pipe.edit(inversion, batch_size=size)
