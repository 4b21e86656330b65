"""Directions from scores, and the commands that find, import and show edits."""

from __future__ import annotations

import csv
import shutil
import sys

import numpy as np
import pytest
import torch
from PIL import Image
from testing.model_folders import edit_json
from testing.tiny_models import make_model, make_pipeline

from sdic_plugin import DirectionEdit, EditError, SDICError, SDICPipeline, read_edits, write_edits
from sdic_plugin.commands.cli import main
from sdic_plugin.commands.common import load_generator
from sdic_plugin.edits.attributes import FitConfig, fit_attributes
from sdic_plugin.edits.discovery import brightness, warmth
from sdic_plugin.edits.scores import find_measure, scores_of_folders, scores_of_measures, scores_of_table
from sdic_plugin.edits.sheets import render_edit
from sdic_plugin.evaluation.samples import save_samples
from sdic_plugin.models.sampling import latents_of_seed, sample


def random(*shape: int, seed: int = 0) -> torch.Tensor:
    return torch.randn(shape, generator=torch.Generator().manual_seed(seed))


def correlated(count: int = 800, width: int = 12) -> tuple[torch.Tensor, torch.Tensor, torch.Tensor, torch.Tensor]:
    """Latents whose axes are correlated, two score directions that are as well, and the latents' covariance."""
    mixing = random(width, width, seed=1)
    latents = random(count, width) @ mixing + 3
    a = random(width, seed=2)
    b = 0.5 * a + random(width, seed=3)
    return latents, a, b, torch.cov(latents.T)


# The fit.


@pytest.mark.parametrize("method", ["regression", "svm"])
@pytest.mark.parametrize("labels", [False, True])
def test_a_linear_score_is_found(method, labels):
    latents, a, _, covariance = correlated()
    scores = latents @ a
    if labels:
        scores = (scores > scores.median()).float()
    config = FitConfig(method, ridge=1e-4)
    (edit,), (report,) = fit_attributes(latents, {"smile": scores}, config=config)
    wanted = covariance @ a
    assert torch.nn.functional.cosine_similarity(edit.direction[0], wanted, dim=0) > 0.97
    # One standard deviation: the covariance's own measure of length is 1.
    assert edit.direction[0] @ torch.linalg.solve(covariance, edit.direction[0]) == pytest.approx(1, abs=0.05)
    assert (edit.space, edit.family, edit.direction.shape) == ("W", "interfacegan", (1, 12))
    assert report.accuracy > 0.9
    assert report.train_count + report.test_count == 800
    assert 100 < report.test_count < 220


def test_noise_is_reported_as_such():
    latents, *_ = correlated()
    _, (report,) = fit_attributes(latents, {"noise": random(800, seed=9)})
    assert 0.3 < report.accuracy < 0.7
    assert abs(report.correlation) < 0.3


def test_conditional_projection_leaves_another_attribute_alone():
    latents, a, b, covariance = correlated()
    scores = {"smile": latents @ a, "age": latents @ b}
    config = FitConfig(ridge=1e-4)
    plain, reports = fit_attributes(latents, scores, config=config)
    apart, _ = fit_attributes(latents, scores, {"smile": ["age"]}, config)

    def rise(edit, normal):
        return (edit.direction[0] @ normal / (normal @ covariance @ normal).sqrt()).item()

    assert rise(plain[0], b) > 0.2
    assert abs(rise(apart[0], b)) < 0.03
    assert rise(apart[0], a) > 0.3
    assert torch.equal(apart[1].direction, plain[1].direction)
    assert reports[0].leakage["age"] == pytest.approx(rise(plain[0], b), abs=0.05)
    with pytest.raises(EditError, match="cannot leave"):
        fit_attributes(latents, scores, {"smile": ["glasses"]})
    with pytest.raises(EditError, match="Nothing is left"):
        fit_attributes(latents, {"one": latents @ a, "same": latents @ a}, {"one": ["same"]}, config)


def test_latents_of_every_style_give_a_row_each():
    latents = random(200, 10, 16)
    scores = latents[:, 4].sum(dim=1)
    (edit,), _ = fit_attributes(latents, {"smile": scores})
    assert (edit.space, edit.direction.shape) == ("W+", (10, 16))
    rows = edit.direction.norm(dim=1)
    assert rows.argmax() == 4
    assert rows[4] > 2 * rows[[i for i in range(10) if i != 4]].max()


def test_unknown_scores_are_left_out():
    latents, a, *_ = correlated()
    scores = latents @ a
    scores[::2] = float("nan")
    _, (report,) = fit_attributes(latents, {"smile": scores})
    assert report.train_count + report.test_count == 400


@pytest.mark.parametrize(
    ("scores", "message"),
    [
        (torch.ones(800), "scores from 1 to 1"),
        (random(799), "799 scores for 800 pictures"),
        (torch.cat([torch.zeros(5), torch.full((795,), float("nan"))]), "5 scores"),
        (torch.cat([torch.ones(1), torch.zeros(799)]), "too few pictures on one side"),
    ],
)
def test_scores_that_cannot_be_fitted_are_refused(scores, message):
    with pytest.raises(EditError, match=message):
        fit_attributes(correlated()[0], {"smile": scores})


@pytest.mark.parametrize("values", [{"method": "magic"}, {"ridge": 0}, {"held_out": 1.0}, {"margin_share": 0.6}])
def test_settings_that_make_no_sense_are_refused(values):
    with pytest.raises(EditError):
        FitConfig(**values)


# Where scores come from.


def test_tables_of_seeds(tmp_path):
    generator = make_model("generator")
    samples = sample(generator, seeds=[5, 3, 8])
    save_samples(samples, tmp_path)
    (tmp_path / "scores.csv").write_text("seed,smile,age\n3,0.5,\n8,1.5,30\n", encoding="utf-8-sig")
    saved = scores_of_table(tmp_path / "scores.csv", generator, tmp_path / "latents.safetensors")
    drawn = scores_of_table(tmp_path / "scores.csv", generator)
    assert torch.equal(saved.latents, samples.latents[[1, 2], 0])
    torch.testing.assert_close(drawn.latents, saved.latents)
    assert saved.scores["smile"].tolist() == [0.5, 1.5]
    assert saved.scores["age"].isnan().tolist() == [True, False]
    (tmp_path / "scores.csv").write_text("seed,smile\n4,1\n")
    with pytest.raises(EditError, match=r"no latents of the seeds \[4\]"):
        scores_of_table(tmp_path / "scores.csv", generator, tmp_path / "latents.safetensors")
    for text, message in (
        ("name,smile\na,1\n", "column 'seed' or 'image'"),
        ("seed\n1\n", "one of scores per attribute"),
        ("seed,smile\n1,high\n", "'high' in the column 'smile'"),
        ("", "has the columns"),
        ("seed,smile\nnan,1\n", "holds 'nan' in the column 'seed', but a seed is a whole number"),
        ("seed,smile\ninf,1\n", "holds 'inf' in the column 'seed', but a seed is a whole number"),
        ("seed,smile\n2.5,1\n", "holds '2.5' in the column 'seed', but a seed is a whole number"),
        ("seed,smile\n-1,1\n", "holds '-1' in the column 'seed', but a seed is a whole number"),
    ):
        (tmp_path / "scores.csv").write_text(text)
        with pytest.raises(EditError, match=message):
            scores_of_table(tmp_path / "scores.csv", generator)
    with pytest.raises(EditError, match="cannot be read"):
        scores_of_table(tmp_path / "missing.csv", generator)
    (tmp_path / "scores.csv").write_text("seed,smile\n3.0,1\n")  # as pandas writes them
    torch.testing.assert_close(scores_of_table(tmp_path / "scores.csv", generator).latents, saved.latents[:1])


def write_pictures(folder, count: int, level: int) -> None:
    folder.mkdir()
    rng = np.random.default_rng(level)
    for i in range(count):
        pixels = np.clip(rng.normal(level, 40, (32, 32, 3)), 0, 255).astype(np.uint8)
        Image.fromarray(pixels).save(folder / f"{i}.png")


def test_tables_and_folders_of_images_are_encoded(tmp_path):
    pipe = make_pipeline()
    write_pictures(tmp_path / "light", 3, 180)
    write_pictures(tmp_path / "dark", 2, 60)
    (tmp_path / "scores.csv").write_text("image,smile\nlight/1.png,2\ndark/0.png,1\n")
    encode = lambda image: pipe.encode(pipe.prepare_image(image)).float().cpu()  # noqa: E731
    found = scores_of_table(tmp_path / "scores.csv", pipe.generator, encode=encode)
    wanted = pipe.encode(pipe.prepare_image([tmp_path / "light" / "1.png", tmp_path / "dark" / "0.png"]))
    torch.testing.assert_close(found.latents, wanted)
    with pytest.raises(EditError, match="whole model"):
        scores_of_table(tmp_path / "scores.csv", pipe.generator)
    folders = {"light": (tmp_path / "light", tmp_path / "dark"), "dark": (tmp_path / "dark", tmp_path / "light")}
    labelled = scores_of_folders(encode, pipe.encoder.config.image_size, folders)
    assert labelled.latents.shape == (10, 10, 16)
    assert labelled.scores["light"][:5].tolist() == [1, 1, 1, 0, 0]
    assert labelled.scores["light"][5:].isnan().all()
    with pytest.raises(EditError, match="1 folders"):
        scores_of_folders(encode, pipe.encoder.config.image_size, {"light": [tmp_path / "light"]})


def test_folders_are_cropped_as_the_pictures_of_a_table_are(tmp_path):
    """A wide model sees the sides of a wide picture, which a square crop would lose."""
    pipe = make_pipeline(content_rows=[8, 56])
    seen = []
    encode = lambda image: seen.append(pipe.prepare_image(image)) or pipe.encode(seen[-1])  # noqa: E731
    for i, name in enumerate(("with", "without")):
        (tmp_path / name).mkdir()
        pixels = np.random.default_rng(i).integers(0, 255, (6, 8, 3), dtype=np.uint8)
        Image.fromarray(pixels).resize((256, 192)).save(tmp_path / name / "car.png")
        (tmp_path / name / "broken.png").write_bytes(b"no picture")
    with pytest.warns(UserWarning, match="1 files were skipped: broken"):
        scores_of_folders(encode, pipe.image_size, {"red": (tmp_path / "with", tmp_path / "without")})
    (tmp_path / "scores.csv").write_text("image,red\nwith/car.png,1\nwithout/car.png,0\n")
    scores_of_table(tmp_path / "scores.csv", pipe.generator, encode=encode)
    torch.testing.assert_close(torch.cat(seen[:2]), torch.cat(seen[2:]), atol=1 / 127, rtol=0)
    (tmp_path / "empty").mkdir()
    with pytest.raises(SDICError, match="holds no readable image"):
        scores_of_folders(encode, pipe.image_size, {"red": (tmp_path / "empty", tmp_path / "with")})


def test_a_table_with_quoted_names_lists_images(tmp_path, tiny_folder, capsys):
    """As R writes it, with a column of row names; and one of another encoding is refused in one sentence."""
    write_pictures(tmp_path / "faces", 24, 120)
    lines = [f'"{i}","faces/{i}.png",{i}' for i in range(24)]
    table = tmp_path / "scores.csv"
    table.write_text("\n".join(['"","image","smile"', *lines]))
    out = ["--out", str(tmp_path / "found.safetensors")]
    command = ["edits", "find", "--method", "interfacegan", "--model", tiny_folder, "--scores", str(table), *out]
    assert main(command) == 0
    assert [edit.name for edit in read_edits(tmp_path / "found.safetensors")[0]] == ["smile"]
    capsys.readouterr()
    table.write_bytes("image,größe\na.png,1\n".encode("latin-1"))
    assert main(command) == 2
    error = capsys.readouterr().err
    assert "give a CSV file in UTF-8" in error and len(error.strip().splitlines()) == 1


def test_measures_of_a_module_in_the_current_folder(tmp_path, monkeypatch):
    monkeypatch.chdir(tmp_path)
    monkeypatch.setattr(sys, "path", [path for path in sys.path if path not in ("", str(tmp_path))])
    before = list(sys.path)
    (tmp_path / "own_measures.py").write_text("def redness(images):\n    return images[:, 0].mean((1, 2))\nside = 3\n")
    (tmp_path / "unfinished_measures.py").write_text("def redness(images:\n")
    (tmp_path / "ending_measures.py").write_text("raise SystemExit(3)\n")
    (tmp_path / "needy_measures.py").write_text("import no_such_library\n")
    assert find_measure("own_measures:redness")(torch.ones(2, 3, 4, 4)).tolist() == [1, 1]
    for text, message in (
        (":redness", "is incomplete: write module:function"),
        ("own_measures:", "is incomplete"),
        ("own_measures:side", "has no function 'side'"),
        ("own_measures.py:redness", "no module own_measures.py is installed or in the current folder"),
        ("unfinished_measures:redness", r"its module raised SyntaxError \("),
        ("ending_measures:redness", "its module raised SystemExit"),
        ("needy_measures:redness", r"its module raised ModuleNotFoundError \(No module named 'no_such_library'\)"),
    ):
        with pytest.raises(EditError, match=message):
            find_measure(text)
    assert sys.path == before


def test_measures_by_name_and_by_module():
    assert find_measure("warmth") is warmth
    assert find_measure("sdic_plugin.edits.discovery:brightness") is brightness
    for text in ("magic", "no_such_module:f", "sdic_plugin.errors:nothing"):
        with pytest.raises(EditError, match=r"unknown|cannot be imported"):
            find_measure(text)
    with pytest.raises(EditError, match=r"scores of shape \[20, 3\]"):
        scores_of_measures(make_model("generator"), {"bad": lambda images: images.mean(dim=(2, 3))}, samples=20)


# On the bundled generator.


def test_a_callable_finds_a_direction_that_does_what_it_measures():
    generator = SDICPipeline.from_pretrained("cats64").generator
    measures = {"warmth": warmth, "light": lambda images: images.mean(dim=(1, 2, 3))}
    scored = scores_of_measures(generator, measures, samples=300)
    apart = {"warmth": ["light"], "light": ["warmth"]}
    edits, reports = fit_attributes(scored.latents, scored.scores, apart)
    for report in reports:
        assert report.accuracy > 0.7
    rises = {}
    for edit in edits:
        pictures = [
            (render_edit(generator, edit, latents_of_seed(generator, seed, 0.7), [-1.0, 1.0]) / 2 + 0.5).clamp(0, 1)
            for seed in range(4)
        ]
        rises[edit.name] = {
            name: torch.stack([measure(each) for each in pictures]).diff(dim=1).mean().item()
            / scored.scores[name].std().item()
            for name, measure in measures.items()
        }
    print(rises)
    for name, other in (("warmth", "light"), ("light", "warmth")):
        assert rises[name][name] > 0.8
        assert abs(rises[name][other]) < 0.5 * rises[name][name]


# Commands.


@pytest.fixture
def tiny_folder(tmp_path):
    make_pipeline().save_pretrained(tmp_path / "model")
    return str(tmp_path / "model")


@pytest.mark.parametrize("method", ["ganspace", "sefa"])
def test_find_writes_a_set_and_its_sheet(tmp_path, tiny_folder, method, capsys):
    out = tmp_path / "found.safetensors"
    arguments = ["edits", "find", "--method", method, "--model", tiny_folder, "--count", "2", "--layers", "0:4"]
    assert main([*arguments, "--samples", "100", "--out", str(out)]) == 0
    edits, about = read_edits(out)
    assert [edit.layers for edit in edits] == [(0, 4), (0, 4)]
    assert about["generator_id"] == "tiny"
    assert Image.open(tmp_path / "found.png").width > 5 * 160
    assert edits[0].name in capsys.readouterr().out
    pipe = SDICPipeline.from_pretrained(tiny_folder)
    assert pipe.load_edits(out) == [edit.name for edit in edits]


def test_find_from_a_table_on_the_command_line(tmp_path, tiny_folder, capsys):
    with (tmp_path / "scores.csv").open("w", newline="") as file:
        writer = csv.writer(file)
        writer.writerow(["seed", "smile", "age"])
        generator = SDICPipeline.from_pretrained(tiny_folder).generator
        for seed in range(60):
            latents = latents_of_seed(generator, seed, 0.7)[0, 0]
            writer.writerow([seed, latents[0].item(), latents[1].item()])
    arguments = ["edits", "find", "--method", "interfacegan", "--model", tiny_folder, "--apart"]
    out = ["--out", str(tmp_path / "found.safetensors")]
    assert main([*arguments, "--scores", str(tmp_path / "scores.csv"), "--layers", "0:4", *out]) == 0
    edits, _ = read_edits(tmp_path / "found.safetensors")
    assert [(edit.name, edit.layers) for edit in edits] == [("smile", (0, 4)), ("age", (0, 4))]
    assert abs(edits[0].direction[0, 0]) > abs(edits[0].direction[0, 1])
    assert "held-out pictures on the right side" in capsys.readouterr().out
    assert main([*arguments, *out]) == 2
    assert "scores of one kind" in capsys.readouterr().err


def test_import_show_and_edit_on_the_command_line(tmp_path, tiny_folder, capsys):
    np.save(tmp_path / "turn.npy", random(16).numpy())
    torch.save(random(10, 16), tmp_path / "far.pt")
    np.save(tmp_path / "wide.npy", random(17).numpy())
    out = str(tmp_path / "set.safetensors")
    common = ["--family", "interfacegan", "--model", tiny_folder, "--out", out]
    about = ["--license", "MIT", "--source", "nowhere", "--range", "-5", "5", "--ends", "left", "right"]
    assert main(["edits", "import", str(tmp_path / "turn.npy"), *common, *about]) == 0
    assert main(["edits", "import", str(tmp_path / "far.pt"), *common, "--add", "--strength", "2"]) == 0
    edits, about = read_edits(out)
    assert [(edit.name, edit.license, edit.default_strength) for edit in edits] == [
        ("turn", "MIT", 1),
        ("far", None, 2),
    ]
    assert (edits[0].strength_range, about) == ((-5, 5), {"generator_id": "tiny"})
    assert [edit.ends for edit in edits] == [("left", "right"), None]
    capsys.readouterr()
    assert main(["edits", "import", str(tmp_path / "wide.npy"), *common, "--add"]) == 2
    assert "was made for another generator" in capsys.readouterr().err
    assert len(read_edits(out)[0]) == 2
    assert main(["edits", "show", out, "--model", tiny_folder, "--out", str(tmp_path / "sheet.png")]) == 0
    assert "licence: MIT" in capsys.readouterr().out
    assert (tmp_path / "sheet.png").is_file()
    assert main(["edits", "show", "cats64", "--model", tiny_folder]) == 2
    assert "made for the generator" in capsys.readouterr().err
    Image.fromarray(np.random.default_rng(0).integers(0, 255, (40, 40, 3), dtype=np.uint8)).save(tmp_path / "a.png")
    result = str(tmp_path / "out")
    assert main(["edit", str(tmp_path / "a.png"), "--model", tiny_folder, "--edits", out, "--edit", "far=1",
                 "--mask", "auto", "--out", result]) == 0  # fmt: skip
    assert (tmp_path / "out" / "a_far_+1.png").is_file()


@pytest.mark.parametrize("identified", [True, False])
def test_edits_are_shown_on_the_bundled_model_they_belong_to(identified, tmp_path, tiny_folder, monkeypatch):
    """By the generator they name; those of a bundled model also by where they lie."""
    places, loaded = {"cats64": tmp_path / "cats64", "tiny": tmp_path / "tiny"}, []
    for name, place in places.items():
        shutil.copytree(tiny_folder, place)
        edit_json(place / "generator" / "config.json", generator_id=name if identified else None)
        edit = DirectionEdit("turn", tensors={"direction": torch.ones(16)})
        write_edits([edit], place / "edits" / "edits.safetensors", generator_id=name if identified else None)
    elsewhere = shutil.copy(places["tiny"] / "edits" / "edits.safetensors", tmp_path / "set.safetensors")
    foreign = tmp_path / "foreign.safetensors"
    write_edits(read_edits(elsewhere)[0], foreign)
    for module in ("commands.edits_show", "checkpoints.folder", "edits.loader"):
        monkeypatch.setattr(f"sdic_plugin.{module}.bundled_models", lambda: places)
    monkeypatch.setattr("sdic_plugin.commands.edits_show.DEFAULT_MODEL", "cats64")
    monkeypatch.setattr(
        "sdic_plugin.commands.edits_show.load_generator",
        lambda model: loaded.append(str(model)) or load_generator(model),
    )
    for edits in ("tiny", elsewhere, foreign):
        assert main(["edits", "show", str(edits), "--out", str(tmp_path / "sheet.png")]) == 0
    home = str(places["tiny"])
    assert loaded == [home, home if identified else "cats64", "cats64"]
