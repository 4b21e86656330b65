"""The generator's path without gradients gives what its layers say, and `sdic bench` measures it."""

from __future__ import annotations

import json

import pytest
import torch
from tiny_models import make_model

from sdic_plugin.benchmarks import straightforward
from sdic_plugin.cli import main
from sdic_plugin.models import inference

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
        with inference.plain_layers():
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
        with inference.plain_layers():
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
        "encoder", "generator, straightforward", "generator, layer by layer", "generator", "DIPN", "DICN",
        "inversion and its picture", "edit",
    }  # fmt: skip
    assert all(part["seconds"] > 0 and part["gmac"] > 0 for part in parts.values())
    assert parts["edit"]["gmac"] == parts["generator"]["gmac"]
    assert parts["inversion and its picture"]["gmac"] == pytest.approx(
        sum(parts[name]["gmac"] for name in ("encoder", "DIPN", "DICN")) + 2 * parts["generator"]["gmac"]
    )
    assert {"stem", "stages.0", "heads.9"} <= content["layers"]["encoder"].keys()
    assert {"blocks.0.conv", "blocks.4.up_conv", "blocks.4.to_rgb"} <= content["layers"]["generator"].keys()
    assert main(["bench", "--resolution", "64"]) == 2
    assert "give 256, 512 or 1024" in capsys.readouterr().err
