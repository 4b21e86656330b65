"""Grown, shrunk and widened networks begin where the old ones were."""

from __future__ import annotations

import pytest
import torch
import torch.nn.functional as F
from testing.tiny_models import make_model

from sdic_plugin import SDICError, StyleGAN2Discriminator, StyleGAN2Generator
from sdic_plugin.checkpoints.components import load_component
from sdic_plugin.checkpoints.folder import bundled_models
from sdic_plugin.models.fingerprint import generator_fingerprint
from sdic_plugin.models.growing import resize_discriminator, resize_generator
from sdic_plugin.models.layers import FIRFilter, scaled_leaky_relu

CHANNELS = {"4": 12, "8": 10, "16": 8, "32": 6, "64": 4}
WIDE = {"4": 14, "8": 10, "16": 11, "32": 9, "64": 5}


def random(*shape: int, seed: int = 0) -> torch.Tensor:
    return torch.randn(shape, generator=torch.Generator().manual_seed(seed))


def channels_to(resolution: int) -> dict[str, int]:
    return {side: width for side, width in CHANNELS.items() if int(side) <= resolution}


def generator_of(resolution: int, **changes: object) -> StyleGAN2Generator:
    sizes = {"resolution": resolution, "channels": channels_to(resolution), "generator_id": "tiny"}
    return make_model("generator", **{**sizes, **changes})


def discriminator_of(resolution: int) -> StyleGAN2Discriminator:
    return make_model("discriminator", resolution=resolution, channels=channels_to(resolution))


def upsampled(image: torch.Tensor, times: int = 1) -> torch.Tensor:
    for _ in range(times):
        image = FIRFilter(gain=4.0).upsample(image)
    return image


def halved(image: torch.Tensor) -> torch.Tensor:
    """What the new block of a discriminator makes of a picture: a filter of six taps, with zeros beyond the edges."""
    taps = torch.tensor([-3.0, 1.0, 18.0, 18.0, 1.0, -3.0]) / 32
    return F.conv2d(image, torch.outer(taps, taps).expand(3, 1, 6, 6), stride=2, padding=2, groups=3)


@pytest.fixture(scope="module")
def cats() -> dict[str, torch.nn.Module]:
    folder = bundled_models()["cats64"]
    classes = {"generator": StyleGAN2Generator, "discriminator": StyleGAN2Discriminator}
    return {name: load_component(cls, folder, name).eval() for name, cls in classes.items()}


@torch.no_grad()
def samples(generator: StyleGAN2Generator, count: int) -> torch.Tensor:
    z = random(count, generator.config.style_width, seed=5)
    return generator(generator.broadcast(generator.mapping(z, truncation=0.7))).image


# Growing.


@pytest.mark.parametrize(("before", "after"), [(32, 64), (64, 128), (32, 128)])
@pytest.mark.parametrize("noise", ["fixed", "none"])
@torch.no_grad()
def test_first_picture_is_the_old_one_upsampled(before, after, noise):
    old = generator_of(before)
    grown = resize_generator(old, after)
    assert grown.config.resolution == after and grown.num_styles == old.num_styles + (2 if after == 2 * before else 4)
    latents = random(3, grown.num_styles, 16)
    output, wanted = grown(latents, noise=noise), old(latents[:, : old.num_styles], noise=noise)
    times = 1 if after == 2 * before else 2
    torch.testing.assert_close(output.image, upsampled(wanted.image, times), rtol=0, atol=1e-6)
    assert torch.equal(output.features, wanted.features)
    styles = grown.styles(latents)
    assert all(map(torch.equal, styles, old.styles(latents[:, : old.num_styles])))
    torch.testing.assert_close(grown(styles=styles, noise=noise).image, output.image)


def test_grown_generator_keeps_what_belongs_to_its_latents():
    old = generator_of(64, content_rows=[16, 48], source="there", license="mit")
    grown = resize_generator(old, 128)
    z = random(4, 16)
    assert torch.equal(grown.mapping(z, 0.5), old.mapping(z, 0.5)) and torch.equal(grown.w_avg, old.w_avg)
    kept = ("style_width", "mapping_layers", "feature_resolution", "generator_id", "source", "license")
    assert all(grown.config[key] == old.config[key] for key in kept)
    assert grown.config.content_rows == [32, 96]
    assert grown.config.channels == {**CHANNELS, "128": 2}
    assert generator_fingerprint(grown) == generator_fingerprint(old)
    assert not grown.training and resize_generator(old.train(), 128).training


def test_new_blocks_learn_from_the_second_step_on():
    grown = resize_generator(generator_of(32), 64)
    latents, wanted = random(2, 10, 16), random(2, 3, 64, 64, seed=1)
    optimizer = torch.optim.Adam(grown.parameters(), lr=1e-2)
    moved = []
    for _ in range(2):
        optimizer.zero_grad()
        (grown(latents).image - wanted).square().mean().backward()
        block = grown.blocks[-1]
        moved.append([bool(layer.conv.weight.grad.any()) for layer in (*block.styled_convs(), block.to_rgb)])
        optimizer.step()
    assert moved == [[False, False, True], [True, True, True]]


def test_channels_of_new_blocks():
    halves = resize_generator(generator_of(32), 128)
    assert halves.config.channels == {"4": 12, "8": 10, "16": 8, "32": 6, "64": 3, "128": 1}
    asked = resize_generator(generator_of(32), 128, {"128": 7})
    assert asked.config.channels == {"4": 12, "8": 10, "16": 8, "32": 6, "64": 3, "128": 7}
    published = StyleGAN2Discriminator(resolution=16, channel_multiplier=1)
    grown = resize_discriminator(published, 64)
    assert grown.config.channels is None and grown.blocks[0].conv1.weight.shape[0] == 256
    assert resize_discriminator(published, 32, {"32": 600}).config.channels["32"] == 600
    more = StyleGAN2Discriminator(resolution=16, channels=CHANNELS)  # than it needs
    assert resize_discriminator(more, 64).config.channels == CHANNELS


@pytest.mark.parametrize(("before", "after"), [(32, 64), (64, 128), (32, 128)])
@torch.no_grad()
def test_old_layers_of_a_grown_discriminator_see_the_halved_picture(before, after):
    old = discriminator_of(before)
    channels = {"64": 8, "128": 6}
    grown = resize_discriminator(old, after, {key: width for key, width in channels.items() if int(key) > before})
    image = random(4, 3, after, after).clamp(-1, 1)
    smaller = halved(image) if after == 2 * before else halved(halved(image))
    added = len(grown.blocks) - len(old.blocks)
    torch.testing.assert_close(
        grown.features(image)[added - 1], scaled_leaky_relu(old.from_rgb(smaller)), rtol=1e-4, atol=1e-4
    )
    torch.testing.assert_close(grown(image), old(smaller), rtol=1e-3, atol=1e-3)


@torch.no_grad()
def test_what_the_halving_filter_makes_of_an_upsampled_picture():
    image = random(2, 3, 16, 16)
    taps = torch.tensor([-3.0, 12.0, 110.0, 12.0, -3.0]) / 128
    nearly = F.conv2d(image, torch.outer(taps, taps).expand(3, 1, 5, 5), padding=2, groups=3)
    inside = (..., slice(3, -3), slice(3, -3))
    torch.testing.assert_close(halved(upsampled(image))[inside], nearly[inside])


@torch.no_grad()
def test_grown_discriminator_scores_upsampled_pictures_as_it_did(cats):
    """Nearly, and nearly in the same order: its filter is not quite the reverse of the upsampling."""
    pictures = samples(cats["generator"], 32)
    grown = resize_discriminator(cats["discriminator"], 128)
    assert grown.config.channels["128"] == 16
    before, after = cats["discriminator"](pictures)[:, 0], grown(upsampled(pictures))[:, 0]
    assert torch.corrcoef(torch.stack([before, after]))[0, 1] > 0.95
    assert (before - after).square().mean().sqrt() < before.std() / 3
    assert (before - after).mean().abs() < before.std() / 10


@torch.no_grad()
def test_discriminator_with_few_channels_hands_down_the_colours_that_it_looks_at_most():
    old = discriminator_of(32)
    grey = torch.tensor([0.3, 0.6, 0.1])
    old.from_rgb.weight.copy_((random(6, 1) * grey)[:, :, None, None])
    image = random(2, 3, 64, 64)
    torch.testing.assert_close(
        resize_discriminator(old, 64, {"64": 2})(image), old(halved(image)), rtol=1e-3, atol=1e-3
    )
    assert torch.isfinite(resize_discriminator(old, 64, {"64": 1})(image)).all()


def test_new_discriminator_blocks_learn():
    grown = resize_discriminator(discriminator_of(32), 64, {"64": 8})
    optimizer = torch.optim.Adam(grown.parameters(), lr=1e-3)
    for _ in range(2):
        optimizer.zero_grad()
        grown(random(4, 3, 64, 64)).sum().backward()
        optimizer.step()
    assert [name for name, p in grown.named_parameters() if p.grad is None or not p.grad.any()] == []
    # Those, too, that hand nothing down at first.
    assert grown.blocks[0].conv1.weight.grad.flatten(1).any(dim=1).all()
    assert grown.from_rgb.weight.grad.flatten(1).any(dim=1).all()


# Shrinking.


@torch.no_grad()
def test_shrunk_generator_draws_its_skip_image():
    old = generator_of(64, feature_resolution=64)
    for resolution in (32, 16, 8):
        shrunk = resize_generator(old, resolution)
        assert shrunk.config.feature_resolution == resolution
        latents = random(2, 10, 16)
        hooked = resize_generator(old, feature_resolution=2 * resolution)
        wanted = hooked(latents, stop_at_features=True).skip_image
        found = shrunk(latents[:, : shrunk.num_styles]).image
        torch.testing.assert_close(found, wanted)
        assert shrunk.config.generator_id == "tiny" and torch.equal(shrunk.w_avg, old.w_avg)


@torch.no_grad()
def test_shrunk_discriminator_sees_areas_of_one_colour_as_before(cats):
    old = cats["discriminator"]
    shrunk = resize_discriminator(old, 32)
    assert shrunk.config.resolution == 32 and shrunk.config.channels == {"4": 256, "8": 256, "16": 128, "32": 64}
    for name, value in shrunk.state_dict().items():
        if not name.startswith(("from_rgb", "blocks")):
            assert torch.equal(value, old.state_dict()[name])
    colours = torch.rand(200, 3, generator=torch.Generator().manual_seed(1)) * 2 - 1
    areas = colours[:, :, None, None].expand(-1, -1, 32, 32)
    wanted = old.features(areas)[0][:, :, 8, 8]
    found = scaled_leaky_relu(shrunk.from_rgb(areas))[:, :, 8, 8]
    unexplained = (found - wanted).square().sum(dim=0) / (wanted - wanted.mean(dim=0)).square().sum(dim=0)
    assert unexplained.mean() < 0.4


@torch.no_grad()
def test_what_grew_shrinks_back():
    old, judge = generator_of(32), discriminator_of(32)
    back = resize_generator(resize_generator(old, 128), 32)
    assert all(back.config[key] == value for key, value in old.config.items() if not key.startswith("_"))
    assert all(map(torch.equal, back.state_dict().values(), old.state_dict().values()))
    judged = resize_discriminator(resize_discriminator(judge, 64, {"64": 8}), 32)
    flat = random(6, 3, 1, 1).clamp(-1, 1)
    middle = (..., slice(12, 20), slice(12, 20))
    torch.testing.assert_close(
        scaled_leaky_relu(judged.from_rgb(flat.expand(-1, -1, 32, 32)))[middle],
        scaled_leaky_relu(judge.from_rgb(flat.expand(-1, -1, 32, 32)))[middle],
        rtol=1e-3, atol=1e-3,
    )  # fmt: skip


# Widening.


@torch.no_grad()
def test_widened_generator_draws_the_same():
    old = generator_of(64)
    wide = resize_generator(old, channels=WIDE)
    assert wide.config.channels == WIDE and wide.feature_channels == 10
    latents = random(3, 10, 16)
    torch.testing.assert_close(wide(latents).image, old(latents).image, rtol=1e-4, atol=1e-5)
    for new, before in zip(wide.styles(latents), old.styles(latents), strict=True):
        # Not bitwise, as the weights below are: some CPUs add up the products of a wider layer in another order.
        torch.testing.assert_close(new[:, : before.shape[1]], before, rtol=1e-5, atol=1e-6)
    weights = wide.state_dict()
    for name, before in old.state_dict().items():
        if "modulation" in name:
            assert torch.equal(weights[name][: len(before)], before), name


@torch.no_grad()
def test_generator_is_widened_and_grown_at_once():
    old = generator_of(32)
    both = resize_generator(old, 64, {"16": 16, "32": 8, "64": 8})
    assert list(both.config.channels.values()) == [12, 10, 16, 8, 8]
    latents = random(2, 10, 16)
    torch.testing.assert_close(both(latents).image, upsampled(old(latents[:, :8]).image), rtol=1e-4, atol=1e-5)


@pytest.mark.parametrize("side", ["8", "16", "32", "64"])
@torch.no_grad()
def test_widened_discriminator_scores_the_same(side):
    old = discriminator_of(64)
    wide = resize_discriminator(old, channels={side: 2 * CHANNELS[side]})
    image = random(8, 3, 64, 64)
    torch.testing.assert_close(wide(image), old(image), rtol=1e-4, atol=1e-4)


@torch.no_grad()
def test_deviation_over_the_batch_survives_more_channels():
    old = discriminator_of(64)
    wide = resize_discriminator(old, channels=WIDE)
    image = random(8, 3, 64, 64)
    torch.testing.assert_close(wide(image), old(image), rtol=0, atol=2e-3)
    twice = resize_discriminator(wide, channels={"4": 28})
    torch.testing.assert_close(twice(image), old(image), rtol=0, atol=4e-3)


def test_every_channel_of_a_widened_network_learns():
    generator = resize_generator(generator_of(64), channels=WIDE)
    discriminator = resize_discriminator(discriminator_of(64), channels=WIDE)
    networks = torch.nn.ModuleList([generator, discriminator])
    optimizer = torch.optim.Adam(networks.parameters(), lr=1e-3)
    for _ in range(3):
        optimizer.zero_grad()
        discriminator(generator(random(4, 10, 16), noise="random").image).sum().backward()
        optimizer.step()
    for name, parameter in networks.named_parameters():
        if not name.startswith("0.mapping_network"):
            assert parameter.grad.flatten(1 if parameter.ndim > 1 else 0).any(dim=-1).all(), name


@torch.no_grad()
def test_bundled_generator_in_half_precision(cats):
    half = resize_generator(cats["generator"], feature_resolution=16).to(torch.bfloat16)
    grown = resize_generator(half, 128, {"64": 64})
    assert grown.dtype == torch.bfloat16 and grown.config.channels["128"] == 32
    latents = half.broadcast(half.mapping(random(2, 256), 0.7))
    wanted = upsampled(half(latents).image)
    found = grown(grown.broadcast(latents[:, 0])).image
    assert (found - wanted).abs().max() < 0.05


# What is refused, and what stays.


def test_nothing_to_change_is_the_same_network():
    generator, discriminator = generator_of(64), discriminator_of(32)
    assert resize_generator(generator) is generator
    assert resize_generator(generator, 64, {"4": 12, "128": 30}, 8) is generator
    assert resize_discriminator(discriminator, 32, CHANNELS) is discriminator


@pytest.mark.parametrize(
    ("resolution", "channels", "message"),
    [
        (96, None, r"The resolution is 96, but networks are resized to a power of two from 8 to 1,024"),
        (4, None, "The resolution is 4, but"),
        (2048, None, "The resolution is 2048, but"),
        (128, {"16": 7}, "channels has 7 for 16 pixels, but the model's block has 8: blocks can be widened"),
    ],
)
def test_what_makes_no_sense_is_refused(resolution, channels, message):
    with pytest.raises(SDICError, match=message):
        resize_generator(generator_of(64), resolution, channels)
    with pytest.raises(SDICError, match=message):
        resize_discriminator(discriminator_of(64), resolution, channels)


def test_hook_and_rows_must_fit():
    with pytest.raises(SDICError, match="feature_resolution is 64, but"):
        resize_generator(generator_of(64), 32, feature_resolution=64)
    with pytest.raises(SDICError, match="content_rows"):
        resize_generator(generator_of(64, content_rows=[8, 48], feature_resolution=64), 8)
    with pytest.raises(SDICError, match=r"content_rows is \[4, 60\] of 64, which are no whole rows of 8 pixels"):
        resize_generator(generator_of(64, content_rows=[4, 60], feature_resolution=64), 8)
    assert resize_generator(generator_of(64, content_rows=[8, 56]), 128, feature_resolution=64).hook_block == 4
