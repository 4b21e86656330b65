"""The generator's path without gradients gives what its layers say, and `sdic bench` measures it."""

from __future__ import annotations

import copy
import functools
import json
from threading import Thread

import pytest
import torch
from testing.tiny_models import example_inputs, make_model

from sdic_plugin.commands.cli import main
from sdic_plugin.evaluation import straightforward
from sdic_plugin.models import DIPN
from sdic_plugin.models.basic_conv import BasicConv
from sdic_plugin.models.cpu import fast_path, inference

TIGHT = {"rtol": 1e-4, "atol": 1e-4}


@pytest.fixture(params=[1, 128], ids=["folded", "as they are"])
def generator(request, monkeypatch):
    """A tiny generator of 64 pixels, whose layers all fold their styles, or none."""
    monkeypatch.setattr(inference, "SMALLEST_MAP", request.param)
    return make_model("generator").eval()


def latents(generator, count: int) -> torch.Tensor:
    shape = (count, generator.num_styles, generator.config.style_width)
    return torch.randn(shape, generator=torch.Generator().manual_seed(1))


@pytest.mark.parametrize("count", [1, 3])
@pytest.mark.parametrize("noise", ["fixed", "random", "none"])
def test_pictures_are_those_of_the_layers(generator, count, noise):
    w = latents(generator, count)

    def render():
        return generator(w, noise=noise, rng=torch.Generator().manual_seed(2))

    with torch.no_grad():
        found = render()
        with fast_path.plain_layers():
            wanted = render()
    recorded = render()
    assert recorded.image.requires_grad
    for other in (wanted, recorded):
        torch.testing.assert_close(found.image, other.image, **TIGHT)
        torch.testing.assert_close(found.features, other.features, **TIGHT)


def test_it_is_not_the_same_computation(generator):
    """Else the comparison above would say nothing."""
    w = latents(generator, 2)
    with torch.no_grad():
        found = generator(w).image
        with fast_path.plain_layers():
            assert not torch.equal(found, generator(w).image)


@pytest.mark.parametrize("dtype", [torch.float16, torch.bfloat16])
def test_half_precision_stays_close(generator, dtype):
    w = latents(generator, 2)
    with torch.no_grad():
        wanted = generator(w).image
        found = generator.to(dtype)(w).image
    assert found.dtype == torch.float32
    assert (found - wanted).square().mean() < 1e-3 * wanted.square().mean()


def test_float16_survives_large_styles(generator):
    """Demodulation cancels a style's scale, which must not overflow before."""
    w = latents(generator, 2)
    with torch.no_grad():
        styles = [30_000 * style for style in generator.styles(w)]
        for block in range(len(generator.blocks)):
            styles[3 * block + 1] /= 30_000  # ToRGB has no demodulation
        wanted = generator(styles=styles).image
        found = generator.half()(styles=styles).image
    assert (found - wanted).square().mean() < 1e-3 * wanted.square().mean()


def test_nothing_given_is_changed_in_place(generator):
    w = latents(generator, 2)
    with torch.no_grad():
        styles = generator.styles(w)
        features = generator(w).features
        kept = [tensor.clone() for tensor in (w, features, *styles, *generator.state_dict().values())]
        generator(w, features=features)
        generator(styles=styles, features=lambda computed: computed)
    for tensor, before in zip((w, features, *styles, *generator.state_dict().values()), kept, strict=True):
        assert torch.equal(tensor, before)


def test_the_baseline_is_the_same_synthesis(generator):
    w = latents(generator, 2)
    with torch.no_grad():
        torch.testing.assert_close(straightforward.synthesize(generator, w), generator(w).image, **TIGHT)


# BatchNorms and volumes.


def published_dipn() -> tuple[DIPN, tuple[torch.Tensor, torch.Tensor]]:
    """DIPN at its published sizes, with statistics that differ from channel to channel, and two small images."""
    dipn, images = shared_dipn()
    return copy.deepcopy(dipn), images


@functools.cache
def shared_dipn() -> tuple[DIPN, tuple[torch.Tensor, torch.Tensor]]:
    torch.manual_seed(0)
    dipn = DIPN()
    images = torch.randn(2, 2, 3, 64, 64, generator=torch.Generator().manual_seed(1)).unbind()
    with torch.no_grad():
        dipn.train()(*images)
    return dipn.eval(), images


@pytest.mark.parametrize("count", [1, 2])
@pytest.mark.parametrize("left_out", [(), ("norms",), ("layout",), ("volumes",), ("norms", "volumes")])
def test_the_discrepancy_is_that_of_the_layers(count, left_out):
    dipn, images = published_dipn()
    images = [image[:count] for image in images]
    recorded = dipn(*images)
    with torch.no_grad():
        with fast_path.without(*left_out):
            found = dipn(*images)
        with fast_path.plain_layers():
            wanted = dipn(*images)
    assert found.is_contiguous() and recorded.requires_grad
    assert not torch.equal(found, wanted)  # else nothing was done
    for other in (wanted, recorded):
        torch.testing.assert_close(found, other, rtol=1e-4, atol=1e-4 * other.abs().max().item())


@pytest.mark.parametrize("name", ["encoder", "dipn", "dicn"])
@pytest.mark.parametrize("count", [1, 3])
def test_networks_answer_as_their_layers(name, count):
    model, inputs = make_model(name).eval(), example_inputs(name, batch=count)
    with torch.no_grad():
        found = model(*inputs, return_dict=False)
        with fast_path.plain_layers():
            wanted = model(*inputs, return_dict=False)
    for one, other in zip(found, wanted, strict=True):
        torch.testing.assert_close(one, other, **TIGHT)


@pytest.mark.parametrize("dimensions", [2, 3])
@pytest.mark.parametrize("options", [{}, {"stride": 2}, {"transposed": True}, {"kernel_size": 1}], ids=str)
@pytest.mark.parametrize("channels", [(1, 5), (3, 4)])
def test_a_norm_folds_into_every_kind_of_convolution(dimensions, options, channels):
    torch.manual_seed(0)
    block = BasicConv(*channels, dimensions=dimensions, **options)
    x = torch.randn(2, channels[0], *[12] * dimensions)
    with torch.no_grad():
        block(3 * x + 1)
        torch.nn.init.normal_(block.norm.weight)
        torch.nn.init.normal_(block.norm.bias)
        block.eval()
        assert inference.norm_folds(block.conv, block.norm, x)
        found, before = block(x), x.clone()
        with fast_path.plain_layers():
            torch.testing.assert_close(found, block(x), rtol=1e-4, atol=1e-5)
        assert torch.equal(x, before)
        # Not where the statistics are the batch's own, nor where the weights are larger than the map.
        assert not inference.norm_folds(block.conv, block.norm.train(), x)
        assert not inference.norm_folds(
            block.conv, block.norm.eval(), x[(slice(1), slice(None), *[slice(1)] * dimensions)]
        )


def test_folding_leaves_nothing_behind():
    """What is trained on, or saved, after an inversion is what was loaded, bit by bit."""
    dipn, images = published_dipn()
    fresh, _ = published_dipn()
    with torch.no_grad():
        dipn(*images)
    for network in (dipn, fresh):
        network.train()(*images).square().sum().backward()
    for (name, one), (_, other) in zip(dipn.state_dict().items(), fresh.state_dict().items(), strict=True):
        assert torch.equal(one, other), name
    for (name, one), (_, other) in zip(dipn.named_parameters(), fresh.named_parameters(), strict=True):
        assert torch.equal(one.grad, other.grad), name


@pytest.mark.parametrize("dtype", [torch.float16, torch.bfloat16])
def test_volumes_in_half_precision_stay_close(dtype):
    dipn, images = published_dipn()
    with torch.no_grad():
        wanted = dipn(*images)
        found = dipn.to(dtype)(*images).float()
        with fast_path.plain_layers():
            plain = dipn(*images).float()
    # As close as the layers' own way, give or take.
    assert (found - wanted).square().mean() < 2 * (plain - wanted).square().mean()


# sdic bench.


def test_bench_prints_and_keeps_its_figures(pipe, tmp_path, capsys):
    pipe.save_pretrained(tmp_path / "model")
    out = tmp_path / "bench.json"
    arguments = ["bench", "--model", str(tmp_path / "model"), "--repeats", "2", "--profile", "--out", str(out)]
    assert main(arguments) == 0
    said = capsys.readouterr().out
    assert "| generator, straightforward |" in said and "Matrix rate" in said
    content = json.loads(out.read_text())
    parts = {part["name"]: part for part in content["parts"]}
    assert parts.keys() == {
        "encoder", "generator, straightforward", "generator, layer by layer", "generator", "DIPN", "DICN", "inversion",
        "inversion and an edit", "the same, published structure", "edit", "edit after the hook",
    }  # fmt: skip
    assert all(part["seconds"] > 0 and part["gmac"] > 0 for part in parts.values())
    assert parts["edit"]["gmac"] == parts["generator"]["gmac"]
    assert parts["edit after the hook"]["gmac"] < parts["edit"]["gmac"]
    assert parts["inversion and an edit"]["gmac"] == pytest.approx(
        sum(parts[name]["gmac"] for name in ("encoder", "DIPN", "DICN")) + 2 * parts["generator"]["gmac"]
    )
    assert {"stem", "stages.0", "heads.9"} <= content["layers"]["encoder"].keys()
    assert {"blocks.0.conv", "blocks.4.up_conv", "blocks.4.to_rgb"} <= content["layers"]["generator"].keys()
    assert parts["edit"]["float32_seconds"] is None
    assert main(["bench", "--resolution", "64"]) == 2
    assert "give 256, 512 or 1024" in capsys.readouterr().err


def test_bench_compares_with_float32_in_the_same_turns(pipe, tmp_path, capsys):
    pipe.save_pretrained(tmp_path / "model")
    out = tmp_path / "bench.json"
    arguments = [
        "bench",
        "--model",
        str(tmp_path / "model"),
        "--repeats",
        "1",
        "--dtype",
        "bfloat16",
        "--out",
        str(out),
    ]
    assert main([*arguments, "--against-float32"]) == 0
    assert "| float32, ms | times as fast |" in capsys.readouterr().out
    assert all(part["float32_seconds"] > 0 for part in json.loads(out.read_text())["parts"])


def test_what_is_left_out_is_left_out_in_one_thread():
    x, found = torch.zeros(1), []

    def ask() -> None:
        with torch.no_grad():
            found.append(fast_path.fast_path_applies(x, "styles"))

    with fast_path.without("styles"):
        ask()
        thread = Thread(target=ask)
        thread.start()
        thread.join()
    ask()
    assert found == [False, True, True]
