"""Random samples: one seed is one picture, and styles of several are mixed."""

from __future__ import annotations

import pytest
import torch
from testing.tiny_models import make_model

from sdic_plugin import SDICError, StyleGAN2Generator
from sdic_plugin.models.sampling import mix_styles, sample


@pytest.fixture(scope="module")
def generator():
    return make_model("generator")


def test_a_seed_is_one_picture_in_any_company(generator):
    several, alone = sample(generator, count=4, seed=3), sample(generator, seeds=[9, 5])
    assert several.seeds == [3, 4, 5, 6]
    assert torch.equal(several.images[2], alone.images[1])
    assert torch.equal(several.latents[2], alone.latents[1])
    assert not torch.equal(several.latents[0], several.latents[1])
    assert several.images.shape == (4, 3, 64, 64) and several.latents.shape == (4, 10, 16)
    assert sample(generator, seeds=[1, 2, 1]).seeds == [1, 2]


def test_no_seed_is_special_to_a_network_that_was_initialised_with_it():
    torch.manual_seed(0)
    channels = {"4": 4, "8": 4}
    generator = StyleGAN2Generator(
        resolution=8, style_width=64, mapping_layers=2, channels=channels, feature_resolution=8
    )
    generator.estimate_w_avg(2000, seed=12345)
    distances = (sample(generator, count=64, truncation=1.0).latents[:, 0] - generator.w_avg).norm(dim=1)
    assert distances[0] < 1.4 * distances.median()


def test_latents_render_to_the_picture_and_truncation_pulls_to_the_mean(generator):
    drawn, mean = sample(generator, count=2, truncation=1.0), sample(generator, count=2, truncation=0.0)
    with torch.no_grad():
        torch.testing.assert_close(generator(drawn.latents).image, drawn.images)
    assert torch.equal(mean.images[0], mean.images[1])
    torch.testing.assert_close(mean.latents[0, 0], generator.w_avg)
    half = sample(generator, count=2, truncation=0.5)
    torch.testing.assert_close(half.latents, (drawn.latents + mean.latents) / 2)


def test_mixing_takes_the_layers_from_the_columns():
    base, other = torch.zeros(2, 10, 3), torch.ones(4, 10, 3) * torch.arange(1, 5)[:, None, None]
    mixed = mix_styles(base, other, (4, 10))
    assert mixed.shape == (2, 4, 10, 3)
    assert not mixed[:, :, :4].any()
    assert torch.equal(mixed[1, :, 4:], other[:, 4:])
    with pytest.raises(SDICError, match=r"3:11 cannot be mixed, as this generator has 10"):
        mix_styles(base, other, (3, 11))


@pytest.mark.parametrize(
    ("options", "message"),
    [
        ({"count": 0}, "at least 1"),
        ({"seeds": []}, "at least one seed"),
        ({"seeds": [-1]}, "The seed -1 is out of range"),
        ({"seeds": [2**63]}, "out of range"),
        ({"truncation": float("nan")}, "truncation is nan"),
    ],
)
def test_senseless_options_are_refused(generator, options, message):
    with pytest.raises(SDICError, match=message):
        sample(generator, **options)
