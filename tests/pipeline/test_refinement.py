"""Optimising an inversion further."""

from __future__ import annotations

import pytest
import torch

from sdic_plugin import SDICError, SDICPipeline
from sdic_plugin.evaluation.w_optimization import match_size
from sdic_plugin.photos.photo import crop_photo, load_example


def error(pipe, inversion):
    rendered = pipe.edit(inversion, output_type="pt").images
    rendered = match_size(rendered, inversion.image.shape[2:])
    return (rendered - (inversion.image / 2 + 0.5)).square().flatten(1).mean(dim=1)


def test_refining_comes_closer_to_every_photo(pipe, photos):
    plain, refined = pipe.invert(photos), pipe.invert(photos, refine_steps=15)
    assert (error(pipe, refined) < 0.9 * error(pipe, plain)).all()
    assert torch.equal(refined.latents, plain.latents)
    assert not torch.equal(refined.reference_features, plain.reference_features)


def test_a_few_steps_improve_an_inversion_that_is_good_already():
    pipe, photo = SDICPipeline.from_pretrained("cats64"), load_example("chelsea")
    crop, _ = crop_photo(pipe, photo.source, photo.eyes)
    before = error(pipe, pipe.invert(crop))
    assert error(pipe, pipe.invert(crop, refine_steps=3)) < 0.95 * before
    assert error(pipe, pipe.invert(crop, refine_steps=10)) < 0.7 * before


def test_each_photo_is_refined_on_its_own(pipe, photos):
    together = pipe.invert(photos, refine_steps=4)
    alone = pipe.invert(photos[:1], refine_steps=4)
    torch.testing.assert_close(together.compensated_features[:1], alone.compensated_features, atol=1e-4, rtol=1e-4)


def test_zero_strength_of_a_refined_inversion_is_that_inversion(pipe, photos):
    refined = pipe.invert(photos, refine_steps=2)
    plain = pipe.edit(refined, output_type="pt").images
    same = pipe.edit(refined, latents=refined.compensated_latents, output_type="pt").images
    assert torch.equal(plain, same)


def test_refining_leaves_the_networks_alone_and_works_under_inference_mode(pipe, photos):
    before = {key: value.clone() for key, value in pipe.generator.state_dict().items()}
    with torch.inference_mode():
        pipe.invert(photos, refine_steps=2)
    assert all(torch.equal(before[key], value) for key, value in pipe.generator.state_dict().items())
    assert all(parameter.grad is None for parameter in pipe.generator.parameters())


def test_negative_steps_are_refused(pipe, photos):
    with pytest.raises(SDICError, match="refine_steps is -1"):
        pipe.invert(photos, refine_steps=-1)
