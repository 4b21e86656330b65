"""Where training starts: DIPN answers about `image - initial`, DICN changes nothing."""

from __future__ import annotations

import pytest
import torch

from sdic_plugin import DICN, DIPN, SDICError
from sdic_plugin.training.initialization import start_compensation, widen_dicn


def correlation(a, b):
    return torch.corrcoef(torch.stack([a.flatten(), b.flatten()]))[0, 1].item()


def networks(volume_channels=(4, 16, 16, 16)):
    torch.manual_seed(0)
    dipn = DIPN([8, 8, 8, 8, 8], 4, list(volume_channels), 8)
    return dipn, DICN(8, 4, 16, condition_channels=2, condition_size=16)


def test_discrepancy_starts_near_the_difference():
    dipn, dicn = networks()
    image, initial = torch.rand(8, 3, 32, 32) * 2 - 1, torch.rand(8, 3, 32, 32) * 2 - 1
    with torch.no_grad():
        before = correlation(dipn(image, initial), image - initial)
        start_compensation(dipn, dicn)
        after = correlation(dipn(image, initial), image - initial)
    assert abs(before) < 0.5 < 0.9 < after


def test_every_weight_still_learns():
    dipn, dicn = networks()
    start_compensation(dipn, dicn)
    for _ in range(2):  # weights behind a zero get their gradient once that has moved
        loss = (dipn(torch.rand(2, 3, 32, 32), torch.rand(2, 3, 32, 32)) - torch.rand(2, 3, 32, 32)).square().mean()
        loss.backward()
        with torch.no_grad():
            for parameter in dipn.parameters():
                parameter.add_(torch.randn_like(parameter), alpha=1e-3)
    assert all(parameter.grad.abs().sum() > 0 for parameter in dipn.parameters())


def test_dicn_starts_at_no_compensation():
    dipn, dicn = networks()
    start_compensation(dipn, dicn)
    features, latents = torch.randn(2, 8, 8, 8), torch.randn(2, 4, 16)
    output = dicn(torch.randn(2, 3, 32, 32), features, latents)
    torch.testing.assert_close(output.compensated_features, features)
    torch.testing.assert_close(output.compensated_latents, latents)


@pytest.mark.parametrize("volume_channels", [(4, 4, 4, 4)])
def test_narrow_dipn_keeps_its_random_start(volume_channels):
    dipn, dicn = networks(volume_channels)
    before = {key: value.clone() for key, value in dipn.state_dict().items()}
    start_compensation(dipn, dicn)
    assert all(torch.equal(before[key], value) for key, value in dipn.state_dict().items())


def test_widened_dicn_answers_as_before_and_learns_with_all_of_it():
    _, dicn = networks()
    inputs = torch.randn(2, 3, 32, 32), torch.randn(2, 8, 8, 8), torch.randn(2, 4, 16)
    dicn(*inputs)  # moves BatchNorm's statistics
    wide = widen_dicn(dicn.eval(), [40, 96])
    assert wide.config.stem_channels == [40, 96] and not wide.training
    before, after = dicn(*inputs), wide(*inputs)
    torch.testing.assert_close(after.compensated_features, before.compensated_features)
    torch.testing.assert_close(after.compensated_latents, before.compensated_latents)
    optimizer = torch.optim.SGD(wide.parameters(), 0.1)
    for _ in range(4):  # weights behind a zero get their gradient once that has moved
        optimizer.zero_grad()
        wide(*inputs).compensated_features.square().mean().backward()
        optimizer.step()
    for conv in (wide.features.stem[0], wide.features.semantic[0].conv, wide.features.semantic[2].conv):
        gradient = conv.weight.grad.abs()
        assert (gradient.sum(dim=(0, 2, 3)) > 0).all() and (gradient.sum(dim=(1, 2, 3)) > 0).all()


def test_dicn_that_has_the_width_already_stays_as_it_is():
    # So a recipe with widen_stem also trains its own result on.
    _, dicn = networks()
    dicn(torch.randn(2, 3, 32, 32), torch.randn(2, 8, 8, 8), torch.randn(2, 4, 16))
    before, after = dicn.state_dict(), widen_dicn(dicn, dicn.config.stem_channels).state_dict()
    assert before.keys() == after.keys()
    assert all(torch.equal(before[key], after[key]) for key in before)


@pytest.mark.parametrize("stem_channels", [[16, 64], [32], [32, 32], 64, ["64", "192"]])
def test_dicn_does_not_shrink(stem_channels):
    with pytest.raises(SDICError, match=r"widen_stem is .* at least \[32, 64\]"):
        widen_dicn(networks()[1], stem_channels)
