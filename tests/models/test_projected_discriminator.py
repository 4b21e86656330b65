"""The projected discriminator: shapes, spectral norms, what is frozen and what learns, saving."""

import pytest
import torch
import torch.nn.functional as F

from sdic_plugin.errors import ImageError, SDICError
from sdic_plugin.models.efficientnet_lite import EfficientNetLite
from sdic_plugin.models.projected_discriminator import ProjectedDiscriminator, SpectralConv2d

WIDTHS = (4, 6, 8, 10)


def small(side: int = 128) -> ProjectedDiscriminator:
    torch.manual_seed(0)
    return ProjectedDiscriminator(side, channels=4, feature_channels=WIDTHS)


def maps(side: int, count: int = 3) -> list[torch.Tensor]:
    rng = torch.Generator().manual_seed(1)
    sides = (side // 4, side // 8, side // 16, side // 32)
    return [torch.randn(count, c, s, s, generator=rng) for c, s in zip(WIDTHS, sides, strict=True)]


@pytest.mark.parametrize("side", [64, 128, 256])
def test_every_map_has_equally_many_places(side):
    discriminator = small(side)
    assert discriminator(maps(side)).shape == (3, 4 * 25)
    mixed = discriminator.mixed(maps(side))
    assert [x.shape[1] for x in mixed] == [4, 4, 8, 16]
    assert [x.shape[2] for x in mixed] == [side // 2, side // 4, side // 8, side // 16]
    assert [len(head.blocks) for head in discriminator.heads] == [max(1, side.bit_length() - k) for k in (5, 6, 7, 8)]


def test_it_takes_the_features_of_the_network():
    network = EfficientNetLite()
    discriminator = ProjectedDiscriminator(64, channels=4, feature_channels=network.feature_channels)
    for size in (16, 64, 128):
        image = discriminator.resize(torch.rand(2, 3, size, size))
        assert image.shape == (2, 3, 64, 64)
        assert discriminator(network.features(image)).shape == (2, 100)


def test_scales_are_mixed_from_the_deepest_map_up():
    """Written out: add, enlarge, 1x1 convolution; in this order the convolution costs four times as much."""
    discriminator, features = small(), maps(128)
    mixed, x = [], None
    for i in (3, 2, 1, 0):
        y = F.conv2d(features[i], discriminator.mix_channels[i].weight)
        y = F.interpolate(y if x is None else y + x, scale_factor=2, mode="bilinear")
        x = F.conv2d(y, discriminator.mix_scales[i].weight)
        mixed.append(x)
    for ours, written_out in zip(discriminator.mixed(features), mixed[::-1], strict=True):
        torch.testing.assert_close(ours, written_out)


def test_the_heads_learn_and_the_projections_do_not():
    discriminator = small()
    discriminator(maps(128)).sum().backward()
    for name, parameter in discriminator.named_parameters():
        if name.startswith("mix_"):
            assert not parameter.requires_grad
        else:
            assert parameter.grad is not None and parameter.grad.any(), name


def test_weights_have_the_largest_singular_value_one():
    torch.manual_seed(0)
    conv = SpectralConv2d(6, 8, 3)
    for _ in range(30):
        conv.normalized_weight()
    wanted = conv.weight / torch.linalg.matrix_norm(conv.weight.flatten(1), ord=2)
    torch.testing.assert_close(conv.normalized_weight(), wanted, rtol=1e-4, atol=1e-5)
    # Nothing is gained by scaling the weights: the gradient has no part along them.
    gradient = torch.autograd.grad(conv(torch.randn(2, 6, 8, 8)).square().sum(), conv.weight)[0]
    assert abs((gradient * conv.weight).sum()) < 1e-3 * gradient.norm() * conv.weight.norm()


def test_only_learning_moves_the_singular_vectors():
    discriminator = small()
    before = {name: buffer.clone() for name, buffer in discriminator.named_buffers()}

    def moved() -> set[str]:
        return {name for name, buffer in discriminator.named_buffers() if not torch.equal(buffer, before[name])}

    with torch.no_grad():
        discriminator(maps(128))
    discriminator.eval()(maps(128))
    assert moved() == set()
    discriminator.train()(maps(128))
    # A matrix of one row, as the scores have, has but one direction.
    assert moved() == {name for name in before if name.endswith("conv.direction")}


def test_it_is_saved_with_its_random_projections(tmp_path):
    discriminator = small()
    discriminator.save_pretrained(tmp_path)
    loaded = ProjectedDiscriminator.from_pretrained(tmp_path, low_cpu_mem_usage=False)
    assert (
        loaded.config.side == 128 and loaded.config.channels == 4 and tuple(loaded.config.feature_channels) == WIDTHS
    )
    weights, saved = loaded.state_dict(), discriminator.state_dict()
    assert weights.keys() == saved.keys() and all(torch.equal(weights[key], saved[key]) for key in weights)
    # Not bitwise: some CPUs compute otherwise where a tensor lies otherwise in memory.
    torch.testing.assert_close(loaded(maps(128)), discriminator.eval()(maps(128)), rtol=1e-4, atol=1e-5)
    assert not any(p.requires_grad for name, p in loaded.named_parameters() if name.startswith("mix_"))


def test_what_does_not_fit_is_refused():
    with pytest.raises(SDICError, match="side of a projected discriminator is 96"):
        ProjectedDiscriminator(96)
    with pytest.raises(ImageError, match="of images of 128 pixels"):
        small(128)(maps(64))
