"""What the card of `faces128` shows, made of a small generator."""

from __future__ import annotations

import dataclasses
import json
import math
import shutil

import pytest
import torch
from PIL import Image
from safetensors.torch import save_file
from testing.tiny_models import make_model, make_pipeline

from hub_cards.faces128 import bundle, curve, generator_pages, pages, pipeline_pages
from hub_cards.faces128.job import Job
from hub_cards.renewing import Workplace, check_places
from sdic_plugin import DirectionEdit, SDICPipeline
from sdic_plugin.checkpoints.components import load_component
from sdic_plugin.edits import write_edits
from sdic_plugin.errors import SDICError
from sdic_plugin.models import StyleGAN2Discriminator, StyleGAN2Generator
from sdic_plugin.photos.photo import model_template


@pytest.fixture(scope="module")
def model(tmp_path_factory):
    folder = tmp_path_factory.mktemp("model")
    make_model("generator").save_pretrained(folder / "generator")
    make_model("discriminator").save_pretrained(folder / "discriminator")
    return folder


@pytest.fixture
def job(model, tmp_path, monkeypatch):
    monkeypatch.setattr(generator_pages, "PHOTOS", 3)
    monkeypatch.setattr(generator_pages, "PATH_IMAGES", 5)
    (tmp_path / "README.md").write_text("<!-- latents -->\n<!-- end of latents -->\nrest\n")
    (tmp_path / "photos").mkdir()
    for i in range(3):
        pixels = torch.randint(0, 256, (64, 64, 3), generator=torch.Generator().manual_seed(i), dtype=torch.uint8)
        Image.fromarray(pixels.numpy()).save(tmp_path / "photos" / f"{i}.png")
    place = Workplace(tmp_path / "photos", tmp_path)
    files = {"card": tmp_path / "README.md", "assets": tmp_path / "assets"}
    return Job(place, tmp_path / "photos", model=model, **files)


def test_bundle_is_half_precision_with_its_own_id_and_licence(model, tmp_path):
    size = bundle.build_bundle(model, tmp_path)
    generator = load_component(StyleGAN2Generator, tmp_path, "generator")
    load_component(StyleGAN2Discriminator, tmp_path, "discriminator")
    assert generator.config.license == "cc-by-4.0" and "FairFace" in generator.config.source
    assert generator.config.generator_id
    assert "FairFace" in (tmp_path / "NOTICE.md").read_text() and "CC BY 4.0" in (tmp_path / "NOTICE.md").read_text()
    files = sum(path.stat().st_size for path in tmp_path.glob("*/*.safetensors"))
    assert size < files < 1.2 * size
    assert str(model) not in (tmp_path / "generator" / "config.json").read_text()


@pytest.fixture(scope="module")
def whole(tmp_path_factory):
    """A trained pipeline with a discriminator and an edit."""
    folder = tmp_path_factory.mktemp("whole")
    pipe = make_pipeline()
    pipe.generator.register_to_config(generator_id="0123456789abcdef")
    pipe.add_edit(DirectionEdit("own", tensors={"direction": torch.ones(16)}))
    pipe.save_pretrained(folder)
    make_model("discriminator").save_pretrained(folder / "discriminator")
    return folder


def test_a_whole_pipeline_is_bundled_with_its_edits_and_alignment(whole, job, tmp_path):
    found = [DirectionEdit("found", tensors={"direction": torch.linspace(-1, 1, 16)})]
    write_edits(found, tmp_path / "edits.safetensors", "0123456789abcdef")
    size = bundle.build_bundle(whole, tmp_path / "own")
    assert bundle.build_bundle(whole, tmp_path / "given", tmp_path / "edits.safetensors") == size
    for name, edits in (("own", ["own"]), ("given", ["found"])):
        pipe = SDICPipeline.from_pretrained(tmp_path / name)
        assert list(pipe.get_list_edits()) == edits
        assert {edit.license for edit in pipe.get_list_edits().values()} == {"cc-by-4.0"}  # as they were found in it
        assert model_template(pipe) == bundle.ALIGNMENT
        assert pipe.generator.config.license == "cc-by-4.0" and "FairFace" in pipe.generator.config.source
        assert pipe.generator.config.generator_id == "0123456789abcdef"
        files = sum(path.stat().st_size for path in (tmp_path / name).glob("*/diffusion*.safetensors"))
        assert size < files < 1.6 * size  # small networks have long headers
        load_component(StyleGAN2Discriminator, tmp_path / name, "discriminator")


def test_edits_of_another_generator_are_refused(whole, tmp_path):
    edits = [DirectionEdit("found", tensors={"direction": torch.ones(16)})]
    write_edits(edits, tmp_path / "edits.safetensors", "fedcba9876543210")
    with pytest.raises(SDICError, match="were made for the generator fedcba9876543210"):
        bundle.build_bundle(whole, tmp_path / "out", tmp_path / "edits.safetensors")
    assert not (tmp_path / "out").exists()


def test_faces_are_learnt_from_every_other_photo(whole, tmp_path):
    (tmp_path / "photos").mkdir()
    for i in range(100):
        pixels = torch.randint(0, 256, (64, 64, 3), generator=torch.Generator().manual_seed(i), dtype=torch.uint8)
        Image.fromarray(pixels.numpy()).save(tmp_path / "photos" / f"{i:03}.png")
    bundle.build_bundle(whole, tmp_path / "out", photos=tmp_path / "photos")
    assert SDICPipeline.from_pretrained(tmp_path / "out").config.subject["format"] == "sdic-subject-1"


def test_networks_too_large_to_travel_are_refused(model, tmp_path, monkeypatch):
    monkeypatch.setattr(bundle, "LARGEST", 1000)
    with pytest.raises(SDICError, match="at most 0 MB shall travel"):
        bundle.build_bundle(model, tmp_path)
    assert not list(tmp_path.iterdir())


def test_pictures_have_a_cell_for_each_sample(job):
    generator_pages.samples(job)
    generator_pages.interpolations(job)
    size = make_model("generator").config.resolution
    for name, count in (
        ("samples", generator_pages.SAMPLES),
        ("interpolations", generator_pages.PATHS * generator_pages.STOPS),
    ):
        with Image.open(job.assets / f"faces128_{name}.png") as picture:
            assert picture.width * picture.height >= count * size**2


def test_latents_table_is_renewed(job):
    generator_pages.latents(job)
    text = job.card.read_text()
    assert text.endswith("rest\n") and text.count("\n| ") == 6
    values = [float(line.split("|")[2].split("±")[0]) for line in text.splitlines() if line.startswith("| W")]
    assert len(values) == 2 and values[1] > values[0]  # W+ comes nearer than W


def test_photographs_stay_outside_the_repository(job, tmp_path):
    generator_pages.latents(job)
    assert not job.assets.exists()
    sheets = tmp_path / "sheets"
    generator_pages.latents(dataclasses.replace(job, sheets=sheets))
    assert [path.name for path in sheets.iterdir()] == ["faces128_latents.png"] and not job.assets.exists()


def test_path_lengths_are_those_of_moving_w():
    """Against differences of the picture along random directions of w."""
    generator = make_model("generator").requires_grad_(False)
    lengths = generator_pages.measure_path_lengths(generator, 4)
    assert lengths.shape == (4,) and (lengths > 0).all()
    w = generator.broadcast(generator.mapping(torch.randn(64, generator.config.style_width)))
    step = 1e-3 * torch.randn_like(w)
    moved = (generator(w + step).image - generator(w).image).flatten(1).norm(dim=1) / 1e-3
    # The mean over styles of squared norms of J^T y / R, y normal, is |J|^2 / (R^2 · styles).
    expected = (moved.square().mean() / generator.config.resolution**2 / generator.num_styles).sqrt()
    assert lengths.mean().item() == pytest.approx(expected.item(), rel=0.4)


@pytest.mark.slow
def test_curve_goes_through_models_and_checkpoints(job, model, tmp_path, monkeypatch):
    pytest.importorskip("matplotlib")
    monkeypatch.setattr(curve, "SAMPLES", 20)
    shutil.copyfile(job.training / "0.png", job.training / "3.png")  # two halves of two
    job = dataclasses.replace(job, place=dataclasses.replace(job.place, folder=tmp_path / "work"))
    job.place.folder.mkdir()
    checkpoint = tmp_path / "step_00000010"
    checkpoint.mkdir()
    state = {f"{curve.PREFIX}{key}": value for key, value in make_model("generator", seed=1).state_dict().items()}
    save_file(state, checkpoint / curve.AVERAGE)
    points = curve.read_points([f"96000={checkpoint}", f"64000={model}"])
    assert list(points) == [64000, 96000]
    curve.curve(dataclasses.replace(job, points=points))
    (part,) = json.loads((job.assets / "faces128_curve.json").read_text())
    assert [images for images, _ in part["points"]] == [64.0, 96.0]
    assert part["points"][0][1] != part["points"][1][1] and math.isfinite(part["floor"])
    with Image.open(job.assets / "faces128_curve.png") as picture:
        assert len(picture.getcolors(100_000)) > 3


def test_points_of_the_curve_are_asked_for(job, tmp_path):
    for word in ("1000", f"many={tmp_path}", f"10={tmp_path / 'nothing'}"):
        with pytest.raises(SDICError, match="give IMAGES=FOLDER"):
            curve.read_points([word])
    with pytest.raises(SDICError, match="name them with --points"):
        curve.curve(job)


def test_places_of_the_card_are_looked_for_before_anything_is_computed(job):
    check_places(job.card, ["latents"])
    with pytest.raises(SDICError, match="no place for the table 'judge'"):
        check_places(job.card, ["latents", "judge"])
    with pytest.raises(SDICError, match=r"no card\.md in .* write it first"):
        check_places(job.card.with_name("card.md"), [])
    assert pages.TABLES.keys() <= pages.PARTS.keys()


def test_edits_are_shown_on_samples_and_photos(job, whole, tmp_path):
    bundle.build_bundle(whole, tmp_path / "bundle")
    job = dataclasses.replace(job, model=tmp_path / "bundle", sheets=tmp_path / "sheets")
    generator_size = make_model("generator").config.resolution
    pipeline_pages.edits(job)
    for name, cells in (("edits", 3 * 5), ("astronaut_edits", 5)):
        with Image.open(job.assets / f"faces128_{name}.png") as picture:
            assert picture.width >= cells * generator_size
    assert [path.name for path in job.sheets.iterdir()] == ["faces128_own.png"]
    with Image.open(job.sheets / "faces128_own.png") as picture:
        assert picture.height >= 3 * generator_size and picture.width >= 5 * generator_size
    assert len(list(job.assets.iterdir())) == 2


@pytest.mark.slow
def test_figures_are_grouped_by_every_column(job, whole):
    pytest.importorskip("dlib")
    rows = ["file,age,gender,group", "0.png,20-29,Female,A", "1.png,30-39,Male,A", "2.png,30-39,Female,B"]
    (job.place.photos / "labels.csv").write_text("\n".join(rows), encoding="utf-8")
    marks = [f"<!-- {name} -->\n<!-- end of {name} -->\n" for name in pages.TABLES["fairness"]]
    job.card.write_text("".join(marks), encoding="utf-8")
    pipeline_pages.fairness(dataclasses.replace(job, model=whole))
    together, _, grouped = job.card.read_text(encoding="utf-8").partition("<!-- end of all faces -->")
    assert "3 photos" in together and "| gain |" in together and "| own |" in together and "20-29" not in together
    tables = grouped.split("\n\n")[1:-1]
    assert [table.split(" ")[1] for table in tables] == ["age", "gender", "group"]
    labels = [[line.split(" | ")[0].removeprefix("| ") for line in table.splitlines()[2:]] for table in tables]
    assert labels == [["20-29", "30-39"], ["Female", "Male"], ["A", "B"]]


def test_every_part_has_a_sentence_and_what_costs_much_is_asked_for():
    assert all(part.__doc__ and part.__doc__.endswith(".") for part in pages.PARTS.values())
    assert set(pages.ON_DEMAND) <= pages.PARTS.keys() and len(pages.PARTS) == 11
