"""A thorough evaluation end to end: rows, edits by strength, realism, the folder, and the command."""

from __future__ import annotations

import hashlib
import json
import math
import shutil
import sys

import numpy as np
import PIL.Image
import pytest
import torch
from safetensors.torch import save_file
from testing.tiny_models import make_deep_pipeline, make_model, make_pipeline

from sdic_plugin import DirectionEdit, SDICError, SDICPipeline
from sdic_plugin.commands.cli import main
from sdic_plugin.evaluation import (
    LPIPS,
    METHODS,
    EvaluationNetworks,
    EvaluationPlan,
    EvaluationReport,
    Optimization,
    edit_transfer,
    evaluate,
    frechet_distance,
    mse,
    psnr,
    write_evaluation,
)
from sdic_plugin.evaluation.editing import transfer_plan
from sdic_plugin.evaluation.kernel import unpaired_distance
from sdic_plugin.evaluation.markdown import card_tables, full_page, transfer_summary
from sdic_plugin.evaluation.networks import DiscriminatorFeatures
from sdic_plugin.evaluation.rows import WITHOUT_TRANSPORT

STRENGTHS = {"turn": 0.7, "colour/warm": -1.5}
PLAN = EvaluationPlan.thorough([Optimization("w", 3), Optimization("w+", 4)], optimization_images=3)


@pytest.fixture(scope="module")
def pipe() -> SDICPipeline:
    pipe = make_pipeline()
    rng = torch.Generator().manual_seed(5)
    for name, strength in STRENGTHS.items():
        edit = DirectionEdit(name, default_strength=strength, tensors={"direction": torch.randn(16, generator=rng)})
        pipe.add_edit(edit)
    pipe.set_progress_bar_config(disable=True)
    return pipe


@pytest.fixture(scope="module")
def images() -> torch.Tensor:
    return torch.from_numpy(np.random.default_rng(0).integers(0, 256, (5, 3, 32, 32), dtype=np.uint8))


@pytest.fixture(scope="module")
def networks() -> EvaluationNetworks:
    with torch.random.fork_rng():
        torch.manual_seed(1)
        lpips = LPIPS((4, 5, 6, 7, 8)).requires_grad_(False).eval()
    return EvaluationNetworks(lpips=lpips, features=DiscriminatorFeatures(make_model("discriminator")))


@pytest.fixture(scope="module")
def report(pipe, images, networks) -> EvaluationReport:
    return evaluate(
        pipe, images, batch_size=2, w_optimization_images=3, w_optimization_steps=3, plan=PLAN, networks=networks
    )


@pytest.fixture(scope="module")
def inversion(pipe, images):
    return pipe.invert(images)


def picture(images: torch.Tensor) -> torch.Tensor:
    """A rendering [B, 3, 64, 64] in [0, 1] as it is compared."""
    return (images.unflatten(3, (32, 2)).unflatten(2, (32, 2)).mean(dim=(3, 5)) * 255).round() / 255


def close(found, values: torch.Tensor) -> bool:
    return found.mean == pytest.approx(values.mean().item(), rel=1e-3, abs=1e-4)


def by_hand(pipe, inversion, name: str, edits: dict[str, float] | None = None) -> torch.Tensor:
    """Render a row without the code under test."""

    def unit(image: torch.Tensor) -> torch.Tensor:
        return (image / 2 + 0.5).clamp(0, 1)

    edits = edits or {}
    encoded = pipe.apply_edits(inversion.latents, edits)
    compensated = pipe.apply_edits(inversion.compensated_latents, edits)
    with torch.no_grad():
        if name == "initial":
            return picture(unit(pipe.generator(encoded).image))
        if name == "latents_only":
            return picture(unit(pipe.generator(compensated).image))
        if name == "features_only":
            moved = pipe.generator(encoded).features - inversion.features
            return picture(unit(pipe.generator(encoded, features=inversion.compensated_features + moved).image))
        if name == "official":
            moved = pipe.generator(compensated).features - inversion.features
            return picture(unit(pipe.generator(compensated, features=inversion.compensated_features + moved).image))
    share = 1.0 if name == "full" else float(name.removeprefix("compensation_"))
    return picture(pipe.edit(inversion, edits=edits, compensation=share, output_type="pt").images)


# Rows.


@pytest.mark.parametrize("name", METHODS)
def test_every_row_is_measured_as_by_hand(pipe, images, inversion, networks, report, name):
    row, photos = report.row(name), images.float() / 255
    wanted, initial = by_hand(pipe, inversion, name), by_hand(pipe, inversion, "initial")
    assert row.count == 5
    assert close(row.psnr, psnr(wanted, photos))
    assert close(row.psnr_gain, psnr(wanted, photos) - psnr(initial, photos))
    assert close(row.mse, mse(wanted, photos))
    assert close(row.lpips, networks.lpips(wanted * 2 - 1, photos * 2 - 1))
    assert row.identity is None
    features = [networks.features(part * 2 - 1) for part in (wanted, photos)]
    assert row.frechet == pytest.approx(frechet_distance(*features), rel=1e-2)
    assert row.kernel == pytest.approx(unpaired_distance(*features), rel=1e-2, abs=1e-6)
    assert row.seconds_per_image > 0


def test_rows_differ_and_compensation_goes_from_latents_only_to_full(report):
    figures = [report.row(name).psnr.mean for name in METHODS]
    assert len({round(figure, 3) for figure in figures}) == len(METHODS)
    assert [row.name for row in report.rows] == [*METHODS, "w_3", "w+_4"]
    assert report.row("full").psnr == report.inversion_psnr
    with pytest.raises(KeyError):
        report.row("nothing")


def test_only_the_asked_rows_are_rendered(pipe, images):
    found = evaluate(pipe, images[:2], plan=EvaluationPlan(methods=("official",)))
    assert [row.name for row in found.rows] == ["initial", "full", "official"]
    assert found.transfer == []
    assert found.row("official").cosine is None and found.row("official").frechet is None


def test_optimised_rows_are_on_their_photos(pipe, images, report):
    for name in ("w_3", "w+_4"):
        row = report.row(name)
        assert row.count == 3
        assert row.frechet is None, "the distance of fewer photos is no figure beside the others"
        assert row.cosine is not None and -1 <= row.cosine.mean <= 1
        assert close(row.psnr_gain, torch.tensor(row.psnr.mean - report.baseline.encoder_psnr.mean))
    assert report.baseline.optimization_psnr == report.row("w_3").psnr
    alone = evaluate(pipe, images[:3], w_optimization_images=3, w_optimization_steps=3)
    assert close(alone.baseline.optimization_psnr, torch.tensor(report.row("w_3").psnr.mean))


# Edits.


def test_edits_are_measured_at_every_strength_by_both_rules(report):
    for name, default in STRENGTHS.items():
        for rule in ("full", "official"):
            found = [entry.strength for entry in report.transfer if (entry.edit, entry.method) == (name, rule)]
            assert found == pytest.approx([m * default for m in (-3, -2, -1, 1, 2, 3)])
        at_default = {entry.method for entry in report.transfer if entry.edit == name and entry.strength == default}
        assert at_default == METHODS.keys() - {"initial"}


@pytest.mark.parametrize(
    ("name", "multiple", "method"),
    [("turn", 3, "official"), ("turn", -2, "full"), ("colour/warm", 1, "features_only"), ("turn", 1, "latents_only")],
)
def test_transfer_is_that_computed_by_hand(pipe, images, inversion, networks, report, name, multiple, method):
    strength = multiple * STRENGTHS[name]
    (found,) = [
        entry
        for entry in report.transfer
        if entry.edit == name and entry.method == method and math.isclose(entry.strength, strength)
    ]
    pictures = [
        by_hand(pipe, inversion, row, edits) for row in ("initial", method) for edits in ({}, {name: strength})
    ]
    transfer = edit_transfer(*pictures)
    assert close(found.cosine, transfer.cosine)
    assert close(found.norm_ratio, transfer.norm_ratio)
    assert close(found.initial_effect, (pictures[1] - pictures[0]).abs().mean(dim=(1, 2, 3)))
    assert close(found.compensated_effect, (pictures[3] - pictures[2]).abs().mean(dim=(1, 2, 3)))
    photos = networks.features(images.float() / 127.5 - 1)
    edited = [networks.features(image * 2 - 1) for image in (pictures[1], pictures[3])]
    assert found.initial_frechet == pytest.approx(frechet_distance(edited[0], photos), rel=1e-2)
    assert found.initial_kernel == pytest.approx(unpaired_distance(edited[0], photos), rel=1e-2, abs=1e-6)
    if method in ("full", "official"):
        assert found.frechet == pytest.approx(frechet_distance(edited[1], photos), rel=1e-2)
        assert found.kernel == pytest.approx(unpaired_distance(edited[1], photos), rel=1e-2, abs=1e-6)
    else:
        assert found.frechet is None and found.kernel is None


def test_edits_are_measured_with_and_without_the_transport(images, networks):
    deep = make_deep_pipeline()
    deep.add_edit(
        DirectionEdit("turn", tensors={"direction": torch.randn(10, 16, generator=torch.Generator().manual_seed(5))})
    )
    report = evaluate(deep, images, plan=EvaluationPlan(multiples=(1.0, 2.0)), networks=networks)
    rows = {(entry.method, entry.strength): entry for entry in report.transfer}
    strengths = {strength for _, strength in rows}
    assert len(strengths) == 2 and rows.keys() == {
        (m, s) for m in ("full", "official", WITHOUT_TRANSPORT) for s in strengths
    }
    plain = SDICPipeline(**{**deep.components, "transport": None})
    plain.add_edit(deep.get_list_edits()["turn"])
    wanted = evaluate(plain, images, plan=EvaluationPlan(multiples=(1.0, 2.0)), networks=networks)
    for entry in wanted.transfer:
        if entry.method == "full":
            found = rows[WITHOUT_TRANSPORT, entry.strength]
            assert found.cosine.mean == pytest.approx(entry.cosine.mean, abs=1e-4)
            assert found.kernel == pytest.approx(entry.kernel, rel=1e-2, abs=1e-6)
            assert rows["full", entry.strength].frechet != pytest.approx(entry.frechet, rel=0.05)
    assert "full, without the transport" in full_page(report)
    assert [line.split(" | ")[:2] for line in transfer_summary(report)[2:]] == [
        [f"| {multiple}", label]
        for multiple in (1, 2)
        for label in ("full, continuous rule", "full, official rule", "full, without the transport")
    ]


def test_default_strength_agrees_with_the_short_report_and_rows_hold_the_mean(report):
    full = {entry.edit: entry for entry in report.transfer if entry.method == "full"}
    for name, edit in report.edits.items():
        (entry,) = [e for e in report.transfer if (e.edit, e.method, e.strength) == (name, "full", edit.strength)]
        full[name] = entry
        assert entry.cosine == edit.cosine and entry.norm_ratio == edit.norm_ratio
    mean = sum(entry.cosine.mean for entry in full.values()) / len(full)
    assert report.row("full").cosine.mean == pytest.approx(mean, abs=1e-5)


def test_the_summary_names_the_edit_that_does_worst(report):
    multiple = 2 if any(e.strength == 2 * report.edits[e.edit].strength for e in report.transfer) else 1
    entries = [
        entry
        for entry in report.transfer
        if entry.method == "official" and entry.strength == multiple * report.edits[entry.edit].strength
    ]
    (line,) = [x for x in transfer_summary(report) if x.startswith(f"| {multiple} | full, official rule |")]
    worst = min(entries, key=lambda entry: entry.cosine.mean)
    widest = max(entries, key=lambda entry: entry.norm_ratio.mean)
    mean = sum(entry.cosine.mean for entry in entries) / len(entries)
    assert f"| {mean:.3f} | {worst.cosine.mean:.3f} ({worst.edit}) |" in line
    assert f"{widest.norm_ratio.mean:.2f} ({widest.edit})" in line


def test_strengths_are_drawn_where_the_official_rule_has_no_row_of_its_own(images, networks, tmp_path):
    """As with --multiples alone: both rules are measured edited, one unedited."""
    pipe = make_deep_pipeline()
    direction = torch.randn(10, 16, generator=torch.Generator().manual_seed(5))
    pipe.add_edit(DirectionEdit("turn", tensors={"direction": direction}))
    report = evaluate(pipe, images, plan=EvaluationPlan(multiples=(1.0, 2.0)), networks=networks)
    assert "official" not in {row.name for row in report.rows} and report.transfer[0].frechet is not None
    write_evaluation(report, tmp_path)
    assert (tmp_path / "strengths.png").is_file() and (tmp_path / "evaluation.md").is_file()


# Plans.


def test_plans_and_optimisations_are_checked():
    with pytest.raises(SDICError, match=r"row 'half' is unknown.*latents_only"):
        EvaluationPlan(methods=("half",))
    with pytest.raises(SDICError, match="on 0 photos"):
        EvaluationPlan(optimizations=(Optimization("w", 1),), optimization_images=0)
    with pytest.raises(SDICError, match="asked for twice"):
        EvaluationPlan(optimizations=(Optimization("w", 1), Optimization("w", 1)))
    assert Optimization.parse("w+:1000") == Optimization("w+", 1000)
    for text in ("z:10", "w", "w:0", "w:x", "w+:-1"):
        with pytest.raises(SDICError, match="give SPACE:STEPS"):
            Optimization.parse(text)


def test_an_edit_whose_default_is_nothing_is_measured_once():
    pipe = make_pipeline()
    pipe.add_edit(DirectionEdit("none", tensors={"direction": torch.ones(16)}, default_strength=0.0))
    plan = transfer_plan(pipe, [1, 2, 3], ["full"])
    assert len(set(plan)) == len(plan) and {strength for _, strength, _ in plan} == {0.0}


# The folder.


def test_folder_holds_figures_tables_and_plots(report, tmp_path):
    written = write_evaluation(report, tmp_path / "out")
    names = {path.name for path in (tmp_path / "out").iterdir()}
    assert names == {"evaluation.json", "evaluation.md", "tradeoff.png", "strengths.png"}
    assert {path.name for path in written.paths} == names and written.notes == []
    assert json.loads((tmp_path / "out" / "evaluation.json").read_text()) == report.to_dict()
    page = (tmp_path / "out" / "evaluation.md").read_text()
    assert card_tables(report) in page
    for text in (
        "![tradeoff.png](tradeoff.png)",
        "discriminator features, not FID",
        "compensation 0.25",
        '"batch_size": 2',
    ):
        assert text in page
    assert "compensation 0.25" not in card_tables(report), "the card's table is compact"
    for name in ("tradeoff.png", "strengths.png"):
        pixels = np.asarray(PIL.Image.open(tmp_path / "out" / name).convert("RGB"))
        assert min(pixels.shape[:2]) > 300 and len(np.unique(pixels.reshape(-1, 3), axis=0)) > 20


def test_tables_have_as_many_cells_in_every_line(report, tmp_path):
    write_evaluation(report, tmp_path)
    blocks = (tmp_path / "evaluation.md").read_text().split("\n\n")
    tables = [block.strip().splitlines() for block in blocks if block.startswith("|")]
    assert len(tables) == 6
    for table in tables:
        assert len({line.count("|") for line in table}) == 1


def test_without_matplotlib_everything_else_is_written(report, tmp_path, monkeypatch):
    monkeypatch.setitem(sys.modules, "matplotlib.figure", None)
    written = write_evaluation(report, tmp_path / "out")
    assert {path.name for path in (tmp_path / "out").iterdir()} == {"evaluation.json", "evaluation.md"}
    assert "sdic-plugin[eval]" in written.notes[0]
    assert ".png" not in (tmp_path / "out" / "evaluation.md").read_text()


def test_short_report_has_no_plots(pipe, images, tmp_path):
    written = write_evaluation(evaluate(pipe, images[:2]), tmp_path)
    assert {path.name for path in written.paths} == {"evaluation.json", "evaluation.md"}


# The command.


@pytest.fixture(scope="module")
def model(pipe, networks, tmp_path_factory):
    folder = tmp_path_factory.mktemp("models") / "tiny"
    pipe.save_pretrained(folder)
    networks.features.discriminator.save_pretrained(folder / "discriminator")
    return folder


@pytest.fixture(scope="module")
def data(images, tmp_path_factory):
    folder = tmp_path_factory.mktemp("photos")
    for i, image in enumerate(images):
        PIL.Image.fromarray(image.permute(1, 2, 0).numpy()).save(folder / f"{i}.png")
    return folder


def test_command_writes_a_folder_with_settings_and_revision(model, data, report, tmp_path, capsys):
    arguments = ["evaluate", "--model", str(model), "--data", str(data), "--limit", "5", "--batch-size", "2"]
    arguments += ["--full", "--optimize", "w:3", "--optimize-images", "2", "--out", str(tmp_path / "out")]
    assert main(arguments) == 0
    found = json.loads((tmp_path / "out" / "evaluation.json").read_text())
    assert "| full, continuous rule |" in capsys.readouterr().out
    assert (found["model"], found["count"]) == ("tiny", 5)
    assert found["inversion_psnr"]["mean"] == pytest.approx(report.inversion_psnr.mean, abs=1e-3)
    rows = {row["name"]: row for row in found["rows"]}
    assert rows["w_3"]["count"] == 2
    assert rows["full"]["frechet"] == pytest.approx(report.row("full").frechet, rel=1e-2)
    assert found["networks"] == {"frechet": "Fréchet distance (discriminator features, not FID)"}
    assert found["settings"]["multiples"] == [-3, -2, -1, 1, 2, 3]
    assert found["settings"]["optimizations"] == [{"space": "w", "steps": 3}]
    revision = found["revision"]
    weights = model / "generator" / "diffusion_pytorch_model.safetensors"
    wanted = hashlib.sha256(weights.read_bytes()).hexdigest()
    assert revision["weights_sha256"]["generator/diffusion_pytorch_model.safetensors"] == wanted
    assert "discriminator/diffusion_pytorch_model.safetensors" in revision["weights_sha256"]
    assert (revision["generator_id"], revision["torch"]) == ("tiny", torch.__version__)
    assert (revision["data"]["name"], revision["data"]["count"]) == (data.name, 5)
    assert str(model.parent) not in json.dumps(found), "no folder of this machine"


def test_command_writes_one_json_file_as_before(model, data, tmp_path):
    path = tmp_path / "figures.json"
    assert main(["evaluate", "--model", str(model), "--data", str(data), "--limit", "2", "--out", str(path)]) == 0
    assert [file.name for file in tmp_path.iterdir()] == ["figures.json"]
    assert json.loads(path.read_text())["count"] == 2


def test_command_takes_one_part_of_the_photos(model, data, tmp_path):
    """Photos 2 and 4, and then only the first of them."""
    arguments = ["evaluate", "--model", str(model), "--data", str(data), "--part", "2/2"]
    found = {}
    for limit in ([], ["--limit", "1"]):
        path = tmp_path / f"{len(limit)}.json"
        samples = ["--samples", "4"] if not limit else []
        assert main([*arguments, *limit, *samples, "--out", str(path)]) == 0
        found[len(limit)] = json.loads(path.read_text())
    assert (found[0]["count"], found[2]["count"]) == (2, 1) and found[0]["settings"]["part"] == "2/2"
    assert found[0]["samples"]["photos"] == 2
    (tmp_path / "chosen").mkdir()
    for number in (1, 3):
        shutil.copy(data / f"{number}.png", tmp_path / "chosen")
    path = tmp_path / "same.json"
    assert main([*arguments[:4], str(tmp_path / "chosen"), "--out", str(path)]) == 0
    same = json.loads(path.read_text())
    assert same["revision"]["data"]["sha256"] == found[0]["revision"]["data"]["sha256"]
    assert same["inversion_psnr"] == found[0]["inversion_psnr"]


@pytest.mark.parametrize(
    ("options", "message"),
    [
        (["--part", "2/1"], "The part '2/1' is unknown"),
        (["--rows", "half"], "'half' is unknown"),
        (["--optimize", "z:5"], "'z:5' is unknown"),
        (["--lpips", "missing.safetensors"], "missing.safetensors"),
        (["--inception", "missing.safetensors"], "missing.safetensors cannot be read as safetensors"),
    ],
)
def test_command_says_what_is_wrong_and_writes_nothing(model, data, tmp_path, capsys, options, message):
    arguments = ["evaluate", "--model", str(model), "--data", str(data), "--out", str(tmp_path / "out"), *options]
    assert main(arguments) == 2
    assert message in capsys.readouterr().err
    assert not (tmp_path / "out").exists()


def test_lpips_file_of_the_command_is_used(model, data, tmp_path, networks):
    state = {f"lin.{i}.1.weight": weight[None, :, None, None] for i, weight in enumerate(networks.lpips.weights)}
    for i, conv in zip((0, 3, 6, 8, 10), networks.lpips.convs, strict=True):
        state |= {f"net.layers.{i}.weight": conv.weight, f"net.layers.{i}.bias": conv.bias}
    save_file({key: tensor.clone() for key, tensor in state.items()}, tmp_path / "lpips.safetensors")
    arguments = ["evaluate", "--model", str(model), "--data", str(data), "--out", str(tmp_path / "out.json")]
    assert main([*arguments, "--lpips", str(tmp_path / "lpips.safetensors"), "--batch-size", "2"]) == 0
    found = json.loads((tmp_path / "out.json").read_text())
    assert found["networks"]["lpips"] == "LPIPS v0.1, AlexNet"
    assert found["rows"][0]["lpips"]["mean"] > 0
