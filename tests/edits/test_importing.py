"""Files of other tools: made here in the shapes in which they are met, and broken ones."""

from __future__ import annotations

import os
import pickle
import zipfile
from pathlib import Path

import numpy as np
import pytest
import torch
from testing.tiny_models import make_model

from sdic_plugin import DirectionEdit, EditError, read_edits, write_edits
from sdic_plugin.commands.cli import main
from sdic_plugin.edits import styleclip
from sdic_plugin.edits.array_files import read_arrays
from sdic_plugin.edits.importing import (
    EditValues,
    import_direction,
    import_ganspace,
    import_latents,
    import_sefa,
    read_latents,
)

SHAPES = [(512,), (1, 512), (18, 512), (1, 18, 512)]


def random(*shape: int, seed: int = 0) -> torch.Tensor:
    return torch.randn(shape, generator=torch.Generator().manual_seed(seed))


def ganspace_file(path: Path, width: int = 512, count: int = 80) -> Path:
    components = torch.nn.functional.normalize(random(count, 1, width), dim=2)
    torch.save({"mean": random(1, width, seed=1), "comp": components, "std": random(count).abs() + 0.1}, path)
    return path


# InterFaceGAN.


@pytest.mark.parametrize("shape", SHAPES)
@pytest.mark.parametrize("suffix", [".pt", ".npy"])
def test_directions_in_every_shape_met_in_the_wild(tmp_path, shape, suffix):
    path, array = tmp_path / f"smile{suffix}", random(*shape)
    torch.save(array, path) if suffix == ".pt" else np.save(path, array.numpy().astype(np.float64))
    found = import_direction(path, values=EditValues(layers=(0, 4), license="MIT"))
    rows = 18 if 18 in shape else 1
    assert (found.name, found.family, found.space) == ("smile", "interfacegan", "W+" if rows == 18 else "W")
    assert (found.layers, found.license, found.default_strength) == ((0, 4), "MIT", 1.0)
    assert found.direction.shape == (rows, 512)
    assert found.direction.dtype == torch.float32
    torch.testing.assert_close(found.direction, array.reshape(rows, 512))


def test_unit_directions_get_strengths_that_show(tmp_path):
    unit = torch.nn.functional.normalize(random(18, 512), dim=1)
    torch.save(unit, tmp_path / "unit.pt")
    torch.save(2 * unit, tmp_path / "long.pt")
    found = import_direction(tmp_path / "unit.pt")
    assert (found.default_strength, found.strength_range) == (3.0, (-5.0, 5.0))
    given = import_direction(tmp_path / "unit.pt", values=EditValues(default_strength=0.5))
    assert (given.default_strength, given.strength_range) == (0.5, (-5.0, 5.0))
    assert import_direction(tmp_path / "long.pt").default_strength == 1.0
    assert import_direction(tmp_path / "unit.pt", family="offset").default_strength == 1.0


def cuda_file(path: Path, array: torch.Tensor) -> None:
    """Write a file as one saved on a GPU is: its storages carry the tag "cuda:0"."""
    original = torch.serialization.location_tag
    torch.serialization.location_tag = lambda storage: "cuda:0"
    try:
        torch.save(array, path)
    finally:
        torch.serialization.location_tag = original


def test_files_saved_on_a_gpu_are_read_on_the_cpu(tmp_path):
    cuda_file(tmp_path / "age.pt", random(1, 512))
    if not torch.cuda.is_available():
        with pytest.raises(RuntimeError, match="CUDA"):
            torch.load(tmp_path / "age.pt", weights_only=True)
    assert torch.equal(import_direction(tmp_path / "age.pt").direction, random(1, 512))


def test_arrays_of_numpy_inside_pt_files(tmp_path):
    torch.save(random(1, 512).numpy(), tmp_path / "age.pt")
    torch.testing.assert_close(import_direction(tmp_path / "age.pt").direction, random(1, 512))


@pytest.mark.parametrize(
    ("content", "message"),
    [
        ({"a": torch.zeros(3), "b": torch.zeros(3)}, r"holds \['a', 'b'\], but a direction is one array"),
        (torch.tensor([1.0, float("nan")]), "not finite"),
        (torch.zeros(2, 3, 4), r"shape \[2, 3, 4\]"),
        (torch.zeros(4, dtype=torch.complex64), "complex64"),
        ("text", "holds a str"),
    ],
)
def test_files_that_hold_something_else_are_refused(tmp_path, content, message):
    torch.save(content, tmp_path / "age.pt")
    with pytest.raises(EditError, match=message):
        import_direction(tmp_path / "age.pt")


# Files that cannot be trusted.


class Hostile:
    def __init__(self, path: Path) -> None:
        self.path = path

    def __reduce__(self):
        return os.mkdir, (str(self.path),)


@pytest.mark.parametrize("suffix", [".pt", ".npy", ".npz", ".pkl", ""])
def test_code_in_files_does_not_run(tmp_path, suffix):
    path, ran = tmp_path / f"evil{suffix}", tmp_path / "ran"
    payload = [Hostile(ran), np.zeros(3)]
    if suffix == ".pt":
        torch.save(payload, path)
    elif suffix == ".npy":
        np.save(path, np.array(payload, dtype=object), allow_pickle=True)
    elif suffix == ".npz":
        np.savez(path, a=np.array(payload, dtype=object))
    else:
        path.write_bytes(pickle.dumps(payload))
    with pytest.raises(EditError, match="cannot be read"):
        read_arrays(path)
    assert not ran.exists()


def test_damaged_and_oversized_files_are_refused(tmp_path):
    for suffix in (".pt", ".npy", ".npz", ".pkl", ".safetensors"):
        path = tmp_path / f"broken{suffix}"
        for content in (b"<html>not found</html>", b"PK\x03\x04 cut off", b"\x93NUMPY\x01\x00"):
            path.write_bytes(content)
            with pytest.raises(EditError, match="cannot be read"):
                read_arrays(path)
        path.write_bytes(b"")
        with pytest.raises(EditError, match="has 0 bytes"):
            read_arrays(path)
    with pytest.raises(EditError, match="There is no file"):
        read_arrays(tmp_path / "missing.pt")
    with pytest.raises(EditError, match="no file of arrays"):
        (tmp_path / "a.txt").write_text("1")
        read_arrays(tmp_path / "a.txt")


def test_an_array_that_claims_more_than_its_file_holds_is_refused(tmp_path):
    path = tmp_path / "huge.npy"
    with path.open("wb") as file:
        header = {"descr": "<f8", "fortran_order": False, "shape": (10**9, 10**3)}
        np.lib.format.write_array_header_1_0(file, header)
    with pytest.raises(EditError, match="declares an array of 8000000000000 bytes"):
        read_arrays(path)


def test_pickles_of_arrays_are_read(tmp_path):
    content = [[np.arange(3.0), np.ones((1, 4), np.float32)], (np.float64(2.5), 3)]
    (tmp_path / "S_mean_std").write_bytes(pickle.dumps(content))
    found = read_arrays(tmp_path / "S_mean_std")
    assert torch.equal(found[0][0], torch.arange(3.0, dtype=torch.float64))
    assert found[0][1].shape == (1, 4)
    assert [value.item() for value in found[1]] == [2.5, 3]


# GANSpace and SeFa.


def test_ganspace_files_and_presets(tmp_path):
    path = ganspace_file(tmp_path / "ffhq_pca.pt")
    tensors = torch.load(path, weights_only=True)
    found = import_ganspace(path, "ffhq", {"smile": 3}, values=EditValues(source="here"))
    assert [edit.name for edit in found] == ["eyes", "beard", "lip", "smile"]
    assert all(edit.source == "here" and edit.rule == "target" for edit in found)
    assert (found[1].layers, found[1].default_strength) == ((7, 9), -20)
    assert torch.equal(found[1].tensors["component"], tensors["comp"][58, 0])
    assert torch.equal(found[3].tensors["component"], tensors["comp"][3, 0])
    assert [edit.name for edit in import_ganspace(path, "cars", rule="offset")][2:] == ["cube", "colour", "grass"]
    arrays = {"lat_mean": "mean", "lat_comp": "comp", "lat_stdev": "std"}
    np.savez(tmp_path / "own.npz", **{key: tensors[value].numpy() for key, value in arrays.items()})
    again = import_ganspace(tmp_path / "own.npz", "ffhq")
    assert torch.equal(again[0].tensors["mean"], found[0].tensors["mean"])


@pytest.mark.parametrize(
    ("options", "message"),
    [
        ({}, "name a preset, or components"),
        ({"preset": "dogs"}, "no GANSpace presets for 'dogs'"),
        ({"components": {"far": 80}}, "component 80 of the edit 'far' does not exist: there are 80"),
        ({"preset": "ffhq", "rule": "jump"}, "rule 'jump'"),
    ],
)
def test_ganspace_choices_that_make_no_sense_are_refused(tmp_path, options, message):
    with pytest.raises(EditError, match=message):
        import_ganspace(ganspace_file(tmp_path / "pca.pt"), **options)


def test_ganspace_files_of_other_shapes_are_refused(tmp_path):
    torch.save({"mean": random(1, 8), "comp": random(4, 1, 6), "std": random(4)}, tmp_path / "a.pt")
    torch.save({"mean": random(1, 8)}, tmp_path / "b.pt")
    torch.save(random(8), tmp_path / "c.pt")
    for name, message in (("a", r"\[4, 1, 6\]"), ("b", "mean, comp and std"), ("c", "no named arrays")):
        with pytest.raises(EditError, match=message):
            import_ganspace(tmp_path / f"{name}.pt", "ffhq")


def test_sefa_factors_of_rosinality(tmp_path):
    vectors = torch.linalg.qr(random(16, 16)).Q
    torch.save({"ckpt": "stylegan2.pt", "eigvec": vectors}, tmp_path / "factor.pt")
    np.save(tmp_path / "rows.npy", vectors.T.numpy())
    for name in ("factor.pt", "rows.npy"):
        (found,) = import_sefa(tmp_path / name, {"smile": 3}, EditValues(layers=(2, 5)))
        torch.testing.assert_close(found.direction[0], vectors[:, 3])
        assert (found.family, found.layers) == ("sefa", (2, 5))
    with pytest.raises(EditError, match="holds 16 directions"):
        import_sefa(tmp_path / "factor.pt", {"far": 16})
    for family in ("sefa", "interfacegan"):
        with pytest.raises(EditError, match=r"holds many directions, .* --component smile=3"):
            import_direction(tmp_path / "factor.pt", family=family)


# Latents.


def test_saved_latents_and_offsets(tmp_path):
    latents = random(3, 18, 512)
    torch.save(latents, tmp_path / "latents.pt")
    torch.save(latents[1], tmp_path / "one.pt")
    assert torch.equal(read_latents(tmp_path / "latents.pt"), latents)
    assert read_latents(tmp_path / "one.pt").shape == (1, 18, 512)
    towards = import_latents(tmp_path / "latents.pt", "me", index=1, minus=random(512, seed=5))
    start = random(512, seed=5).expand(1, 18, 512)
    torch.testing.assert_close(towards.apply(start, torch.ones(1)), latents[1:2])
    between = import_latents(tmp_path / "latents.pt", index=1, minus=0)
    torch.testing.assert_close(between.direction, latents[1] - latents[0])
    assert (between.name, between.family, between.space) == ("latents", "offset", "W+")
    torch.testing.assert_close(import_latents(tmp_path / "one.pt").direction, latents[1])
    for options, message in (({"index": 3}, "holds 3 latents"), ({"minus": random(256)}, "width 512")):
        with pytest.raises(EditError, match=message):
            import_latents(tmp_path / "latents.pt", **options)
    with pytest.raises(EditError, match=r"\[512\], but latents are"):
        torch.save(random(512), tmp_path / "flat.pt")
        read_latents(tmp_path / "flat.pt")


def test_factors_offsets_and_latents_on_the_command_line(tmp_path, capsys):
    generator = make_model("generator", generator_id="tiny")
    generator.save_pretrained(tmp_path / "model" / "generator")
    vectors = torch.linalg.qr(random(16, 16)).Q
    latents = random(3, 10, 16)
    torch.save({"ckpt": "stylegan2.pt", "eigvec": vectors}, tmp_path / "factor.pt")
    np.save(tmp_path / "shift.npy", latents[1].numpy())
    torch.save(latents, tmp_path / "latents.pt")

    def run(file: str, *options: str) -> int:
        out = ["--out", str(tmp_path / "set.safetensors"), "--model", str(tmp_path / "model"), "--add"]
        return main(["edits", "import", str(tmp_path / file), *out, *options])

    assert run("factor.pt", "--family", "sefa", "--component", "smile=3", "--layers", "2:5") == 0
    assert run("shift.npy", "--family", "offset", "--name", "moved", "--strength", "0.5") == 0
    assert run("latents.pt", "--family", "latents", "--index", "2", "--minus", "0", "--name", "other") == 0
    assert run("latents.pt", "--family", "latents", "--index", "1", "--minus", "avg", "--name", "me") == 0
    edits, about = read_edits(tmp_path / "set.safetensors")
    found = {edit.name: edit for edit in edits}
    assert about["generator_id"] == "tiny"
    families = {"smile": "sefa", "moved": "offset", "other": "offset", "me": "offset"}
    assert {name: edit.family for name, edit in found.items()} == families
    torch.testing.assert_close(found["smile"].direction[0], vectors[:, 3])
    assert (found["smile"].layers, found["smile"].default_strength) == ((2, 5), 3.0)
    torch.testing.assert_close(found["moved"].direction, latents[1])
    assert found["moved"].default_strength == 0.5
    torch.testing.assert_close(found["other"].direction, latents[2] - latents[0])
    torch.testing.assert_close(found["me"].direction, latents[1] - generator.w_avg)
    capsys.readouterr()
    assert run("factor.pt", "--family", "sefa", "--component", "far=16") == 2
    assert "holds 16 directions" in capsys.readouterr().err
    np.save(tmp_path / "wide.npy", random(10, 17).numpy())
    assert run("wide.npy", "--family", "offset") == 2
    assert "made for another generator" in capsys.readouterr().err


def test_arrays_that_numpy_1_wrote_are_read(tmp_path):
    torch.save(random(1, 512).numpy(), tmp_path / "new.pt")
    with zipfile.ZipFile(tmp_path / "new.pt") as new, zipfile.ZipFile(tmp_path / "old.pt", "w") as old:
        for entry in new.infolist():
            old.writestr(entry, new.read(entry).replace(b"numpy._core.", b"numpy.core."))
    assert (tmp_path / "old.pt").read_bytes() != (tmp_path / "new.pt").read_bytes()
    found = [import_direction(tmp_path / name).direction for name in ("old.pt", "new.pt")]
    assert torch.equal(*found)


def test_edits_that_are_there_keep_their_licence(tmp_path):
    write_edits([DirectionEdit("old", tensors={"direction": random(1, 16)})], tmp_path / "set.safetensors")
    np.save(tmp_path / "new.npy", random(1, 16).numpy())
    command = ["edits", "import", str(tmp_path / "new.npy"), "--family", "interfacegan", "--license", "MIT"]
    assert main([*command, "--source", "mine", "--out", str(tmp_path / "set.safetensors"), "--add"]) == 0
    found = {edit.name: (edit.license, edit.source) for edit in read_edits(tmp_path / "set.safetensors")[0]}
    assert found == {"old": (None, None), "new": ("MIT", "mine")}


# StyleCLIP.


def styleclip_files(folder: Path, channels: list[int], convolutions: list[int], width: int) -> tuple[Path, Path]:
    rng = np.random.default_rng(0)
    np.save(folder / "fs3.npy", rng.normal(size=(sum(channels[i] for i in convolutions), width)))
    stds = [rng.uniform(0.5, 2.0, count).astype(np.float32) for count in channels]
    (folder / "S_mean_std").write_bytes(pickle.dumps([[0 * std for std in stds], stds]))
    return folder / "fs3.npy", folder / "S_mean_std"


TINY_CONVOLUTIONS = [0, 2, 3, 5, 6, 8, 9, 11, 12]


def test_global_directions_are_the_published_formula(tmp_path):
    generator = make_model("generator")
    channels = generator.style_channels
    relevance, stds = styleclip.read_styleclip_files(*styleclip_files(tmp_path, channels, TINY_CONVOLUTIONS, 32))
    direction = random(32)
    found = styleclip.find_styleclip(generator, "smile", direction, relevance, stds, threshold=1.0)
    relevant = relevance.numpy() @ (direction / direction.norm()).double().numpy()
    relevant[np.abs(relevant) < 1.0] = 0
    relevant /= np.abs(relevant).max()
    start = 0
    for i in TINY_CONVOLUTIONS:
        wanted = torch.from_numpy(relevant[start : start + channels[i]]).float() * stds[i].float()
        offset = found.offsets.get(i, torch.zeros(channels[i]))
        torch.testing.assert_close(offset, wanted, rtol=1e-4, atol=1e-5)
        start += channels[i]
    assert not set(found.offsets) - set(TINY_CONVOLUTIONS), "ToRGB stays as it is"
    found.check_fits(generator)
    with pytest.raises(EditError, match=r"No channel is as relevant .* lower the threshold"):
        styleclip.find_styleclip(generator, "smile", direction, relevance, stds, threshold=100)
    with pytest.raises(EditError, match="relevance matrix has shape"):
        styleclip.find_styleclip(generator, "smile", random(31), relevance, stds)
    with pytest.raises(EditError, match="standard deviations have"):
        styleclip.find_styleclip(generator, "smile", direction, relevance, stds[1:])


def test_published_relevance_matrix_has_the_channels_of_a_1024_generator():
    """6,048 x 512 for FFHQ and CLIP ViT-B/32: counted from the channel table, on a generator without weights."""
    with torch.device("meta"):
        from sdic_plugin import StyleGAN2Generator

        generator = StyleGAN2Generator(resolution=1024)
    to_rgb = styleclip._is_to_rgb(generator)
    channels = generator.style_channels
    assert len(channels) == 26
    assert sum(count for count, is_rgb in zip(channels, to_rgb, strict=True) if not is_rgb) == 6048


def tiny_clip(folder: Path) -> Path:
    """A random CLIP text encoder of the real architecture, with a byte-level vocabulary, in a folder."""
    transformers = pytest.importorskip("transformers")
    import json

    letters = [chr(code) for code in range(33, 127)]
    words = [*letters, *(f"{letter}</w>" for letter in letters), "<|startoftext|>", "<|endoftext|>"]
    (folder / "vocab.json").write_text(json.dumps({word: i for i, word in enumerate(words)}))
    (folder / "merges.txt").write_text("#version: 0.2\n")
    tokenizer = transformers.CLIPTokenizer(str(folder / "vocab.json"), str(folder / "merges.txt"))
    tokenizer.model_max_length = 77
    tokenizer.save_pretrained(folder)
    config = transformers.CLIPTextConfig(
        vocab_size=len(words), hidden_size=32, intermediate_size=48, projection_dim=32, num_hidden_layers=2,
        num_attention_heads=2, max_position_embeddings=77, bos_token_id=len(words) - 2, eos_token_id=len(words) - 1,
    )  # fmt: skip
    torch.manual_seed(0)
    transformers.CLIPTextModelWithProjection(config).save_pretrained(folder)
    return folder


def test_texts_become_directions(tmp_path):
    encoder, tokenizer = styleclip.load_clip(str(tiny_clip(tmp_path)))
    direction = styleclip.text_direction(encoder, tokenizer, "a smiling face", "a face")
    assert direction.shape == (32,)
    assert direction.norm().item() == pytest.approx(1, abs=1e-5)
    back = styleclip.text_direction(encoder, tokenizer, "a face", "a smiling face")
    torch.testing.assert_close(back, -direction)
    embeddings = styleclip.embed_texts(encoder, tokenizer, ["a face", "a cat"], ["{}"])
    alone = encoder(**tokenizer(["a face"], return_tensors="pt")).text_embeds.detach()
    torch.testing.assert_close(embeddings[:1], torch.nn.functional.normalize(alone, dim=1), rtol=1e-4, atol=1e-5)
    with pytest.raises(EditError, match="cannot tell"):
        styleclip.text_direction(encoder, tokenizer, "a face", "a face")


def test_styleclip_on_the_command_line(tmp_path):
    pytest.importorskip("transformers")
    (tmp_path / "clip").mkdir()
    clip = tiny_clip(tmp_path / "clip")
    generator = make_model("generator", generator_id="tiny")
    generator.save_pretrained(tmp_path / "model" / "generator")
    files = styleclip_files(tmp_path, generator.style_channels, TINY_CONVOLUTIONS, 32)
    arguments = [
        "edits",
        "import",
        *map(str, files),
        "--family",
        "styleclip",
        "--out",
        str(tmp_path / "set.safetensors"),
    ]
    texts = [
        "--text",
        "a smiling face",
        "--neutral",
        "a face",
        "--clip",
        str(clip),
        "--model",
        str(tmp_path / "model"),
    ]
    assert main([*arguments, *texts]) == 0
    (found,), about = read_edits(tmp_path / "set.safetensors")
    assert (found.name, found.family, found.space) == ("a_smiling_face", "styleclip", "S")
    assert about["generator_id"] == "tiny"
    assert main(arguments) == 2
    assert main([*arguments, *texts[:4], "--clip", str(tmp_path / "none"), *texts[6:]]) == 2


def test_texts_need_the_clip_extra(monkeypatch):
    monkeypatch.setitem(__import__("sys").modules, "transformers", None)
    with pytest.raises(EditError, match=r"sdic-plugin\[clip\]"):
        styleclip.load_clip()


# With the real files, where they are at hand.


def test_real_files(data_folder):
    folder = data_folder / "directions"
    if not folder.is_dir():
        pytest.skip("SDIC_DATA holds no folder of directions")
    for name, space in (("age.pt", "W"), ("smile.pt", "W"), ("pose.pt", "W+"), ("interfacegan_ffhq_age_w.npy", "W")):
        found = import_direction(folder / name)
        assert (found.space, found.direction.shape[1]) == (space, 512)
        norms = found.direction.norm(dim=1)
        torch.testing.assert_close(norms, torch.ones_like(norms), rtol=0, atol=1e-3)
    latents = random(2, 18, 512)
    for kind, layers in (("ffhq", [(7, 8), (7, 9), (10, 11)]), ("cars", [(0, 5), (0, 5), (3, 6), (9, 11), (9, 11)])):
        edits = import_ganspace(folder / f"{kind}_pca.pt", kind)
        assert [edit.layers for edit in edits] == layers
        for edit in edits:
            found = edit.apply(latents, torch.full((2,), edit.default_strength))
            assert torch.equal(found[:, slice(*edit.layers)] == latents[:, slice(*edit.layers)],
                               torch.zeros_like(found[:, slice(*edit.layers)], dtype=torch.bool))  # fmt: skip
