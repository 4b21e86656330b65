"""Fused convolutions give what the layers say, can never be stale, and come back bit for bit."""

from __future__ import annotations

import copy
import functools
import pickle
import threading

import numpy as np
import pytest
import torch
from PIL import Image
from testing.tiny_models import COMPONENTS, make_model, make_pipeline
from torch import nn

from sdic_plugin import SDICError, SDICPipeline
from sdic_plugin.commands.cli import main
from sdic_plugin.errors import FusedWeightsError
from sdic_plugin.models.basic_conv import BasicConv
from sdic_plugin.models.cpu import packing
from sdic_plugin.models.cpu.fast_path import plain_layers, without
from sdic_plugin.models.cpu.packing import FusableConv, FusableMixin, FusedLayer, conv_block
from sdic_plugin.models.irse import IRSEUnit
from sdic_plugin.pipeline.loading import fuse_where_it_pays

pytestmark = pytest.mark.skipif(not packing.packing_supported(), reason="oneDNN computes no bfloat16 on this CPU")

BFLOAT16 = {"rtol": 0.03, "atol": 0.03}
UNFUSE = r"call unfuse_convolutions\(\) first"


class Network(FusableMixin, nn.Module):
    """Makes a network of a block."""

    def __init__(self, block: nn.Module) -> None:
        super().__init__()
        self.block = block

    @property
    def dtype(self) -> torch.dtype:
        return next(self.buffers(), torch.empty(0, dtype=torch.bfloat16)).dtype

    @property
    def device(self) -> torch.device:
        return torch.device("cpu")

    def forward(self, *inputs: torch.Tensor) -> torch.Tensor:
        return self.block(*inputs)


class ConvBlock(nn.Module):
    """`conv_block` as a module."""

    def __init__(self, conv: nn.Conv2d, norm: nn.Module | None, slope: float | None) -> None:
        super().__init__()
        self.conv, self.norm, self.slope = conv, norm, slope

    def fusable_convs(self) -> list[FusableConv]:
        return [FusableConv(self.conv, self.norm)]

    def forward(self, x: torch.Tensor) -> torch.Tensor:
        return conv_block(self.conv, x, self.norm, self.slope)


def unit(seed: int = 0) -> Network:
    """A bottleneck with statistics of its own."""
    return copy.deepcopy(shared_unit(seed))


@functools.cache
def shared_unit(seed: int) -> Network:
    torch.manual_seed(seed)
    made = IRSEUnit(32, 64, 2)
    with torch.no_grad():
        for _ in range(20):
            made.train()(torch.randn(8, 32, 8, 8) + 0.3)
    return Network(made).eval().bfloat16()


def fused_unit(seed: int = 0) -> Network:
    network = unit(seed)
    network.fuse_convolutions(picture())
    return network


def picture(batch: int = 1, side: int = 8) -> torch.Tensor:
    return torch.randn(batch, 32, side, side, generator=torch.Generator().manual_seed(5)).bfloat16()


@torch.no_grad()
def both(network: nn.Module, *inputs: torch.Tensor) -> tuple[torch.Tensor, torch.Tensor]:
    found = network(*inputs)
    with plain_layers():
        return found, network(*inputs)


def fused_count(network: nn.Module) -> int:
    return sum(isinstance(module, FusedLayer) for module in network.modules())


# What fused networks compute.


@pytest.mark.parametrize("layout", [torch.contiguous_format, torch.channels_last])
@pytest.mark.parametrize(("batch", "side"), [(1, 8), (3, 8), (1, 4), (2, 40), (1, 9)])
def test_a_bottleneck_is_that_of_its_layers(batch, side, layout):
    network, x = unit(), picture(batch, side).contiguous(memory_format=layout)
    with torch.no_grad():
        before = network(x)
    network.fuse_convolutions(picture())
    found, wanted = both(network, x)
    torch.testing.assert_close(wanted, before, rtol=0, atol=0)
    torch.testing.assert_close(found, wanted, **BFLOAT16)
    assert not torch.equal(found, wanted), "it should be another computation"
    assert fused_count(network) == 3 + 2, "three convolutions, and the norms after two of them"


@pytest.mark.parametrize("slope", [None, 0.01])
@pytest.mark.parametrize("bias", [True, False])
@pytest.mark.parametrize("normed", [True, False])
@pytest.mark.parametrize(("stride", "batch"), [(1, 1), (2, 3)])
def test_a_block_is_that_of_its_layers(slope, bias, normed, stride, batch):
    torch.manual_seed(0)
    conv, norm = nn.Conv2d(32, 64, 3, stride, 1, bias=bias), None
    if normed:
        norm = nn.BatchNorm2d(64)
        nn.init.uniform_(norm.running_mean)
        nn.init.uniform_(norm.running_var, 0.5, 2.0)
        nn.init.normal_(norm.bias)
    network = Network(ConvBlock(conv, norm, slope)).eval().bfloat16()
    network.fuse_convolutions(picture())
    found, wanted = both(network, picture(batch))
    torch.testing.assert_close(found, wanted, **BFLOAT16)
    assert fused_count(network) == 1 + normed


def test_a_block_of_the_compensation_is_that_of_its_layers():
    torch.manual_seed(0)
    network = Network(BasicConv(64, 64)).eval().bfloat16()
    network.fuse_convolutions(torch.empty(1, 64, 4, 4))
    found, wanted = both(network, torch.randn(1, 64, 4, 4).bfloat16())
    torch.testing.assert_close(found, wanted, **BFLOAT16)
    assert fused_count(network) == 2


@pytest.mark.parametrize("count", [1, 3])
def test_encoder_and_generator_are_those_of_their_layers(count):
    rng = torch.Generator().manual_seed(1)
    encoder, generator = make_model("encoder").eval().bfloat16(), make_model("generator").eval().bfloat16()
    side = encoder.config.image_size
    encoder.fuse_convolutions(torch.empty(1, 3, side, side))
    found, wanted = both(encoder, torch.rand(count, 3, side, side, generator=rng) * 2 - 1)
    torch.testing.assert_close(found, wanted, **BFLOAT16)
    w = torch.randn(count, generator.num_styles, generator.config.style_width, generator=rng)
    with torch.no_grad():
        unfused = generator(w).image
        generator.fuse_convolutions(w[:1])
        found = generator(w).image
        with without("packing"):
            plain = generator(w).image
        wanted = copy.deepcopy(generator).float()(w).image
    assert torch.equal(plain, unfused)
    assert fused_count(generator) == 4, "those whose weights are larger than the map"
    error, plain_error = (each.sub(wanted).square().mean() for each in (found, plain))
    assert error < 1e-3 * wanted.square().mean()
    assert error < 2 * plain_error, "packing loses no precision"


def bfloat16_pipeline() -> SDICPipeline:
    pipe = make_pipeline().to(dtype=torch.bfloat16)
    pipe.set_progress_bar_config(disable=True)
    return pipe


def edited(pipe: SDICPipeline, photos: object) -> torch.Tensor:
    inversion = pipe.invert(photos)
    return pipe.edit(inversion, latents=inversion.compensated_latents + 0.1, output_type="pt").images.float()


def test_a_pipeline_fuses_and_comes_back(photos):
    pipe = bfloat16_pipeline()
    before = {name: copy.deepcopy(getattr(pipe, name).state_dict()) for name in COMPONENTS}
    order = {name: [key for key, _ in getattr(pipe, name).named_parameters()] for name in COMPONENTS}
    held = {name: dict(getattr(pipe, name).named_parameters()) for name in COMPONENTS}
    plain = edited(pipe, photos)
    pipe.fuse_convolutions()
    assert all(fused_count(getattr(pipe, name)) > 0 for name in COMPONENTS)
    found = edited(pipe, photos)
    assert not torch.equal(found, plain)
    assert (found - plain).square().mean() < 1e-3
    pipe.fuse_convolutions()
    assert torch.equal(edited(pipe, photos), found), "a second time changes nothing"
    pipe.unfuse_convolutions()
    pipe.unfuse_convolutions()
    assert torch.equal(edited(pipe, photos), plain)
    for name in COMPONENTS:
        network = getattr(pipe, name)
        assert fused_count(network) == 0
        assert [key for key, _ in network.named_parameters()] == order[name]
        assert all(parameter is held[name][key] for key, parameter in network.named_parameters())
        assert all(torch.equal(tensor, before[name][key]) for key, tensor in network.state_dict().items())


# Never stale.

CHANGES = {
    "an optimiser's step": lambda module: _step(module),
    "load_state_dict": lambda module: module.load_state_dict(unit(seed=1).state_dict()),
    "writing through .data": lambda module: [each.data.mul_(1.5) for each in module.parameters()],
    "new .data": lambda module: [setattr(each, "data", each * 1.5) for each in module.parameters()],
    "statistics": lambda module: module.block.norm2.running_mean.add_(1.0),
    "a scale": lambda module: module.block.norm2.weight.mul_(2.0),
    "a scale's .data": lambda module: module.block.norm2.weight.data.mul_(2.0),
    "a shift's .data": lambda module: module.block.norm2.bias.data.add_(1.0),
    "a mean's .data": lambda module: module.block.norm2.running_mean.data.add_(1.0),
    "a variance's .data": lambda module: module.block.norm2.running_var.data.mul_(3.0),
    "one channel's .data": lambda module: module.block.conv2.weight.data[7].mul_(30.0),
    "one value's .data": lambda module: module.block.conv2.weight.data[7, 3, 1, 1].add_(9.0),
    "a tensor in its place": lambda module: setattr(module.block.norm2, "running_mean", torch.ones(64)),
    "a new bias": lambda module: setattr(module.block.conv1, "bias", nn.Parameter(torch.ones(64))),
    "a new parameter": lambda module: setattr(module.block.conv1, "weight", nn.Parameter(torch.ones(64, 32, 3, 3))),
}
REACHABLE = ["an optimiser's step", "writing through .data", "new .data"]
"""Changes of what `parameters()` of a fused network gives, which are effective at once."""


def _step(module: nn.Module) -> None:
    optimizer = torch.optim.SGD(module.parameters(), lr=0.5)
    with torch.enable_grad():
        module(picture()).sum().backward()
    optimizer.step()


@pytest.mark.parametrize("change", [name for name in CHANGES if " new " not in name and "place" not in name])
def test_changed_parameters_are_noticed(change):
    """Between fusing, everything counts at once; and fusing anew takes it up."""
    network = fused_unit()
    before, _ = both(network, picture())
    network.unfuse_convolutions()
    with torch.no_grad():
        plain = network(picture())
        CHANGES[change](network)
        found = network(picture())
    assert not torch.allclose(found, plain, **BFLOAT16)
    with plain_layers(), torch.no_grad():
        torch.testing.assert_close(found, network(picture()), **BFLOAT16)
    network.fuse_convolutions(picture())
    again, wanted = both(network, picture())
    torch.testing.assert_close(again, wanted, **BFLOAT16)
    assert not torch.allclose(again, before, **BFLOAT16)


@pytest.mark.parametrize("change", [name for name in CHANGES if name not in REACHABLE])
def test_fused_weights_cannot_be_changed(change):
    network = fused_unit()
    before, _ = both(network, picture())
    with torch.no_grad(), pytest.raises(FusedWeightsError, match=UNFUSE):
        CHANGES[change](network)
    assert torch.equal(both(network, picture())[0], before)


@pytest.mark.parametrize("change", REACHABLE)
def test_what_is_not_fused_counts_at_once(change):
    network = fused_unit()
    with torch.no_grad():
        CHANGES[change](network)
    torch.testing.assert_close(*both(network, picture()), **BFLOAT16)


def test_layers_and_parameters_that_somebody_holds_cannot_be_changed():
    network = unit()
    norm, conv = network.block.norm2, network.block.conv2
    held = dict(network.named_parameters()) | dict(network.named_buffers())
    optimizer = torch.optim.SGD(network.parameters(), lr=0.5)
    network(picture()).sum().backward()
    network.fuse_convolutions(picture())
    for read in (lambda: norm.weight, lambda: norm.running_var, lambda: conv.weight, lambda: norm(picture())):
        with pytest.raises(FusedWeightsError, match=UNFUSE):
            read()
    assert held["block.norm2.weight"].numel() == held["block.conv2.weight"].numel() == 0
    held["block.norm2.weight"].data.mul_(2.0)
    held["block.norm2.running_mean"].add_(1.0)
    with pytest.raises(IndexError):
        held["block.conv2.weight"].data[7] = 0
    with pytest.raises(RuntimeError):
        optimizer.step()
    network.unfuse_convolutions()
    wanted = unit()
    for name in ("block.norm2.weight", "block.norm2.running_mean", "block.conv2.weight"):
        assert torch.equal(held[name], wanted.state_dict()[name])
    assert conv.weight is held["block.conv2.weight"]


def test_new_values_of_a_parameter_that_somebody_holds_are_there_after_unfusing():
    network = unit()
    held = network.block.norm2.weight
    network.fuse_convolutions(picture())
    held.data = torch.full((64,), 3.0, dtype=torch.bfloat16)
    network.unfuse_convolutions()
    assert torch.equal(network.block.norm2.weight, torch.full((64,), 3.0).bfloat16())


REFUSED = {
    "state_dict": lambda network: network.state_dict(),
    "a part's state_dict": lambda network: network.block.state_dict(),
    "load_state_dict": lambda network: network.load_state_dict({}, strict=False),
    "a part's load_state_dict": lambda network: network.block.load_state_dict({}, strict=False),
    "float": lambda network: network.float(),
    "to": lambda network: network.to(torch.float16),
    "a part's to": lambda network: network.block.to("meta"),
    "to_empty": lambda network: network.to_empty(device="meta"),
    "train": lambda network: network.train(),
    "a part's train": lambda network: network.block.conv1.train(),
}


@pytest.mark.parametrize("call", REFUSED)
def test_a_fused_network_refuses_in_one_sentence(call):
    network = fused_unit()
    before = both(network, picture())[0]
    with pytest.raises(FusedWeightsError, match=UNFUSE) as caught:
        REFUSED[call](network)
    assert str(caught.value).count(".") == 1
    assert not network.training and not any(module.training for module in network.block.conv1.modules())
    if not call.startswith("a part's"):
        assert {parameter.dtype for parameter in network.parameters()} == {torch.bfloat16}
        assert torch.equal(both(network, picture())[0], before)


def test_what_changes_nothing_is_not_refused():
    network = fused_unit()
    before = both(network, picture())[0]
    network.eval().to("cpu").bfloat16().requires_grad_(False)
    assert torch.equal(both(network, picture())[0], before)
    assert "fused" in repr(network) and "Conv2d(32, 64" in repr(network)
    assert not hasattr(network.block.conv1, "weight")


def test_a_fused_pipeline_refuses_in_one_sentence(tmp_path, photos):
    pipe = bfloat16_pipeline()
    pipe.fuse_convolutions()
    before = edited(pipe, photos)
    for call in (
        lambda: pipe.save_pretrained(tmp_path / "model"),
        lambda: pipe.generator.save_pretrained(tmp_path / "model"),
        lambda: pipe.to(torch.float32),
        lambda: pipe.to(device="meta"),
        lambda: pipe.to("meta", torch.float32),
        lambda: pipe.enable_model_cpu_offload(),
        lambda: pipe.dicn.half(),
        lambda: pipe.generator.blocks[0].conv.conv.weight,
    ):
        with pytest.raises(SDICError, match=UNFUSE):
            call()
    assert list(tmp_path.iterdir()) == []
    assert pipe.to("cpu").to(torch.bfloat16).to("cpu", dtype=torch.bfloat16) is pipe
    assert torch.equal(edited(pipe, photos), before)
    swapped = pipe.with_generator(make_model("generator", seed=1, generator_id="tiny"))
    swapped.fuse_convolutions()
    assert swapped.generator.is_fused and swapped.to("cpu") is swapped
    swapped.unfuse_convolutions()
    assert not any(network.is_fused for network in (swapped.generator, pipe.generator, pipe.encoder))


def test_what_cannot_be_fused_is_refused():
    pipe = make_pipeline()
    with pytest.raises(SDICError, match="float32 on cpu, but only bfloat16 on a CPU"):
        pipe.fuse_convolutions()
    assert not fuse_where_it_pays(pipe)
    pipe.to(dtype=torch.bfloat16)
    pipe.generator.train()
    with pytest.raises(SDICError, match=r"StyleGAN2Generator .* call eval\(\) first"):
        pipe.fuse_convolutions()
    assert not pipe.encoder.is_fused
    pipe.generator.eval()
    pipe.encoder.stages[1][0].norm2.train()
    with pytest.raises(SDICError, match=r"E4EEncoder .* call eval\(\) first"):
        pipe.fuse_convolutions()
    pipe.encoder.eval()
    pipe.hf_device_map = {"encoder": "cpu"}
    with pytest.raises(SDICError, match=r"call reset_device_map\(\) first"):
        pipe.fuse_convolutions()
    del pipe.hf_device_map
    assert fuse_where_it_pays(pipe) and pipe.generator.is_fused


def test_networks_with_hooks_of_accelerate_are_refused():
    from accelerate import cpu_offload_with_hook
    from accelerate.hooks import AlignDevicesHook, add_hook_to_module

    network = make_model("generator").bfloat16()
    add_hook_to_module(network.blocks[0], AlignDevicesHook())
    with pytest.raises(SDICError, match="accelerate's hooks"):
        network.fuse_convolutions(picture())
    offloaded, _ = cpu_offload_with_hook(make_model("encoder").bfloat16(), "cpu")
    with pytest.raises(SDICError, match="accelerate's hooks"):
        offloaded.fuse_convolutions()
    assert not network.is_fused and not offloaded.is_fused


def test_a_failure_leaves_everything_as_it_was(monkeypatch):
    network, calls = unit(), []
    packed = packing._packed

    def fail(*arguments: object) -> torch.Tensor:
        calls.append(arguments)
        if len(calls) == 3:
            raise RuntimeError("no memory")
        return packed(*arguments)

    monkeypatch.setattr(packing, "_packed", fail)
    with pytest.raises(RuntimeError, match="no memory"):
        network.fuse_convolutions(picture())
    assert fused_count(network) == 0


# Gradients, compiling, exporting.


def test_gradients_are_those_of_the_layers():
    network, x = unit(), picture().requires_grad_()
    wanted = torch.autograd.grad(network(x).sum(), x)[0]
    network.fuse_convolutions(picture())
    assert torch.equal(torch.autograd.grad(network(x).sum(), x)[0], wanted)


def test_refinement_of_a_fused_pipeline_is_that_of_its_layers(photos):
    pipe = bfloat16_pipeline()
    inversion = pipe.invert(photos)
    wanted = pipe.refine(inversion, 2)
    pipe.fuse_convolutions()
    found = pipe.refine(inversion, 2)
    torch.testing.assert_close(found.compensated_latents, wanted.compensated_latents, rtol=0, atol=0)


def test_compiled_and_exported_networks_are_those_of_their_layers():
    encoder, x = make_model("encoder").bfloat16(), torch.rand(2, 3, 32, 32)
    encoder.requires_grad_(False)
    with torch.no_grad(), plain_layers():
        wanted = encoder(x)
    encoder.fuse_convolutions(x[:1])
    with torch.no_grad():
        compiled = torch.compile(encoder, backend="eager")(x)
        exported = torch.export.export(encoder, (x,)).module()(x)
    torch.testing.assert_close(compiled, wanted, **BFLOAT16)
    torch.testing.assert_close(exported, wanted, **BFLOAT16)


@pytest.mark.parametrize("reason", ["float32", "gradients", "left out"])
def test_packed_weights_are_not_used_otherwise(reason, monkeypatch):
    network, x = fused_unit(), picture()
    if reason == "float32":
        network, x = copy.deepcopy(network).float(), x.float()
    monkeypatch.setattr(packing, "packing_applies", lambda x: packing_applies(x) and pytest.fail("packed"))
    with torch.set_grad_enabled(reason == "gradients"), without(*["packing"] if reason == "left out" else []):
        network(x)


packing_applies = packing.packing_applies


def test_tensors_of_inference_mode():
    with torch.inference_mode():
        network = unit()
    network.fuse_convolutions(picture())
    with torch.inference_mode():
        found = network(picture())
    network.unfuse_convolutions()
    with torch.no_grad(), plain_layers():
        torch.testing.assert_close(found.clone(), network(picture()), **BFLOAT16)


def test_commands_fuse_what_they_load_in_bfloat16(pipe, tmp_path, monkeypatch, photos):
    fused, fuse = [], SDICPipeline.fuse_convolutions
    monkeypatch.setattr(SDICPipeline, "fuse_convolutions", lambda self: (fuse(self), fused.append(self)))
    pipe.save_pretrained(tmp_path / "model")
    Image.fromarray(photos[0]).save(tmp_path / "a.png")
    common = ["edit", str(tmp_path / "a.png"), "--edit", "turn=1", "--model", str(tmp_path / "model"), "--no-sheets"]
    for dtype in ("float32", "bfloat16"):
        assert main([*common, "--dtype", dtype, "--refine-steps", "1", "--out", str(tmp_path / dtype)]) == 0
    assert len(fused) == 1 and fused[0].generator.is_fused
    wide, half = (np.asarray(Image.open(next(tmp_path.glob(f"{dtype}/a_turn*")))) for dtype in ("float32", "bfloat16"))
    assert not np.array_equal(wide, half)
    assert np.abs(wide.astype(int) - half).mean() < 4
    bench = ["bench", "--model", str(tmp_path / "model"), "--repeats", "1", "--dtype", "bfloat16", "--against-float32"]
    assert main(bench) == 0
    assert len(fused) == 2


# Copies, and threads.


def test_copies_are_not_fused():
    network = fused_unit()
    found = both(network, picture())[0]
    for other in (copy.deepcopy(network), pickle.loads(pickle.dumps(network))):
        assert fused_count(other) == 0
        assert all(torch.equal(tensor, unit().state_dict()[name]) for name, tensor in other.state_dict().items())
        with torch.no_grad():
            torch.testing.assert_close(other(picture()), found, **BFLOAT16)
        other.fuse_convolutions(picture())
        assert torch.equal(both(other, picture())[0], found)
        with torch.no_grad():
            next(copy.deepcopy(other).parameters()).fill_(0)  # not shared
        assert torch.equal(both(other, picture())[0], found)
    assert torch.equal(both(network, picture())[0], found)


def test_copies_and_pickles_of_a_fused_pipeline(photos):
    pipe = bfloat16_pipeline()
    plain = edited(pipe, photos)
    pipe.fuse_convolutions()
    fused = edited(pipe, photos)
    for other in (copy.deepcopy(pipe), pickle.loads(pickle.dumps(pipe))):
        assert torch.equal(edited(other, photos), plain)
        other.fuse_convolutions()
        assert torch.equal(edited(other, photos), fused)


@pytest.mark.parametrize("dtype", [torch.float16, torch.bfloat16])
def test_a_round_trip_through_a_folder_after_fusing(dtype, tmp_path, photos):
    pipe = bfloat16_pipeline()
    pipe.fuse_convolutions()
    fused = edited(pipe, photos)
    pipe.unfuse_convolutions()
    wanted = {name: copy.deepcopy(getattr(pipe, name)).to(dtype).state_dict() for name in COMPONENTS}
    pipe.to(dtype=dtype).save_pretrained(tmp_path)
    loaded = SDICPipeline.from_pretrained(tmp_path, dtype=dtype)
    loaded.set_progress_bar_config(disable=True)
    for name in COMPONENTS:
        found = getattr(loaded, name).state_dict()
        assert all(torch.equal(found[key], tensor) for key, tensor in wanted[name].items())
    if dtype == torch.bfloat16:
        loaded.fuse_convolutions()
        assert torch.equal(edited(loaded, photos), fused)


@pytest.mark.parametrize("dtype", [torch.float32, torch.bfloat16])
def test_threads_that_share_a_pipeline_give_what_one_gives(dtype, photos):
    pipe = make_pipeline().to(dtype=dtype)
    if fuse_where_it_pays(pipe):
        assert pipe.generator.is_fused
    pipe.set_progress_bar_config(disable=True)
    inversion = pipe.invert(photos)
    rng = torch.Generator().manual_seed(3)
    shifts = torch.randn(4, 16, 1, 1, inversion.latents.shape[2], generator=rng)

    def render(shift: torch.Tensor) -> torch.Tensor:
        latents = inversion.compensated_latents + shift
        return pipe.edit(inversion, latents=latents, output_type="pt").images

    wanted = [[render(shift) for shift in row] for row in shifts]
    found: dict[int, list[torch.Tensor]] = {}

    def work(index: int) -> None:
        found[index] = [render(shift) for shift in shifts[index]]

    threads = [threading.Thread(target=work, args=(index,)) for index in range(4)]
    for thread in threads:
        thread.start()
    for thread in threads:
        thread.join()
    assert sorted(found) == [0, 1, 2, 3]
    for index, row in enumerate(wanted):
        assert all(torch.equal(mine, theirs) for mine, theirs in zip(found[index], row, strict=True))
