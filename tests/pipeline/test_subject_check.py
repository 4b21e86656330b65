"""Photos that show something else than the model's own kind are warned of, and no others."""

from __future__ import annotations

import copy
import json
import logging
import pickle

import numpy as np
import pytest
import torch
from PIL import Image
from testing.tiny_models import make_pipeline

from sdic_plugin import SDICError, SDICPipeline
from sdic_plugin.benchmarks.subject_check import area_under_curve, compare, moved, to_markdown
from sdic_plugin.commands.cli import main
from sdic_plugin.conversion.export.remote_code import export_remote_code
from sdic_plugin.photos.photo import crop_photo, load_example, subject_note
from sdic_plugin.pipeline.subject_check import (
    COMPONENTS,
    FEWEST_PICTURES,
    STRUCTURE_WIDTH,
    SubjectReference,
    agreement,
    structure,
)
from sdic_plugin.training.model_folder import _learn_subject
from sdic_plugin.training.subject import main as subject_command

LOGGER = "sdic_plugin.pipeline.subject_check"


def drawn(pipe: SDICPipeline, count: int, seed: int = 0) -> torch.Tensor:
    """Pictures of the tiny generator, [N, 3, 32, 32] in [0, 1]."""
    z = torch.randn(count, pipe.generator.config.style_width, generator=torch.Generator().manual_seed(seed))
    with torch.no_grad():
        images = pipe.generator(pipe.generator.broadcast(pipe.generator.mapping(z))).image
    return pipe.shrink_initial(images) / 2 + 0.5


@pytest.fixture(scope="module")
def tiny():
    """A tiny model that knows its own kind."""
    pipe = make_pipeline(alignment={"left_eye": [0.3, 0.4], "right_eye": [0.7, 0.4]})
    pipe.set_progress_bar_config(disable=True)
    pipe.learn_subject(drawn(pipe, 60))
    return pipe


@pytest.fixture(scope="module")
def stripes():
    """Three pictures that no tiny generator draws: stripes, an edge, stripes the other way."""
    images = torch.zeros(3, 3, 32, 32)
    images[0, :, :, ::4] = images[0, :, :, 1::4] = images[1, :, :, :16] = images[2, :, ::8] = 1
    return images


# The bundled model on real photographs.


def found(pipe: SDICPipeline, picture: object) -> bool:
    return pipe.find_unlike(pipe.invert(picture, check_subject=False)) == [0]


def test_chelsea_with_its_eyes_is_not_warned_of(cats64, caplog):
    photo = load_example("chelsea")
    crop = crop_photo(cats64, photo.source, photo.eyes)[0]
    with caplog.at_level(logging.WARNING):
        inversion = cats64.invert(crop)
    assert cats64.subject_warning(inversion) is None and not caplog.records
    # Nor if the eyes were clicked two pixels off, or the photo is grey or darker.
    nearby = crop_photo(cats64, photo.source, (174.0, 111.0, 314.0, 136.0))[0]
    for picture in (nearby, crop.convert("L"), crop.point(lambda value: value // 2), crop.transpose(0)):
        assert not found(cats64, picture)


def test_other_photos_are_warned_of(cats64, caplog):
    from skimage import data

    cat, astronaut = load_example("chelsea"), load_example("astronaut")
    whole = Image.new("RGB", (900, 900), "white")
    whole.paste(cat.source, (40, 300))
    others = {
        "a small cat in a large photo": whole,
        "the cat upside down": crop_photo(cats64, cat.source, cat.eyes)[0].rotate(180),
        "half the cat": cat.source.crop((230, 0, 450, 220)),
        "a person, not aligned": astronaut.source,
        "a cup": Image.fromarray(data.coffee()),
        "a rocket": Image.fromarray(data.rocket()),
        "text": Image.fromarray(data.page()),
        "noise": np.random.default_rng(0).random((64, 64, 3)),
        "nothing": Image.new("RGB", (64, 64), "grey"),
    }
    assert [name for name, picture in others.items() if not found(cats64, picture)] == []
    with caplog.at_level(logging.WARNING, LOGGER):
        cats64.invert([others["a cup"], crop_photo(cats64, cat.source, cat.eyes)[0], others["text"]])
    (record,) = caplog.records
    assert record.getMessage().startswith("Of 3 photos, 2 look (those at 0, 2) unlike the pictures this model was")


def test_the_commands_warn_by_the_photos_names(tmp_path, capsys):
    astronaut = tmp_path / "astronaut.png"
    load_example("astronaut").source.save(astronaut)
    options = ["--model", "cats64", "--out", str(tmp_path / "out")]
    assert main(["invert", str(astronaut), "--no-sheets", *options]) == 0
    sentence = (
        f"warning: {astronaut}: The photo looks unlike the pictures this model was trained on, so that results may be "
        "poor: give its eyes with --eyes, or find a person's face with --face.\n"
    )
    assert capsys.readouterr().err.count(sentence) == 1
    assert main(["edit", str(astronaut), "--sweep", "warmth=-1:1:2", *options]) == 0
    assert sentence in capsys.readouterr().err
    assert main(["edit", "--example", "chelsea", "--edit", "warmth=1", *options]) == 0
    assert "unlike" not in capsys.readouterr().err


def test_advice_fits_what_was_given(tiny, stripes):
    inversion = tiny.invert(stripes[:1], check_subject=False)
    photo = load_example("chelsea")
    assert "check that the right eyes were given" in subject_note(tiny, inversion, photo)
    assert "crop_photo" in tiny.subject_warning(inversion)
    bare = make_pipeline(subject=tiny.config.subject)
    assert "cropped as its training pictures were" in subject_note(bare, inversion, photo)
    assert "cropped as its training pictures were" in bare.subject_warning(inversion)


# Where it is known, and where not.


def test_a_model_without_a_reference_says_nothing(stripes, caplog):
    pipe = make_pipeline()
    with caplog.at_level(logging.WARNING):
        inversion = pipe.invert(stripes)
    assert pipe.find_unlike(inversion) == [] and pipe.subject_warning(inversion) is None and not caplog.records
    assert "subject" not in pipe.config


def test_a_model_knows_its_own_pictures_from_others(tiny, stripes, caplog):
    assert tiny.find_unlike(tiny.invert(stripes, check_subject=False)) == [0, 1, 2]
    assert len(tiny.find_unlike(tiny.invert(drawn(tiny, 60, seed=1), check_subject=False))) <= 6
    latents = tiny.encode(stripes * 2 - 1)
    with caplog.at_level(logging.WARNING):
        tiny.invert(stripes, check_subject=False)
        tiny.invert(stripes, latents=latents)  # not the encoder's, so nothing is known of them
    assert not caplog.records
    with caplog.at_level(logging.WARNING):
        tiny(stripes)
    assert len(caplog.records) == 1


def test_the_inversion_is_the_same_with_and_without(tiny, stripes):
    plain = make_pipeline()
    assert torch.equal(plain.invert(stripes).compensated_features, tiny.invert(stripes).compensated_features)


def test_saved_loaded_copied_and_shared(tiny, stripes, tmp_path):
    tiny.save_pretrained(tmp_path / "model")
    loaded = SDICPipeline.from_pretrained(tmp_path / "model")
    assert loaded.config.subject == tiny.config.subject
    inversion = tiny.invert(stripes, check_subject=False)
    others = {
        "loaded": loaded,
        "copied": copy.deepcopy(tiny),
        "pickled": pickle.loads(pickle.dumps(tiny)),
        "other generator": tiny.with_generator(make_pipeline(seed=1).generator),
        "half": SDICPipeline.from_pretrained(tmp_path / "model", dtype=torch.bfloat16),
    }
    for name, pipe in others.items():
        assert pipe.find_unlike(inversion) == [0, 1, 2], name
    loaded.save_pretrained(tmp_path / "again")
    assert json.loads((tmp_path / "again" / "model_index.json").read_text())["subject"] == tiny.config.subject


def test_what_is_stored_scores_as_what_was_measured(tiny):
    images = drawn(tiny, 20, seed=2) * 2 - 1
    initial = drawn(tiny, 20, seed=3) * 2 - 1
    stored = SubjectReference.from_dict(json.loads(json.dumps(tiny._subject.to_dict())))
    torch.testing.assert_close(
        stored.scores(images, initial), tiny._subject.scores(images, initial), rtol=0, atol=0.02
    )
    assert len(json.dumps(tiny._subject.to_dict())) < 8000


@pytest.mark.parametrize(
    "change",
    [
        {"format": "sdic-subject-9"},
        {"format": None},
        {"threshold": float("nan")},
        {"threshold": "2"},
        {"threshold": True},
        {"agreement": [0.5]},
        {"agreement": [0.5, 0.0]},
        {"agreement": {"mean": 0.5}},
        {"distance": [10**400, 1]},
        {"variances": []},
        {"variances": [[1]]},
        {"variances": [-1.0] * (COMPONENTS + 1)},
        {"structure": None},
        {"structure": "not base64!"},
        {"structure": "AAAA"},
        {"structure": "/38A" * (STRUCTURE_WIDTH * (COMPONENTS + 1) * 2 // 3)},
        {"pictures": float("inf")},
    ],
    ids=str,
)
def test_hostile_values_get_one_sentence(tiny, tmp_path, change):
    values = {**tiny.config.subject, **change}
    with pytest.raises(SDICError, match="'subject' is not what sdic_plugin writes") as raised:
        make_pipeline(subject=values)
    assert "\n" not in str(raised.value) and len(str(raised.value)) < 400


@pytest.mark.parametrize("value", [7, "text", [1, 2], {}, {"format": "sdic-subject-1"}], ids=str)
def test_hostile_files_get_one_sentence(tiny, tmp_path, value):
    tiny.save_pretrained(tmp_path / "model")
    index = tmp_path / "model" / "model_index.json"
    index.write_text(json.dumps({**json.loads(index.read_text()), "subject": value}))
    with pytest.raises(SDICError, match="subject"):
        SDICPipeline.from_pretrained(tmp_path / "model")


def test_too_few_or_equal_pictures_are_refused(tiny):
    pipe = make_pipeline()
    with pytest.raises(SDICError, match=f"{FEWEST_PICTURES - 1} pictures were given"):
        pipe.learn_subject(drawn(pipe, FEWEST_PICTURES - 1))
    with pytest.raises(SDICError, match="all alike"):
        pipe.learn_subject(drawn(pipe, 1).expand(60, -1, -1, -1))
    assert "subject" not in pipe.config


def test_training_notes_it_of_enough_validation_images(tiny, tmp_path):
    pipe = make_pipeline()
    _learn_subject(pipe, (drawn(pipe, 20) * 255).byte())
    assert "subject" not in pipe.config
    _learn_subject(pipe, (drawn(pipe, 60) * 255).byte())
    assert pipe.config.subject["pictures"] == 60


def test_the_command_writes_the_index_alone(tmp_path, capsys, stripes):
    pipe, folder, photos = make_pipeline(), tmp_path / "model", tmp_path / "photos"
    pipe.save_pretrained(folder)
    photos.mkdir()
    for i, picture in enumerate(drawn(pipe, 100)):
        pixels = (picture.clamp(0, 1) * 255).byte().permute(1, 2, 0).numpy()
        Image.fromarray(pixels).save(photos / f"{i:03d}.png")
    before = {path: path.read_bytes() for path in folder.rglob("*") if path.is_file()}
    arguments = ["--model", str(folder), "--data", str(photos)]
    subject_command([*arguments, "--every-other"])
    assert capsys.readouterr().out.endswith("knows its subject from 50 pictures\n")
    changed = [path.name for path, content in before.items() if path.read_bytes() != content]
    assert changed == ["model_index.json"] and len(list(folder.rglob("*"))) == len(before) + 4
    loaded = SDICPipeline.from_pretrained(folder)
    assert loaded.find_unlike(loaded.invert(stripes, check_subject=False)) == [0, 1, 2]
    for wrong, message in (
        ([*arguments, "--limit", "20"], "subject: 20 pictures were given"),
        (["--model", "cats64", "--data", str(photos)], "subject: The model 'cats64' is no folder"),
        (["--model", str(folder), "--data", str(tmp_path / "absent")], "subject: "),
    ):
        with pytest.raises(SystemExit, match=message):
            subject_command(wrong)


def test_remote_code_keeps_it(tiny, tmp_path):
    export_remote_code(tiny, tmp_path / "remote")
    index = json.loads((tmp_path / "remote" / "model_index.json").read_text())
    assert index["subject"] == tiny.config.subject
    assert "class SubjectReference" in (tmp_path / "remote" / "pipeline.py").read_text()


@pytest.mark.slow
def test_the_benchmark_compares_the_measures(tiny, stripes):
    images = drawn(tiny, 120) * 2 - 1
    results = compare(tiny, images, {"stripes": stripes * 2 - 1}, report=lambda name: None)
    both = {each.name: each for each in results["agreement and structure"]}
    assert both["stripes"].warned == 1 and both["stripes"].area > 0.95 and both["as they are"].area == 0.5
    assert both["as they are"].count == 60 and len(results) == 10
    assert to_markdown(results).count("\n") == 2 + len(both)
    area = area_under_curve(torch.tensor([0.0, 1.0]), torch.tensor([1.0, 2.0]))
    assert area == pytest.approx(0.875)


def test_moved_pictures_move_as_told():
    image = torch.zeros(1, 3, 32, 32)
    image[:, :, 8:12, 8:12] = 1
    turned = moved(image, degrees=torch.tensor([180.0]))
    torch.testing.assert_close(turned, image.flip(2, 3), atol=1e-3, rtol=0)
    shifted = moved(image, shift=torch.tensor([[0.25, 0.0]]))
    torch.testing.assert_close(shifted[..., :20], image[..., 8:28], atol=1e-3, rtol=0)
    larger = moved(image, scale=torch.tensor([2.0]))
    assert larger.mean() == pytest.approx(4 * image.mean().item(), rel=0.1)


# The measures.


def test_agreement_sees_edges_and_not_brightness():
    image = torch.rand(2, 3, 64, 64, generator=torch.Generator().manual_seed(0)) - 0.5
    torch.testing.assert_close(agreement(image, image), torch.ones(2), atol=0.01, rtol=0)
    torch.testing.assert_close(agreement(image, image + 0.4), torch.ones(2), atol=0.01, rtol=0)
    torch.testing.assert_close(agreement(image, -image), -torch.ones(2), atol=0.01, rtol=0)
    assert agreement(torch.zeros_like(image), image).abs().max() < 1e-6


def test_structure_knows_the_orientation_of_edges():
    ramp = torch.linspace(-1, 1, 64).expand(1, 3, 64, 64)
    cells = structure(ramp).reshape(ORIENTATION_SHAPE).square()
    turned = structure(ramp.mT).reshape(ORIENTATION_SHAPE).square()
    # Orientation 0 lies between the first and the last bin's centres, a right angle between the middle two.
    assert cells[[1, 2]].abs().max() < 1e-3 < cells[[0, 3]].min()
    assert turned[[0, 3]].abs().max() < 1e-3 < turned[[1, 2]].min()
    assert structure(torch.rand(1, 3, 100, 40)).shape == (1, STRUCTURE_WIDTH)
    assert structure(torch.zeros(1, 3, 32, 32)).abs().max() == 0


ORIENTATION_SHAPE = (4, 8, 8)


def test_nothing_is_made_float64_before_it_is_on_the_cpu(monkeypatch):
    """As GPUs of Apple have no float64."""
    photos = torch.rand(60, 3, 64, 64, generator=torch.Generator().manual_seed(0)) * 2 - 1
    reference = SubjectReference.measure(photos, photos.roll(1, dims=3))
    made, cpu, double = [], torch.Tensor.cpu, torch.Tensor.double

    def noting_cpu(tensor):
        made.append(cpu(tensor))
        return made[-1]

    def checking_double(tensor):
        assert any(tensor is each for each in made)
        return double(tensor)

    monkeypatch.setattr(torch.Tensor, "cpu", noting_cpu)
    monkeypatch.setattr(torch.Tensor, "double", checking_double)
    assert reference.scores(photos[:2], photos[:2]).shape == (2,)
