from __future__ import annotations

import numpy as np
import pytest
from PIL import Image
from testing.tiny_models import count_calls, make_model, make_pipeline, pixels

from sdic_plugin import CheckpointError, EditError, SDICError
from sdic_plugin.commands.cli import main
from sdic_plugin.photos.strengths import Sweep, parse_sweep
from sdic_plugin.photos.sweep import render_sweeps, save_gif, sweep_sheet


def test_sweeps_are_read():
    assert parse_sweep("turn=-3:3:7") == Sweep("turn", (-3, -2, -1, 0, 1, 2, 3))
    assert parse_sweep(" a b =1:0:3") == Sweep("a b", (1, 0.5, 0))
    for text in (
        "turn",
        "turn=1:2",
        "turn=1:2:1",
        "turn=1:1:5",
        "=1:2:3",
        "turn=a:2:3",
        "turn=nan:2:3",
        "turn=1:2:2.5",
    ):
        with pytest.raises(EditError, match="form name=FIRST:LAST:COUNT"):
            parse_sweep(text)


def test_a_grid_is_every_pair_of_strengths_from_one_inversion(pipe, inversion):
    one, counts = inversion[0], count_calls(pipe)
    sweeps = [Sweep("turn", (-1.0, 0.0, 1.0)), Sweep("colour", (0.0, 2.0))]
    found = render_sweeps(pipe, one, sweeps, batch_size=4)
    assert counts == {"encoder": 0, "dipn": 0, "dicn": 0, "generator": 2}, "six pictures in two batches"
    assert [len(row) for row in found] == [3, 3]
    for row, colour in zip(found, sweeps[1].strengths, strict=True):
        for picture, turn in zip(row, sweeps[0].strengths, strict=True):
            single = pipe.edit(one, {"turn": turn, "colour": colour}).images[0]
            difference = np.abs(np.asarray(picture).astype(int) - np.asarray(single).astype(int))
            assert difference.max() <= 1
    sheet = sweep_sheet(sweeps, found, "photo")
    assert sheet.width > 3 * 192


def test_a_common_edit_and_options_count_in_every_picture(pipe, inversion):
    found = render_sweeps(pipe, inversion[1], [Sweep("turn", (0.0, 1.0))], {"colour": 1.0}, compensation=0.5)
    wanted = pipe.edit(inversion[1], {"turn": 1.0, "colour": 1.0}, compensation=0.5).images[0]
    difference = np.abs(np.asarray(found[0][1]).astype(int) - np.asarray(wanted).astype(int))
    assert difference.max() <= 1


def test_sweeps_that_make_no_sense_are_refused(pipe, inversion):
    turn = Sweep("turn", (0.0, 1.0))
    for sweeps, edits in (
        ([], {}),
        ([turn] * 2, {}),
        ([turn], {"turn": 1.0}),
        ([turn, Sweep("colour", (0, 1)), turn], {}),
    ):
        with pytest.raises(EditError, match="one or two sweeps of different edits"):
            render_sweeps(pipe, inversion[0], sweeps, edits)
    with pytest.raises(EditError, match="1600 pictures"):
        render_sweeps(pipe, inversion[0], [Sweep("turn", (0.0,) * 40), Sweep("colour", (0.0,) * 40)])
    with pytest.raises(CheckpointError, match="holds 3 images"):
        render_sweeps(pipe, inversion, [turn])


def test_gifs_run_there_and_back(tmp_path):
    frames = [Image.new("RGB", (64, 48), (80 * i, 0, 0)) for i in range(3)]
    path = save_gif(frames, tmp_path / "new" / "a.gif", milliseconds=100)
    with Image.open(path) as found:
        assert (found.n_frames, found.size, found.info["loop"]) == (4, (384, 288), 0)
        reds = []
        for i in range(4):
            found.seek(i)
            reds.append(found.convert("RGB").getpixel((5, 5))[0])
    assert reds == [0, 80, 160, 80]
    with pytest.raises(SDICError, match="two pictures"):
        save_gif(frames[:1], tmp_path / "b.gif")


def test_sweeps_on_the_command_line(tmp_path, pipe, capsys):
    pipe.save_pretrained(tmp_path / "model")
    photo = tmp_path / "cat.png"
    Image.fromarray(np.random.default_rng(0).integers(0, 255, (40, 40, 3), dtype=np.uint8)).save(photo)
    (tmp_path / "broken.png").write_bytes(b"no picture")
    arguments = ["edit", str(photo), "--model", str(tmp_path / "model"), "--out", str(tmp_path / "out")]
    assert main([*arguments, "--sweep", "turn=-1:1:3", "--edit", "colour=1", "--mask", "auto"]) == 0
    assert main([*arguments, "--sweep", "turn=-1:1:3", "--sweep", "colour=0:1:2"]) == 0
    assert main(["edit", str(tmp_path / "broken.png"), *arguments[1:], "--sweep", "turn=-1:1:3"]) == 1
    written = sorted(path.name for path in (tmp_path / "out").iterdir())
    assert written == [
        "cat_sweep_turn.gif", "cat_sweep_turn.png", "cat_sweep_turn_colour.png", "cat_sweep_turn_colour_+1.gif",
        "cat_sweep_turn_colour_+1.png",
    ]  # fmt: skip
    capsys.readouterr()
    assert main([*arguments, "--sweep", "turm=-1:1:3"]) == 2
    assert "'turm' is unknown" in capsys.readouterr().err
    assert main([*arguments, "--sweep", "turn=-1:1:3", "--edit", "turn=1", "--edit", "colour=1"]) == 2
    capsys.readouterr()
    for option in ("--paste-back", "--save-inversion", "--no-sheets"):
        assert main([*arguments, "--sweep", "turn=-1:1:3", option]) == 2
        assert f"{option} does nothing with --sweep" in capsys.readouterr().err


def test_a_sweep_has_the_batch_size_that_the_command_was_given(tmp_path, pipe, monkeypatch):
    pipe.save_pretrained(tmp_path / "model")
    Image.fromarray(np.zeros((40, 40, 3), np.uint8)).save(tmp_path / "cat.png")
    sizes, edit = [], type(pipe).edit
    monkeypatch.setattr(
        type(pipe), "edit", lambda *args, **options: sizes.append(options["batch_size"]) or edit(*args, **options)
    )
    command = ["edit", str(tmp_path / "cat.png"), "--model", str(tmp_path / "model"), "--out", str(tmp_path / "out")]
    assert main([*command, "--sweep", "turn=-1:1:3", "--batch-size", "2"]) == 0
    assert sizes == [2]


# Another generator on the same latents.


def test_another_generator_renders_what_this_one_inverted(pipe, photos, inversion):
    import torch

    other = make_model("generator", seed=7, generator_id="fine-tuned")
    styled = pipe.with_generator(other)
    assert styled.generator is other
    assert styled.encoder is pipe.encoder
    assert styled.get_list_edits().keys() == {"turn", "colour"}
    again = styled.invert(photos)
    for name, tensor in inversion.tensors().items():
        assert torch.equal(getattr(again, name), tensor), name
    strengths = {"turn": 1.0}
    code = pipe.edited_code(inversion, strengths)
    with torch.no_grad():
        plain = (other(code).image / 2 + 0.5).clamp(0, 1)
        features = inversion.compensated_features + other(code).features - inversion.reference_features
        full = (other(code, features=features).image / 2 + 0.5).clamp(0, 1)
    torch.testing.assert_close(pixels(styled, inversion, edits=strengths, compensation=0.0), plain, rtol=0, atol=1e-5)
    torch.testing.assert_close(pixels(styled, inversion, edits=strengths), full, rtol=0, atol=1e-5)
    assert torch.isfinite(pixels(styled, inversion, mask="auto")).all()
    # The same generator changes nothing.
    same = pipe.with_generator(make_model("generator"))
    assert torch.equal(pixels(same, inversion, edits=strengths), pixels(pipe, inversion, edits=strengths))


def test_an_exchanged_generator_follows_casts_and_is_not_saved(pipe, photos, tmp_path):
    import torch

    styled = pipe.with_generator(make_model("generator", seed=7)).to(torch.bfloat16)
    assert {styled.generator.dtype, styled.inverting_generator.dtype} == {torch.bfloat16}
    styled.edit(styled.invert(photos), {"turn": 1.0})
    with pytest.raises(CheckpointError, match="save the original pipeline and the other generator"):
        styled.save_pretrained(tmp_path / "model")
    assert not list(tmp_path.iterdir())


@pytest.mark.parametrize(
    ("changes", "message"),
    [
        ({"style_width": 12}, "style width is 16 .* but 12"),
        ({"resolution": 32}, "number of styles is 10 .* but 8"),
        ({"feature_resolution": 16}, "feature_resolution is 8 .* but 16"),
        ({"channels": {"4": 12, "8": 9, "16": 8, "32": 6, "64": 4}}, "number of feature channels is 10 .* but 9"),
        ({"content_rows": [16, 48]}, "content_rows"),
    ],
)
def test_generators_that_do_not_fit_are_refused(changes, message):
    with pytest.raises(CheckpointError, match=message):
        make_pipeline().with_generator(make_model("generator", **changes))
    with pytest.raises(CheckpointError, match="StyleGAN2Generator is needed"):
        make_pipeline().with_generator(make_model("encoder"))
