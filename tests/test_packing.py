"""Packed weights give what the layers say, follow every change of the parameters, and leave the modules alone."""

from __future__ import annotations

import copy
import gc
import pickle

import pytest
import torch
from tiny_models import make_model
from torch import nn

from sdic_plugin.models import packing
from sdic_plugin.models.basic_conv import BasicConv
from sdic_plugin.models.fast_path import plain_layers, without
from sdic_plugin.models.irse import IRSEUnit
from sdic_plugin.models.packing import conv_block

pytestmark = pytest.mark.skipif(not packing._supported(), reason="oneDNN computes no bfloat16 on this CPU")

BFLOAT16 = {"rtol": 0.03, "atol": 0.03}


@pytest.fixture(autouse=True)
def nothing_kept():
    packing._kept.clear()


def kept_count() -> int:
    gc.collect()
    return len(packing._kept)


def unit(seed: int = 0) -> IRSEUnit:
    """A bottleneck whose three convolutions are larger than an 8 x 8 map, with statistics of its own."""
    torch.manual_seed(seed)
    made = IRSEUnit(32, 64, 2)
    with torch.no_grad():
        for _ in range(20):
            made.train()(torch.randn(8, 32, 8, 8) + 0.3)
    return made.eval().bfloat16()


def picture(batch: int = 1) -> torch.Tensor:
    return torch.randn(batch, 32, 8, 8, generator=torch.Generator().manual_seed(5)).bfloat16()


@torch.no_grad()
def both(module: nn.Module, *inputs: torch.Tensor) -> tuple[torch.Tensor, torch.Tensor]:
    found = module(*inputs)
    with plain_layers():
        return found, module(*inputs)


def test_a_bottleneck_is_that_of_its_layers():
    module = unit()
    found, wanted = both(module, picture())
    torch.testing.assert_close(found, wanted, **BFLOAT16)
    assert not torch.equal(found, wanted), "it should be another computation"
    assert kept_count() == 3


@pytest.mark.parametrize("slope", [None, 0.01])
@pytest.mark.parametrize("bias", [True, False])
@pytest.mark.parametrize("normed", [True, False])
@pytest.mark.parametrize(("stride", "batch"), [(1, 1), (2, 3)])
def test_a_block_is_that_of_its_layers(slope, bias, normed, stride, batch):
    torch.manual_seed(0)
    conv, norm = nn.Conv2d(32, 64, 3, stride, 1, bias=bias), None
    if normed:
        norm = nn.BatchNorm2d(64).eval().bfloat16()
        nn.init.uniform_(norm.running_mean)
        nn.init.uniform_(norm.running_var, 0.5, 2.0)
        nn.init.normal_(norm.bias)
    conv = conv.bfloat16()
    x = torch.randn(batch, 32, 8, 8, generator=torch.Generator().manual_seed(1)).bfloat16()
    with torch.no_grad():
        found = conv_block(conv, x, norm, slope)
        with plain_layers():
            wanted = conv_block(conv, x, norm, slope)
    torch.testing.assert_close(found, wanted, **BFLOAT16)
    assert kept_count() == 1


def test_a_block_of_the_compensation_is_that_of_its_layers():
    torch.manual_seed(0)
    block = BasicConv(64, 64).eval().bfloat16()
    found, wanted = both(block, torch.randn(1, 64, 4, 4).bfloat16())
    torch.testing.assert_close(found, wanted, **BFLOAT16)
    assert kept_count() == 1


@pytest.mark.parametrize("count", [1, 3])
def test_encoder_and_generator_are_those_of_their_layers(count):
    rng = torch.Generator().manual_seed(1)
    encoder, generator = make_model("encoder").eval().bfloat16(), make_model("generator").eval().bfloat16()
    side = encoder.config.image_size
    found, wanted = both(encoder, torch.rand(count, 3, side, side, generator=rng) * 2 - 1)
    torch.testing.assert_close(found, wanted, **BFLOAT16)
    assert kept_count() > 0
    packing._kept.clear()
    w = torch.randn(count, generator.num_styles, generator.config.style_width, generator=rng)
    with torch.no_grad():
        found = generator(w).image
        with without("packing"):
            plain = generator(w).image
        wanted = copy.deepcopy(generator).float()(w).image
    assert kept_count() > 0
    error, plain_error = (each.sub(wanted).square().mean() for each in (found, plain))
    assert error < 1e-3 * wanted.square().mean()
    assert error < 2 * plain_error, "packing loses no precision"


CHANGES = {
    "an optimiser's step": lambda module: _step(module),
    "load_state_dict": lambda module: module.load_state_dict(unit(seed=1).state_dict()),
    "writing through .data": lambda module: [each.data.mul_(1.5) for each in module.parameters()],
    "new .data": lambda module: [setattr(each, "data", each * 1.5) for each in module.parameters()],
    "statistics": lambda module: module.norm2.running_mean.add_(1.0),
    "a scale": lambda module: module.norm2.weight.mul_(2.0),
}


def _step(module: nn.Module) -> None:
    optimizer = torch.optim.SGD(module.parameters(), lr=0.5)
    with torch.enable_grad():
        module(picture()).sum().backward()
    optimizer.step()


@pytest.mark.parametrize("change", CHANGES)
def test_changed_parameters_are_noticed(change):
    module = unit()
    before, _ = both(module, picture())
    with torch.no_grad():
        CHANGES[change](module)
    found, wanted = both(module, picture())
    torch.testing.assert_close(found, wanted, **BFLOAT16)
    assert not torch.allclose(found, before, **BFLOAT16)


def test_unchanged_parameters_are_not_packed_again(monkeypatch):
    module = unit()
    both(module, picture())
    monkeypatch.setattr(packing, "_packed", lambda *arguments: pytest.fail("packed again"))
    both(module, picture())
    both(module, picture(2))


def test_modules_stay_as_they_were():
    module = unit()
    before = {name: tensor.clone() for name, tensor in module.state_dict().items()}
    both(module, picture())
    assert list(module.state_dict()) == list(before)
    assert all(torch.equal(tensor, before[name]) for name, tensor in module.state_dict().items())
    for other in (copy.deepcopy(module), pickle.loads(pickle.dumps(module))):
        torch.testing.assert_close(both(other, picture())[0], both(module, picture())[0], rtol=0, atol=0)


def test_copies_go_with_their_modules():
    module = unit()
    both(module, picture())
    assert kept_count() == 3
    del module
    assert kept_count() == 0


@pytest.mark.parametrize("reason", ["float32", "gradients", "training", "large map", "left out"])
def test_nothing_is_kept_otherwise(reason):
    module, x = unit(), picture()
    if reason == "float32":
        module, x = module.float(), x.float()
    if reason == "training":
        module.train()
    if reason == "large map":
        x = picture(80)
    with torch.set_grad_enabled(reason == "gradients"), without(*["packing"] if reason == "left out" else []):
        module(x)
    kept = set(packing._kept)
    assert kept <= ({module.conv1} if reason == "training" else set())  # the one without a BatchNorm after it


def test_tensors_of_inference_mode():
    with torch.inference_mode():
        module = unit()
        found = module(picture())
    with torch.no_grad(), plain_layers():
        torch.testing.assert_close(found.clone(), module(picture()), **BFLOAT16)
