"""The Hub: uploads and downloads by the real client over HTTP, against a stand-in on this machine; cards."""

from __future__ import annotations

import dataclasses
import json
import re
from pathlib import Path

import huggingface_hub
import numpy as np
import pytest
import torch
import yaml
from huggingface_hub import constants
from PIL import Image
from safetensors.torch import load, save_file
from testing.hub_cards import SCHEMA
from testing.hub_server import TOKEN
from testing.model_folders import same_weights
from testing.tiny_models import COMPONENTS, make_model, make_pipeline

from sdic_plugin import DIPN, CheckpointError, DirectionEdit, SDICError, SDICPipeline, read_edits
from sdic_plugin.checkpoints.folder import read_parts_settings
from sdic_plugin.checkpoints.hub import download_model
from sdic_plugin.commands.cli import main
from sdic_plugin.hub import CardFacts, edits_card, model_card
from sdic_plugin.hub.cards import read_evaluation

WEIGHTS = "diffusion_pytorch_model"


@pytest.fixture
def model() -> SDICPipeline:
    pipe = make_pipeline(alignment={"left_eye": [0.3, 0.4], "right_eye": [0.7, 0.4]})
    pipe.add_edit(DirectionEdit("turn", description="Turns", tensors={"direction": torch.ones(16)}))
    pipe.generator.register_to_config(license="cc0-1.0", source="random numbers")
    return pipe


def evaluation() -> dict:
    def row(name: str, psnr: float) -> dict:
        return {
            "name": name,
            "label": f"the {name}",
            "psnr": {"mean": psnr, "std": 1.0},
            "lpips": None,
            "frechet": 3.5,
        }

    return {
        "model": "tiny",
        "dtype": "float32",
        "count": 7,
        "image_size": [32, 32],
        "rows": [row("initial", 19.0), row("full", 28.123456), row("official", 1.0)],
        "revision": {"data": {"name": "Cats of 2026.zip", "count": 7}},
    }


# There and back.


def test_what_is_pushed_loads_bitwise(hub, model, tmp_path):
    address = model.push_to_hub("user/tiny", "cc0-1.0")
    assert address.startswith(f"{hub.url}/user/tiny/commit/")
    found = SDICPipeline.from_pretrained("user/tiny", cache_dir=tmp_path / "c")
    assert same_weights(found, model)
    assert torch.equal(found.find_edit("turn").tensors["direction"], model.find_edit("turn").tensors["direction"])
    assert found.config.alignment == model.config.alignment
    photo = np.full((32, 32, 3), 0.4)
    assert torch.equal(found(photo, output_type="pt").images, model(photo, output_type="pt").images)


def test_the_card_comes_first_and_the_rest_in_one_commit(hub, model):
    model.push_to_hub("user/tiny", "cc0-1.0", commit_message="My model")
    assert hub.messages("user/tiny") == ["initial commit", "Model card", "My model"]
    first, second = hub.repositories["user/tiny"].branches["main"][1:]
    assert set(first.files) == {".gitattributes", "README.md"}
    wanted = {f"{name}/{file}" for name in COMPONENTS for file in ("config.json", f"{WEIGHTS}.safetensors")}
    wanted |= {f"{name}/{WEIGHTS}.fp16.safetensors" for name in COMPONENTS}
    assert set(second.files) == wanted | {".gitattributes", "README.md", "model_index.json", "edits/edits.safetensors"}


def test_nothing_else_is_uploaded(hub, model, tmp_path):
    folder = tmp_path / "model"
    model.save_pretrained(folder)
    make_model("discriminator").save_pretrained(folder / "discriminator")
    (folder / "losses").mkdir()
    save_file({"x": torch.ones(2)}, folder / "losses" / "lpips.safetensors")
    for name in ("optimizer.bin", "random_states_0.pkl", "pipeline.py", "generator/model.py", "notes.txt", ".env"):
        (folder / name).write_text("private")
    Image.fromarray(np.zeros((8, 8, 3), np.uint8)).save(tmp_path / "a.png", exif=exif())
    loaded = SDICPipeline.from_pretrained(folder)
    loaded.push_to_hub("user/tiny", "cc0-1.0", model=folder, examples=[tmp_path / "a.png"], evaluation=evaluation())
    files = hub.files("user/tiny")
    assert not [
        name for name in files if not re.fullmatch(r"[\w/.]+\.(json|safetensors|md|png)|\.gitattributes", name)
    ]
    assert {"discriminator/config.json", "losses/lpips.safetensors", "evaluation.json", "assets/a.png"} <= set(files)
    assert not [name for name, content in files.items() if b"private" in content or str(tmp_path).encode() in content]
    assert b"SECRET PLACE" not in files["assets/a.png"]
    shown = yaml.safe_load(files["README.md"].decode().split("---")[1])["widget"]
    assert [each["output"]["url"] for each in shown] == [name for name in files if name.startswith("assets/")]
    # What lies beside the pipeline comes back, too.
    folder = download_model("user/tiny", cache_dir=tmp_path / "c")
    assert {"lpips.safetensors"} == {path.name for path in (folder / "losses").iterdir()}
    assert (folder / "discriminator" / "config.json").is_file()


def exif() -> Image.Exif:
    data = Image.Exif()
    data[270] = "SECRET PLACE"
    return data


def test_half_precision_loads_from_the_hub(hub, model, tmp_path):
    model.push_to_hub("user/tiny", "cc0-1.0")
    found = SDICPipeline.from_pretrained("user/tiny", variant="fp16", dtype=torch.float16, cache_dir=tmp_path / "c")
    assert {component.dtype for component in found.components.values()} == {torch.float16}
    assert torch.equal(found.dipn.matching[1].bias, model.dipn.matching[1].bias.half())
    fetched = [path for method, path in hub.requests if method == "GET" and path.endswith(".safetensors")]
    assert all("fp16" in path or "edits" in path for path in fetched) and len(fetched) == 5
    assert load(hub.files("user/tiny")[f"dipn/{WEIGHTS}.fp16.safetensors"])["matching.1.bias"].dtype == torch.float16


def test_half_precision_is_never_published_as_the_plain_weights(hub, model, tmp_path):
    """They would take the place of float32 weights that the repository has."""
    model.push_to_hub("user/tiny", "cc0-1.0")
    before = dict(hub.files("user/tiny"))
    half = SDICPipeline.from_pretrained("user/tiny", variant="fp16", dtype=torch.float16, cache_dir=tmp_path / "c")
    with pytest.raises(SDICError, match=r"'dipn'.* hold float16 weights, .* load the model with dtype=torch\.float32"):
        half.push_to_hub("user/tiny", "cc0-1.0")
    with pytest.raises(SDICError, match="'generator' hold bfloat16 weights"):
        mixed = make_pipeline()
        mixed.generator.to(torch.bfloat16)
        mixed.save_pretrained(tmp_path / "tiny", push_to_hub=True, license="cc0-1.0")
    assert hub.files("user/tiny") == before
    half.to(torch.float32).push_to_hub("user/tiny", "cc0-1.0")
    plain, variant = (f"dipn/{WEIGHTS}{suffix}.safetensors" for suffix in ("", ".fp16"))
    assert load(hub.files("user/tiny")[plain])["matching.1.bias"].dtype == torch.float32
    assert hub.files("user/tiny")[variant] == before[variant]


def test_a_variant_of_some_components_is_completed_with_plain_weights(hub, model, tmp_path):
    model.push_to_hub("user/tiny", "cc0-1.0")
    for name in ("dipn", "dicn"):
        del hub.files("user/tiny")[f"{name}/{WEIGHTS}.fp16.safetensors"]
    found = SDICPipeline.from_pretrained("user/tiny", variant="fp16", cache_dir=tmp_path / "c")
    assert torch.equal(found.dipn.matching[1].bias, model.dipn.matching[1].bias)
    assert torch.equal(found.generator.blocks[0].constant, model.generator.blocks[0].constant.half().float())


def test_save_pretrained_uploads_what_it_saved(hub, model, tmp_path):
    """Edits too, without local paths, and after the folder is whole."""
    model.save_pretrained(tmp_path / "first")
    pipe = SDICPipeline.from_pretrained(tmp_path / "first")
    pipe.save_pretrained(tmp_path / "tiny", push_to_hub=True, repo_id="user/other", license="cc0-1.0")
    files = hub.files("user/other")
    assert "edits/edits.safetensors" in files
    assert not [name for name, content in files.items() if b"_name_or_path" in content]
    assert (tmp_path / "tiny" / "edits" / "edits.safetensors").is_file()
    pipe.save_pretrained(tmp_path / "tiny", push_to_hub=True, license="cc0-1.0")
    assert 'from_pretrained("user/tiny")' in hub.files("user/tiny")["README.md"].decode()


def test_a_second_upload_removes_what_is_no_longer_there(hub, model):
    model.push_to_hub("user/tiny", "cc0-1.0")
    hub.files("user/tiny")["NOTES.txt"] = b"someone's own"
    model.unload_edits()
    model.push_to_hub("user/tiny", "cc0-1.0", half_precision=False)
    files = hub.files("user/tiny")
    assert "NOTES.txt" in files
    assert not [name for name in files if "fp16" in name or name.startswith("edits/")]


def test_edits_alone(hub, model, tmp_path):
    model.push_edits_to_hub("user/turns", "cc0-1.0", base_model="user/tiny")
    files = hub.files("user/turns")
    assert set(files) == {".gitattributes", "README.md", "edits/edits.safetensors"}
    header = yaml.safe_load(files["README.md"].decode().split("---")[1])
    assert (header["base_model"], header["base_model_relation"]) == ("user/tiny", "adapter")
    folder = huggingface_hub.snapshot_download("user/turns", cache_dir=tmp_path / "c")
    edits, metadata = read_edits(Path(folder) / "edits" / "edits.safetensors")
    assert [edit.name for edit in edits] == ["turn"]
    assert metadata == {"generator_id": "tiny", "license": "cc0-1.0", "source": "random numbers"}
    pipe = make_pipeline()
    assert pipe.load_edits("user/turns", cache_dir=tmp_path / "d") == ["turn"]
    with pytest.raises(SDICError, match=r"could not be fetched from the Hub \(there is no such repository"):
        pipe.load_edits("user/absent", cache_dir=tmp_path / "d")
    with pytest.raises(SDICError, match="no edits"):
        make_pipeline().push_edits_to_hub("user/none", "cc0-1.0")


def test_edits_alone_never_touch_a_model(hub, model):
    model.push_to_hub("user/tiny", "cc0-1.0")
    before = dict(hub.files("user/tiny"))
    with pytest.raises(SDICError, match=r"^The repository 'user/tiny' holds a model"):
        model.push_edits_to_hub("user/tiny", "cc0-1.0")
    assert hub.files("user/tiny") == before
    model.push_edits_to_hub("user/turns", "cc0-1.0")
    hub.files("user/turns")["extra/config.json"] = b"{}"
    model.push_edits_to_hub("user/turns", "cc0-1.0")
    assert "extra/config.json" in hub.files("user/turns")


def test_what_is_to_be_private_never_goes_to_a_public_repository(hub, model):
    """The Hub's client takes the wish for private only when it makes the repository."""
    for push in (model.push_to_hub, model.push_edits_to_hub):
        push("user/public", "cc0-1.0")
        before = dict(hub.files("user/public"))
        with pytest.raises(
            SDICError, match=r"^The upload was to be private, but .*'user/public' is public.*/settings"
        ):
            push("user/public", "cc0-1.0", private=True, revision="next")
        assert hub.files("user/public") == before and set(hub.repositories["user/public"].branches) == {"main"}
        del hub.repositories["user/public"]
        for _ in range(2):
            push("user/secret", "cc0-1.0", private=True)
        assert hub.repositories.pop("user/secret").private


def test_a_card_names_what_can_be_loaded(hub, model, tmp_path):
    """A name alone is one of the token's owner, for whom the Hub is asked before anything is made."""
    Image.fromarray(np.zeros((8, 8, 3), np.uint8)).save(tmp_path / "my cat (2).jpg")
    model.push_to_hub("tiny", "cc0-1.0", examples=[tmp_path / "my cat (2).jpg"])
    card = hub.files("user/tiny")["README.md"].decode()
    assert 'SDICPipeline.from_pretrained("user/tiny")' in card and "--model\nuser/tiny --eyes" in card
    assert "# tiny\n" in card and "![my-cat-2-.png](assets/my-cat-2-.png)" in card
    assert "assets/my-cat-2-.png" in hub.files("user/tiny")
    model.push_edits_to_hub("turns", "cc0-1.0")
    assert 'load_edits("user/turns")' in hub.files("user/turns")["README.md"].decode()
    with pytest.raises(SDICError, match=r"absent\.png"):
        model.push_to_hub("none", "cc0-1.0", examples=[tmp_path / "absent.png"])
    with pytest.raises(CheckpointError, match="upload to 'none' failed"):
        model.push_to_hub("none", "cc0-1.0", token="hf_wrong")
    assert set(hub.repositories) == {"user/tiny", "user/turns"}


def test_branches_and_revisions(hub, model, tmp_path):
    model.push_to_hub("user/tiny", "cc0-1.0")
    first = hub.repositories["user/tiny"].branches["main"][-1].id
    other = make_pipeline(seed=1)
    other.generator.register_to_config(license="cc0-1.0")
    other.push_to_hub("user/tiny", "cc0-1.0", revision="next")
    assert same_weights(SDICPipeline.from_pretrained("user/tiny", cache_dir=tmp_path / "c"), model)
    for revision, wanted in (("next", other), (first, model)):
        found = SDICPipeline.from_pretrained("user/tiny", revision=revision, cache_dir=tmp_path / "c")
        assert same_weights(found, wanted)


def test_components_load_by_subfolder(hub, model, tmp_path):
    model.push_to_hub("user/tiny", "cc0-1.0")
    found = DIPN.from_pretrained("user/tiny", subfolder="dipn", cache_dir=tmp_path / "c")
    assert all(torch.equal(x, y) for x, y in zip(found.parameters(), model.dipn.parameters(), strict=True))


def test_the_cache_is_enough(hub, model, tmp_path, monkeypatch):
    model.push_to_hub("user/tiny", "cc0-1.0")
    SDICPipeline.from_pretrained("user/tiny", cache_dir=tmp_path / "c")
    hub.requests.clear()
    found = SDICPipeline.from_pretrained("user/tiny", cache_dir=tmp_path / "c", local_files_only=True)
    assert same_weights(found, model) and hub.requests == []
    monkeypatch.setattr(constants, "ENDPOINT", "http://127.0.0.1:9")  # nobody answers there
    assert same_weights(SDICPipeline.from_pretrained("user/tiny", cache_dir=tmp_path / "c"), model)


# What breaks.


def test_a_cut_download_is_resumed(hub, model, tmp_path):
    model.push_to_hub("user/tiny", "cc0-1.0", half_precision=False)
    hub.cut_after = 1000
    found = SDICPipeline.from_pretrained("user/tiny", cache_dir=tmp_path / "c")
    assert hub.cut_after is None and same_weights(found, model)


@pytest.mark.parametrize("request_name", ["/lfs/", "/commit/"])
def test_a_killed_upload_leaves_no_half_of_a_model(hub, model, monkeypatch, request_name):
    monkeypatch.setattr("time.sleep", lambda seconds: None)  # the client waits between its attempts
    model.push_to_hub("user/tiny", "cc0-1.0")
    before = dict(hub.files("user/tiny"))
    other = make_pipeline(seed=1)
    other.generator.register_to_config(license="cc0-1.0")
    seen = []

    def fail(method: str, path: str) -> bool:
        seen.append(path)
        # Some large files arrive; of the commits, the card's does.
        return sum(request_name in each for each in seen) > 1 and request_name in path

    hub.fail_on = fail
    with pytest.raises(CheckpointError, match="'user/tiny' failed"):
        other.push_to_hub("user/tiny", "cc0-1.0")
    hub.fail_on = lambda method, path: False
    after = hub.files("user/tiny")
    assert {name: content for name, content in after.items() if name != "README.md"} == {
        name: content for name, content in before.items() if name != "README.md"
    }
    # A new repository has a card then, and nothing that loads.
    hub.fail_on = lambda method, path: "/lfs/" in path and method == "PUT"
    with pytest.raises(CheckpointError):
        make_pipeline(seed=2).push_to_hub("user/new", "cc0-1.0")
    assert set(hub.files("user/new")) <= {".gitattributes", "README.md"}


@pytest.mark.parametrize(
    ("change", "options", "words"),
    [
        ({"private": True}, {"token": False}, "no such repository, or it is private"),
        ({"gated": True}, {}, "Access to model user/tiny is restricted"),
        ({}, {"revision": "absent"}, "no such revision: Invalid rev id: absent"),
    ],
)
def test_the_hub_s_reason_is_told(hub, model, tmp_path, monkeypatch, change, options, words):
    model.push_to_hub("user/tiny", "cc0-1.0", half_precision=False)
    for name, value in change.items():
        setattr(hub.repositories["user/tiny"], name, value)
    with pytest.raises(CheckpointError) as error:
        SDICPipeline.from_pretrained("user/tiny", cache_dir=tmp_path / "c", **options)
    message = str(error.value)
    assert words in message and "\n" not in message and message.endswith("or give a local folder.")
    if "private" in change:
        found = SDICPipeline.from_pretrained("user/tiny", cache_dir=tmp_path / "c", token=TOKEN)
        assert same_weights(found, model)


def test_other_failures_are_told(hub, model, tmp_path, monkeypatch):
    with pytest.raises(CheckpointError, match="no such repository"):
        SDICPipeline.from_pretrained("user/absent", cache_dir=tmp_path / "c")
    with pytest.raises(CheckpointError, match="not in the cache"):
        SDICPipeline.from_pretrained("user/tiny", cache_dir=tmp_path / "c", local_files_only=True)
    hub.fail_on = lambda method, path: True
    with pytest.raises(CheckpointError, match="could not be fetched"):
        SDICPipeline.from_pretrained("user/tiny", cache_dir=tmp_path / "c")
    hub.fail_on = lambda method, path: False
    with pytest.raises(CheckpointError, match="upload to 'user/tiny' failed"):
        model.push_to_hub("user/tiny", "cc0-1.0", token="hf_wrong")


def test_only_safe_files_are_fetched(hub, model, tmp_path):
    """A repository may hold code and pickles; they are not even downloaded."""
    model.push_to_hub("user/tiny", "cc0-1.0", half_precision=False)
    hub.files("user/tiny").update({"pipeline.py": b"raise SystemExit", "dipn/diffusion_pytorch_model.bin": b"x"})
    folder = download_model("user/tiny", cache_dir=tmp_path / "c")
    assert {path.suffix for path in folder.rglob("*") if path.is_file()} == {".json", ".safetensors", ".md"}
    assert same_weights(SDICPipeline.from_pretrained("user/tiny", cache_dir=tmp_path / "c"), model)


def test_weights_of_one_variant_only_are_fetched(hub, model, tmp_path):
    model.push_to_hub("user/tiny", "cc0-1.0")
    for name in COMPONENTS:
        del hub.files("user/tiny")[f"{name}/{WEIGHTS}.safetensors"]
    found = SDICPipeline.from_pretrained("user/tiny", cache_dir=tmp_path / "c")
    assert torch.equal(found.dipn.matching[1].bias, model.dipn.matching[1].bias.half().float())


def test_the_card_of_wide_photos_says_their_size():
    for rows, sizes in ((None, ("64 × 64", "32 ×\n32")), ([8, 56], ("48 × 64", "24 ×\n32"))):
        text = model_card(make_pipeline(content_rows=rows).model_facts(), CardFacts("user/tiny", "mit"))
        assert all(f"{size} pixels" in text for size in sizes)


def test_parts_from_the_hub_keep_their_settings(hub, model, tmp_path):
    model.push_to_hub("user/tiny", "cc0-1.0", half_precision=False)
    files = hub.files("user/tiny")
    del files["model_index.json"]
    files["parts.json"] = json.dumps({"alignment": {"rule": "ffhq"}, "feature_edit": "official"}).encode()
    folder = download_model("user/tiny", cache_dir=tmp_path / "c")
    assert read_parts_settings(folder) == {"alignment": {"rule": "ffhq"}, "feature_edit": "official"}


def test_a_models_notice_goes_wherever_its_weights_go(hub, model, tmp_path):
    """Loaded and saved, pushed and fetched, pushed with the networks beside it; and gone with a push that has none."""
    model.save_pretrained(tmp_path / "model")
    (tmp_path / "model" / "NOTICE.md").write_text("# Whose data\n\nKärkkäinen's\n", encoding="utf-8")
    loaded = SDICPipeline.from_pretrained(tmp_path / "model")
    loaded.with_edits({}).save_pretrained(tmp_path / "saved")
    assert (tmp_path / "saved" / "NOTICE.md").read_bytes() == (tmp_path / "model" / "NOTICE.md").read_bytes()
    loaded.push_to_hub("user/tiny", "cc0-1.0", model=tmp_path / "model")
    assert hub.files("user/tiny")["NOTICE.md"] == (tmp_path / "model" / "NOTICE.md").read_bytes()
    assert SDICPipeline.from_pretrained("user/tiny", cache_dir=tmp_path / "c").notice == loaded.notice
    model.push_to_hub("user/tiny", "cc0-1.0")
    assert model.notice is None and "NOTICE.md" not in hub.files("user/tiny")
    model.push_to_hub("user/tiny", "cc0-1.0", model=tmp_path / "model")
    assert "NOTICE.md" in hub.files("user/tiny")
    (tmp_path / "model" / "NOTICE.md").write_bytes(b"x" * (2**20 + 1))
    with pytest.raises(CheckpointError, match=r"NOTICE\.md has 1048577 bytes, but a notice has at most 1048576"):
        SDICPipeline.from_pretrained(tmp_path / "model")


# Licences.


def test_a_licence_must_be_named_and_be_the_recorded_one(hub, model):
    with pytest.raises(SDICError, match=r"No licence .* records the licence 'cc0-1.0' \(source: random numbers\)"):
        model.push_to_hub("user/tiny")
    with pytest.raises(SDICError, match=r"'mit' was given, but this model records 'cc0-1.0'"):
        model.push_to_hub("user/tiny", "mit")
    with pytest.raises(SDICError, match="No licence"):
        model.push_edits_to_hub("user/tiny")
    with pytest.raises(SDICError, match="records no licence"):
        make_pipeline().push_to_hub("user/tiny")
    assert hub.requests == []


# The command.


def test_the_command(hub, model, tmp_path, capsys):
    model.save_pretrained(tmp_path / "model")
    (tmp_path / "evaluation.json").write_text(json.dumps(evaluation()))
    arguments = ["push", str(tmp_path / "model"), "user/tiny", "--license", "cc0-1.0", "--no-half", "--private"]
    arguments += ["--evaluation", str(tmp_path / "evaluation.json"), "--dataset", "user/cats", "--base-model", "a/b"]
    assert main(arguments) == 0
    assert f"{hub.url}/user/tiny/commit/" in capsys.readouterr().out
    assert hub.repositories["user/tiny"].private
    header = yaml.safe_load(hub.files("user/tiny")["README.md"].decode().split("---")[1])
    assert (header["base_model"], header["datasets"]) == ("a/b", ["user/cats"])
    assert main(["push", str(tmp_path / "model"), "user/turns", "--edits-only", "--license", "cc0-1.0"]) == 0
    assert "edits/edits.safetensors" in hub.files("user/turns")
    assert main(["push", str(tmp_path / "model"), "user/x"]) == 2
    assert "No licence was given" in capsys.readouterr().err
    assert main(["push", "user/tiny", "user/x", "--license", "mit"]) == 2


@pytest.mark.parametrize(
    ("options", "message"),
    [
        ("--edits-only --card a.md", "--card says nothing about edits alone"),
        ("--edits-only --evaluation a.json", "--evaluation says nothing about edits alone"),
        ("--edits-only --base-model a/b --relation adapter", "--relation says nothing about edits alone"),
        ("--edits-only --dataset cats", "--dataset says nothing about edits alone"),
        ("--edits-only --no-half", "--no-half says nothing about edits alone"),
        ("--card a.md --base-model a/b", "--base-model is said by the rendered card alone"),
        ("--card a.md --relation merge", "--relation is said by the rendered card alone"),
        ("--card a.md --dataset cats", "--dataset is said by the rendered card alone"),
        ("--relation merge", "--relation is 'merge', but no model was named"),
    ],
)
def test_options_that_would_do_nothing_are_refused(hub, options, message, capsys):
    assert main(["push", "cats64", "user/x", "--license", "mit", *options.split()]) == 2
    said = capsys.readouterr().err
    assert message in said and said.count("\n") == 1 and hub.requests == []


def test_a_card_of_ones_own_names_the_licence(hub, model, tmp_path):
    """Else weights were published whose page says of no licence, or of another."""
    path = tmp_path / "card.md"
    for text in ("# Cats\n", "---\ntags: [a]\n---\n", "---\nlicense: mit\n---\n"):
        path.write_text(text)
        with pytest.raises(SDICError, match=r"as its license, .* write `license: cc0-1\.0` into the front matter"):
            model.push_to_hub("user/tiny", "cc0-1.0", card=path)
    for content in (b"---\n- a\n---\n", b"---\na: [\n---\n", b"\xff\xfe", None):
        path.unlink() if content is None else path.write_bytes(content)
        with pytest.raises(SDICError, match=r"card\.md cannot be read .*: give a Markdown file") as error:
            model.push_to_hub("user/tiny", "cc0-1.0", card=path)
        assert "\n" not in str(error.value)
    assert hub.requests == []
    path.write_text("---\nlicense: CC0-1.0\n---\n\n# Cats\n")
    model.push_to_hub("user/tiny", "cc0-1.0", card=path, evaluation=evaluation(), half_precision=False)
    assert hub.files("user/tiny")["README.md"] == path.read_bytes() and "evaluation.json" in hub.files("user/tiny")
    other = make_pipeline()
    with pytest.raises(SDICError, match="write `license: other` and `license_name: Ours` into"):
        other.push_to_hub("user/ours", "Ours", card=path)
    path.write_text("---\nlicense: other\nlicense_name: Ours\n---\n")
    other.push_to_hub("user/ours", "Ours", card=path, half_precision=False)
    assert "user/ours" in hub.repositories


# Cards.


def facts(**changes: object) -> CardFacts:
    return CardFacts(**{"repo_id": "user/tiny", "license": "cc0-1.0", **changes})


def ffhq() -> str:
    """As for a converted FFHQ-1024: the card only reads configurations, so small networks stand for large ones."""
    pipe = make_pipeline()
    return model_card(
        pipe.model_facts(), facts(license="NVIDIA Source Code License-NC", source="ffhq.pkl", repo_id="u/ffhq")
    )


CARDS = {
    "converted": ffhq,
    "cats64": lambda: model_card(
        SDICPipeline.from_pretrained("cats64").model_facts(),
        facts(license="apache-2.0", datasets=["AnnikaV9/cat-dataset"], evaluation=evaluation(), variants=["fp16"]),
    ),
    "fine-tune": lambda: model_card(
        make_pipeline().model_facts(), facts(base_model="user/cats64", examples=["sheet.png"])
    ),
    "edits": lambda: edits_card(
        [DirectionEdit("turn", tensors={"direction": torch.ones(16)})], "tiny", facts(base_model="user/cats64")
    ),
}


@pytest.mark.parametrize("name", CARDS)
def test_cards_have_what_the_hub_needs(name):
    text = CARDS[name]()
    _, header, body = text.split("---\n", 2)
    data = yaml.safe_load(header)
    assert data.keys() <= SCHEMA.keys()
    assert all(isinstance(value, SCHEMA[key]) for key, value in data.items())
    assert data["library_name"] == "sdic_plugin"
    assert {"diffusers", "gan-inversion", "stylegan2"} <= set(data["tags"])
    assert data.get("pipeline_tag") == (None if name == "edits" else "image-to-image")
    for heading in ("## Use", "## Limits, bias and misuse", "icence"):
        assert heading in body
    assert not re.search(r"\{\{|\{%|None|\n\n\n|\{\{", body)
    for code in re.findall(r"```python\n(.*?)```", body, flags=re.DOTALL):
        compile(code, name, "exec")
    if name != "edits":
        assert "10.1609/aaai.v38i7.28574" in body


def test_cards_say_what_is_known():
    converted = CARDS["converted"]()
    assert "license: other\nlicense_name: NVIDIA Source Code License-NC" in converted
    assert "Source of the weights: ffhq.pkl." in converted and "not named by whoever" in converted
    tuned = yaml.safe_load(CARDS["fine-tune"]().split("---")[1])
    assert (tuned["base_model"], tuned["base_model_relation"]) == ("user/cats64", "finetune")
    assert "![sheet.png](assets/sheet.png)" in CARDS["fine-tune"]()
    assert tuned["widget"] == [{"text": "sheet", "output": {"url": "assets/sheet.png"}}]
    cats = CARDS["cats64"]()
    assert "widget" not in cats
    assert 'variant="fp16"' in cats and "| `warmth` | 1 |" in cats and "| the full | 28.123 |" in cats
    index = yaml.safe_load(cats.split("---")[1])["model-index"]
    assert index[0]["name"] == "tiny"
    result = index[0]["results"][0]
    assert result["task"]["type"] == "image-to-image" and result["dataset"]["type"] == "cats-of-2026-zip"
    metrics = {metric["type"]: metric["value"] for each in index[0]["results"] for metric in each["metrics"]}
    assert metrics == {"psnr": 28.1235, "frechet": 3.5}


def test_an_unknown_relation_is_refused():
    with pytest.raises(SDICError, match="'cousin'"):
        facts(relation="cousin")


@pytest.mark.parametrize("content", ["", "{", "[]", "{}", '{"rows": [{"name": "full"}]}', "[" * 100_000])
def test_an_evaluation_that_is_none_is_refused(tmp_path, content):
    (tmp_path / "evaluation.json").write_text(content)
    with pytest.raises(SDICError, match=r"evaluation\.json cannot be read") as error:
        read_evaluation(tmp_path / "evaluation.json")
    assert "\n" not in str(error.value)


def test_a_report_of_evaluate_is_read(tmp_path):
    """The figures a card takes are where `sdic evaluate` writes them."""
    from sdic_plugin.evaluation.reports import EvaluationReport, RowReport

    columns = {field.name for field in dataclasses.fields(RowReport)}
    assert {"name", "label", "psnr", "ssim", "ms_ssim", "lpips", "identity", "frechet"} <= columns
    assert {"rows", "image_size", "count", "dtype", "revision"} <= {
        f.name for f in dataclasses.fields(EvaluationReport)
    }
