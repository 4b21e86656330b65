"""Whose statistics BatchNorm remembers."""

from __future__ import annotations

import torch
from torch import nn

from sdic_plugin.training.batch_norm import estimate_statistics, keep_statistics


def network():
    torch.manual_seed(0)
    return nn.Sequential(nn.Conv2d(3, 4, 1), nn.BatchNorm2d(4), nn.Conv2d(4, 2, 1), nn.BatchNorm2d(2))


def test_nothing_is_remembered_inside_and_everything_after():
    model = network()
    before = {key: value.clone() for key, value in model.state_dict().items()}
    images = torch.randn(8, 3, 4, 4) + 3
    with keep_statistics(model):
        inside = model(images)
    assert all(torch.equal(before[key], value) for key, value in model.state_dict().items())
    torch.testing.assert_close(model(images), inside)  # the batch's own statistics were used all the same
    assert not torch.equal(model[1].running_mean, before["1.running_mean"])
    assert model[1].momentum == 0.1


def test_estimated_statistics_are_the_average_of_the_batches():
    model = network()
    batches = [torch.randn(8, 3, 4, 4) * scale + 2 for scale in (1.0, 3.0)]
    estimate_statistics([model], model, batches)
    assert not model.training
    means = torch.stack([model[0](batch).mean(dim=(0, 2, 3)) for batch in batches]).mean(dim=0)
    torch.testing.assert_close(model[1].running_mean, means)
    assert model[1].momentum == 0.1
    assert model[1].num_batches_tracked == 2
