"""GANSpace, StyleSpace and SeFa edits: what each does to latents, and to the bundled generator's pictures."""

from __future__ import annotations

import json
from importlib import resources

import pytest
import torch
from testing.tiny_models import continued_features, count_calls, hook_features, make_model, make_pipeline, pixels

from sdic_plugin import DirectionEdit, EditError, GANSpaceEdit, SDICPipeline, StyleSpaceEdit, read_edits, write_edits
from sdic_plugin.edits.discovery import brightness, sample_latents, warmth
from sdic_plugin.edits.ganspace import PrincipalComponents, find_components, find_ganspace, preset_edits, presets
from sdic_plugin.edits.sefa import find_sefa
from sdic_plugin.edits.sheets import contact_sheet, render_edit
from sdic_plugin.edits.styleclip import find_styleclip
from sdic_plugin.edits.stylespace import channel_edit
from sdic_plugin.evaluation.rows import METHODS, as_picture, render_method
from sdic_plugin.models.sampling import latents_of_seed


def random(*shape: int, seed: int = 0) -> torch.Tensor:
    return torch.randn(shape, generator=torch.Generator().manual_seed(seed))


def component(rule: str = "target", width: int = 16, **values: object) -> GANSpaceEdit:
    direction = torch.nn.functional.normalize(random(width), dim=0)
    tensors = {"component": direction, "mean": random(1, width, seed=1), "std": torch.tensor([0.7])}
    return GANSpaceEdit("pc", rule=rule, tensors=tensors, **values)


def offset_edit(**values: object) -> StyleSpaceEdit:
    """Changes the modulated layers 1 (ToRGB of 4 x 4), 2 (before the hook) and 6 (after it) of the tiny generator."""
    offsets = {1: random(12), 2: random(12, seed=1), 6: random(8, seed=2)}
    return StyleSpaceEdit.from_offsets("shine", offsets, **values)


# GANSpace.


def test_target_rule_is_the_published_formula():
    edit, latents = component(layers=(2, 5)), random(2, 10, 16, seed=2)
    found = edit.apply(latents, torch.tensor([3.0, -1.0]))
    c, mean, std = (edit.tensors[key] for key in ("component", "mean", "std"))
    wanted = latents.clone()
    for i, strength in enumerate((3.0, -1.0)):
        coordinate = torch.dot(latents[i, 0] - mean, c) / std
        wanted[i, 2:5] += (strength - coordinate) * c * std
    torch.testing.assert_close(found, wanted)


def assert_settles(edit: GANSpaceEdit, latents: torch.Tensor) -> None:
    """The same target twice is the target once."""
    once = edit.apply(latents, torch.full((len(latents),), edit.default_strength))
    assert not torch.allclose(once, latents, atol=0.1)
    twice = edit.apply(once, torch.full((len(latents),), edit.default_strength))
    torch.testing.assert_close(twice, once, rtol=0, atol=1e-4)
    assert edit.settles


def test_the_same_target_twice_changes_nothing_where_style_0_takes_part():
    latents = random(2, 10, 16, seed=2)
    for layers in (None, (0, 5)):
        assert_settles(component(layers=layers, default_strength=3.0), latents)
    # Elsewhere the published rule reads a coordinate that it does not change.
    edit, strength = component(layers=(2, 5)), torch.tensor([3.0, -1.0])
    once = edit.apply(latents, strength)
    twice = edit.apply(once, strength)
    torch.testing.assert_close(twice - once, once - latents)
    assert not edit.settles


def test_each_style_can_read_its_own_coordinate():
    latents, strength = random(2, 10, 16, seed=2), torch.tensor([3.0, -1.0])
    for layers in (None, (0, 5), (2, 5)):
        edit = component("layer_target", layers=layers, default_strength=3.0)
        assert_settles(edit, latents)
        assert not edit.is_offset
        found = edit.apply(latents, strength)
        c, mean, std = (edit.tensors[key] for key in ("component", "mean", "std"))
        coordinates = (found[:, edit.layer_range(10)] - mean) @ c / std
        torch.testing.assert_close(coordinates, strength[:, None].expand_as(coordinates), rtol=0, atol=1e-4)
    # Where all styles are alike, it is the published rule.
    alike = random(2, 1, 16, seed=3).expand(-1, 10, -1)
    published, own = (component(rule, layers=(2, 5)).apply(alike, strength) for rule in ("target", "layer_target"))
    torch.testing.assert_close(own, published)


@pytest.mark.parametrize("rule", ["target", "layer_target"])
def test_every_published_preset_twice(rule):
    """With the published rule, those with style 0 settle (the viewpoint's); the others say that they do not."""
    normal = torch.nn.functional.normalize
    found = PrincipalComponents(random(512), normal(random(80, 512, seed=1), dim=1), random(80, seed=2).abs() + 0.1)
    for edit in (*preset_edits(found, "ffhq", rule), *preset_edits(found, "cars", rule)):
        if rule == "layer_target" or edit.name.startswith("viewpoint"):
            assert_settles(edit, random(2, 18, 512, seed=4))
        else:
            assert not edit.settles


class _OnMPS(torch.Tensor):
    """A tensor that says it lies on Apple's GPU, which has no float64, until it is moved to the CPU."""

    device = torch.device("mps")

    def double(self):
        raise TypeError("Cannot convert a MPS Tensor to float64 dtype as the MPS framework doesn't support float64.")

    def to(self, place, *options):
        moved = torch.Tensor.to(self.as_subclass(torch.Tensor), place, *options)
        return moved if place == "cpu" else moved.as_subclass(_OnMPS)


@pytest.mark.parametrize("rule", ["target", "layer_target"])
def test_targets_are_reached_on_devices_without_float64(rule, monkeypatch):
    latents, strength, edit = random(2, 10, 16, seed=2), torch.tensor([3.0, -1.0]), component(rule)
    expected = edit.apply(latents, strength)
    monkeypatch.setattr(edit, "tensors", {key: value.as_subclass(_OnMPS) for key, value in edit.tensors.items()})
    found = edit.apply(latents.as_subclass(_OnMPS), strength)
    assert torch.equal(found.as_subclass(torch.Tensor), expected)


def test_offset_rule_adds_standard_deviations():
    edit, latents = component("offset", layers=(1, 3)), random(2, 10, 16, seed=2)
    assert edit.is_offset
    assert not component().is_offset
    strength = torch.tensor([2.0, -1.0])
    found = edit.apply(latents, strength)
    step = strength[:, None, None] * edit.tensors["component"] * 0.7
    torch.testing.assert_close(found[:, 1:3] - latents[:, 1:3], step.expand(-1, 2, -1), rtol=0, atol=1e-5)
    assert torch.equal(found[:, 3:], latents[:, 3:])
    torch.testing.assert_close(edit.apply(found, -strength), latents, rtol=0, atol=1e-5)


def test_presets_are_the_published_ones():
    text = (resources.files("sdic_plugin") / "edits" / "ganspace_presets.json").read_text()
    assert json.loads(text).keys() == {"ffhq", "cars"}
    found = {each.name: (each.index, *each.layers, each.strength) for kind in presets().values() for each in kind}
    assert found == {
        "eyes": (54, 7, 8, 20),
        "beard": (58, 7, 9, -20),
        "lip": (34, 10, 11, 20),
        "viewpoint_left": (0, 0, 5, 2),
        "viewpoint_right": (0, 0, 5, -2),
        "cube": (16, 3, 6, 25),
        "colour": (22, 9, 11, -8),
        "grass": (41, 9, 11, -18),
    }


def test_components_span_the_samples():
    generator = make_model("generator")
    found = find_components(generator, count=16, samples=500)
    w = sample_latents(generator, {}, 500).w
    torch.testing.assert_close(found.components @ found.components.T, torch.eye(16), rtol=0, atol=1e-4)
    coordinates = (w - found.mean) @ found.components.T
    torch.testing.assert_close(coordinates.std(dim=0), found.stds, rtol=1e-3, atol=1e-4)
    assert (found.stds.diff() <= 0).all()
    again = find_ganspace(generator, 3, samples=500)
    assert [edit.name for edit in again] == ["pc0", "pc1", "pc2"]
    assert torch.equal(again[1].tensors["component"], found.components[1])
    for count, samples in ((17, 500), (0, 500), (4, 16)):
        with pytest.raises(EditError, match="width 16"):
            find_components(generator, count, samples)


# SeFa.


def test_sefa_finds_the_largest_eigenvectors():
    generator = make_model("generator")
    layers = [layer for block in generator.blocks for layer in block.styled_convs()][2:6]
    stacked = torch.cat([layer.conv.modulation.weight for layer in layers]) / 4  # gain: 1 / sqrt(16)
    found = find_sefa(generator, count=3, layers=(2, 6))
    _, _, vectors = torch.linalg.svd(stacked.detach())
    for edit, wanted in zip(found, vectors, strict=False):
        assert abs(torch.dot(edit.direction[0], wanted)) > 0.999
        assert (edit.family, edit.space, edit.layers) == ("sefa", "W", (2, 6))
    assert found[0].name == "sefa0_2_6"
    # What the first does to the modulation is more than a random direction does.
    gains = [(stacked @ edit.direction[0]).norm() for edit in found]
    assert gains == sorted(gains, reverse=True)
    for options in ({"layers": (4, 12)}, {"layers": (9, 10)}, {"count": 17}):
        with pytest.raises(EditError, match="SeFa was"):
            find_sefa(generator, **options)


# StyleSpace.


def test_offsets_move_only_their_layers():
    generator, edit = make_model("generator"), offset_edit()
    latents = random(2, 10, 16, seed=3)
    with torch.no_grad():
        styles = generator.styles(latents)
        found = edit.apply_styles(styles, torch.tensor([1.0, -2.0]))
    for i, (one, other) in enumerate(zip(styles, found, strict=True)):
        change = other - one
        wanted = edit.offsets.get(i, torch.zeros(one.shape[1]))
        torch.testing.assert_close(change, torch.stack([wanted, -2 * wanted]), rtol=0, atol=1e-5)
    assert [len(style[0]) for style in styles] == generator.style_channels
    kept = offset_edit(layers=(2, 5)).apply_styles(styles, torch.ones(2))
    assert [not torch.equal(one, other) for one, other in zip(kept, styles, strict=True)].index(True) == 2
    assert torch.equal(kept[6], styles[6])


def test_stylespace_edits_work_in_the_one_pass_rule(pipe, inversion):
    pipe.add_edit(offset_edit())
    plain, strengths = pixels(pipe, inversion), {"shine": [0.0, 1.0, -2.0], "turn": 0.5}
    counts = count_calls(pipe)
    found = pixels(pipe, inversion, edits=strengths)
    assert counts == {"encoder": 0, "dipn": 0, "dicn": 0, "generator": 1}
    assert torch.equal(pixels(pipe, inversion, edits={"shine": 0.0}), plain)
    code = pipe.edited_code(inversion, strengths)
    with torch.no_grad():
        features = pipe.generator(styles=code).features
        full = inversion.compensated_features + features - inversion.reference_features
        wanted = (pipe.generator(styles=code, features=full).image / 2 + 0.5).clamp(0, 1)
    torch.testing.assert_close(found, wanted, rtol=0, atol=1e-5)
    assert not torch.allclose(features, hook_features(pipe, pipe.edited_code(inversion, {"turn": 0.5})), atol=1e-3)
    torch.testing.assert_close(continued_features(pipe, inversion, edits=strengths), full, rtol=0, atol=1e-5)
    torch.testing.assert_close(pixels(pipe, inversion, edits=strengths, batch_size=2), found, rtol=0, atol=1e-5)
    # The order of the two spaces does not matter.
    assert torch.equal(pixels(pipe, inversion, edits=dict(reversed(strengths.items()))), found)
    with pytest.raises(EditError, match="acts in StyleSpace, which W"):
        pipe.edit(inversion, edits=strengths, output_type="latent")


def test_evaluation_renders_stylespace_edits_as_the_pipeline_does(pipe, inversion):
    pipe.add_edit(offset_edit())
    for strengths in ({"shine": 1.5}, {"shine": 1.5, "turn": -1.0}):
        found = render_method(pipe, inversion, METHODS["full"], strengths)
        wanted = as_picture(pixels(pipe, inversion, edits=strengths) * 2 - 1, pipe.image_size)
        torch.testing.assert_close(found, wanted, rtol=0, atol=1.1 / 255)


def test_stylespace_and_the_automatic_mask_under_offloading(pipe, inversion):
    pipe.add_edit(offset_edit())
    options = {"edits": {"shine": 1.0, "turn": 0.5}, "mask": "auto"}
    wanted = pixels(pipe, inversion, **options)
    pipe.enable_model_cpu_offload(device="cpu")
    torch.testing.assert_close(pixels(pipe, inversion, **options), wanted, rtol=0, atol=1e-6)


def test_stylespace_of_any_tool_is_rendered_as_given(pipe, inversion):
    pipe.add_edit(offset_edit())
    with torch.no_grad():
        styles = pipe.generator.styles(inversion.compensated_latents)
    assert torch.equal(pixels(pipe, inversion, styles=styles), pixels(pipe, inversion))
    moved = [style + 0.1 for style in styles]
    on_top = pipe.edited_code(inversion, {"shine": 1.0}, styles=moved)
    torch.testing.assert_close(on_top[2], moved[2] + random(12, seed=1))
    with pytest.raises(EditError, match="'turn' acts in the space 'W\\+'"):
        pipe.edit(inversion, edits={"turn": 1.0}, styles=styles)
    with pytest.raises(ValueError, match="Both latents and styles"):
        pipe.edit(inversion, latents=inversion.latents, styles=styles)
    with pytest.raises(ValueError, match="whose layer 3 has shape"):
        pipe.edit(inversion, styles=[*styles[:3], styles[3][:, 1:], *styles[4:]])


@pytest.mark.parametrize(
    ("tensors", "message"),
    [
        ({}, "changes no layer"),
        ({"direction": torch.zeros(3)}, "'direction', but edits in StyleSpace hold"),
        ({"layer_x": torch.zeros(3)}, "'layer_x', but"),
        ({"layer_1": torch.zeros(3, 3)}, r"shape \[3, 3\]"),
        ({"layer_1": torch.tensor([float("inf")])}, "not finite"),
    ],
)
def test_offsets_that_make_no_sense_are_refused(tensors, message):
    with pytest.raises(EditError, match=message):
        StyleSpaceEdit("shine", tensors=tensors)


def test_edits_of_other_generators_are_refused(pipe):
    with pytest.raises(EditError, match=r"changes 12 channels of the modulated layer 1.* has 8"):
        make = make_model("generator", channels={"4": 8, "8": 10, "16": 8, "32": 6, "64": 4})
        offset_edit().check_fits(make)
    with pytest.raises(EditError, match=r"modulated layer 14.* has none"):
        pipe.add_edit(StyleSpaceEdit.from_offsets("far", {14: torch.ones(4)}))
    with pytest.raises(EditError, match="component of width 12"):
        pipe.add_edit(component(width=12))
    with pytest.raises(EditError, match=r"layers \(8, 12\), but there are 10 styles"):
        pipe.add_edit(component(layers=(8, 12)))
    with pytest.raises(EditError, match="channel 20, but there are 10"):
        channel_edit("one", 3, 20, 10)


# Files.


def test_every_family_survives_its_file(tmp_path):
    given = [
        component(layers=(0, 5), default_strength=2.0),
        offset_edit(description="Shiny"),
        DirectionEdit("sefa0", family="sefa", space="W", tensors={"direction": random(16)}),
        DirectionEdit("other", license="MIT", source="elsewhere", tensors={"direction": random(10, 16)}),
    ]
    write_edits(given, tmp_path / "set.safetensors", "tiny", source="here", license="CC0")
    found, about = read_edits(tmp_path / "set.safetensors")
    assert about == {"generator_id": "tiny", "source": "here", "license": "CC0"}
    for one, other in zip(found, given, strict=True):
        assert type(one) is type(other)
        own = {**vars(other), "source": other.source or "here", "license": other.license or "CC0"}
        assert {**vars(one), "tensors": None} == {**own, "tensors": None}
        assert one.tensors.keys() == other.tensors.keys()
        assert all(torch.equal(one.tensors[key], other.tensors[key]) for key in one.tensors)


def test_edits_of_every_family_travel_with_the_pipeline(tmp_path, photos):
    pipe = make_pipeline()
    pipe.set_progress_bar_config(disable=True)
    for edit in (component(), offset_edit()):
        pipe.add_edit(edit)
    inversion, strengths = pipe.invert(photos), {"pc": 1.0, "shine": 1.0}
    wanted = pixels(pipe, inversion, edits=strengths)
    pipe.save_pretrained(tmp_path / "model")
    again = SDICPipeline.from_pretrained(tmp_path / "model")
    assert torch.equal(pixels(again, inversion, edits=strengths), wanted)


# The bundled generator.


@pytest.fixture(scope="module")
def cat(cats64):
    image = (cats64.generator(latents_of_seed(cats64.generator, 3, 0.7)).image / 2 + 0.5).clamp(0, 1)
    return cats64.invert(image.detach())


def bundled_edits(generator) -> list:
    """One edit of each family that adds offsets, each of a visible size."""
    channels = generator.style_channels
    shift = {i: torch.full((count,), 0.15) for i, count in enumerate(channels[:6])}
    # The relevance is made up, in StyleCLIP's shape: rows of all layers but ToRGB (every third from 1 on).
    relevance = random(sum(count for i, count in enumerate(channels) if i == 0 or i % 3 != 1), 32, seed=2)
    samples = generator.broadcast(generator.mapping(random(200, 256, seed=3))).detach()
    stds = [style.detach().std(dim=0) for style in generator.styles(samples)]
    return [
        find_styleclip(generator, "text", random(32), relevance, stds),
        find_ganspace(generator, 1, samples=1000)[0],
        find_sefa(generator, 1)[0],
        StyleSpaceEdit.from_offsets("shift", shift, default_strength=2.0),
        DirectionEdit("wplus", family="offset", tensors={"direction": 0.1 * random(10, 256)}, default_strength=2.0),
    ]


def test_offset_families_on_the_bundled_generator(cats64, cat):
    plain = pixels(cats64, cat)
    for edit in bundled_edits(cats64.generator):
        cats64.add_edit(edit)
        strength = edit.default_strength
        changed = pixels(cats64, cat, edits={edit.name: strength})
        effect = (changed - plain).abs().mean().item()
        print(f"{edit.name}: mean change {effect:.3f} at {strength:g}")
        assert effect > 0.02, edit.name
        assert torch.equal(pixels(cats64, cat, edits={edit.name: 0.0}), plain), edit.name
        # The inverse strength undoes it.
        if edit.space == "S":
            styles = cats64.edited_code(cat, {edit.name: strength})
            back = pixels(cats64, cat, styles=styles, edits={edit.name: -strength})
        else:
            latents = cats64.edited_code(cat, {edit.name: strength})
            back = pixels(cats64, cat, latents=latents, edits={edit.name: -strength})
        torch.testing.assert_close(back, plain, rtol=0, atol=1e-3)


def test_target_twice_on_the_bundled_generator(cats64, cat):
    for rule, layers in (("target", (0, 5)), ("layer_target", (2, 6))):
        target = find_ganspace(cats64.generator, 1, samples=1000, layers=layers, rule=rule)[0]
        cats64.add_edit(target)
        once = cats64.edited_code(cat, {target.name: 2.0})
        first = pixels(cats64, cat, latents=once)
        assert (first - pixels(cats64, cat)).abs().mean() > 0.02
        again = pixels(cats64, cat, latents=once, edits={target.name: 2.0})
        torch.testing.assert_close(again, first, rtol=0, atol=1e-3)


def test_offsets_are_order_independent(cats64, cat):
    for edit in bundled_edits(cats64.generator):
        cats64.add_edit(edit)
    strengths = {edit.name: edit.default_strength for edit in bundled_edits(cats64.generator)}
    found = pixels(cats64, cat, edits=strengths)
    torch.testing.assert_close(pixels(cats64, cat, edits=dict(reversed(strengths.items()))), found, rtol=0, atol=1e-4)


def test_principal_components_and_factors_show_in_pictures(cats64):
    latents = latents_of_seed(cats64.generator, 0, 0.7)
    for edit in (*find_ganspace(cats64.generator, 2, samples=1000), *find_sefa(cats64.generator, 2)):
        low, high = render_edit(cats64.generator, edit, latents, [-edit.default_strength, edit.default_strength])
        assert (high - low).abs().mean() > 0.05, edit.name


def test_contact_sheet_has_a_row_per_edit_and_picture(cats64):
    edits = find_ganspace(cats64.generator, 2, samples=1000)
    one = contact_sheet(cats64.generator, edits, multiples=(-1, 1))
    two = contact_sheet(cats64.generator, edits, seeds=(0, 1), multiples=(-1, 1))
    assert one.width == two.width
    assert two.height > 1.8 * one.height
    with pytest.raises(EditError, match="no edits to show"):
        contact_sheet(cats64.generator, [])


def test_measures_rise_along_the_bundled_edits(cats64):
    latents = latents_of_seed(cats64.generator, 0, 0.7)
    for name, measure in (("warmth", warmth), ("lightness", brightness)):
        images = render_edit(cats64.generator, cats64.find_edit(name), latents, [-1.0, 0.0, 1.0])
        values = measure((images / 2 + 0.5).clamp(0, 1))
        assert values[0] < values[1] < values[2]
