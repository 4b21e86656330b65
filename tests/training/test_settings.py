"""Settings of every stage: what is taken, what is refused with one sentence, and the places that they name."""

from __future__ import annotations

import dataclasses
import json
import math
import os
import re
import shutil
import socket
import subprocess
from pathlib import Path
from typing import get_args

import pytest
from PIL import Image
from testing.hostile_files import is_sentence

from hub_cards.cats64.dicn_tuning import TuningConfig
from hub_cards.cats64.dicn_tuning import main as tune
from sdic_plugin import SDICError
from sdic_plugin.commands.cli import main
from sdic_plugin.images.sources import open_source, read_file
from sdic_plugin.training.augmentation import POLICIES
from sdic_plugin.training.checkpoints import settings_of
from sdic_plugin.training.compensation import CompensationTrainingConfig
from sdic_plugin.training.config import RECIPES, TrainingConfig, load_config
from sdic_plugin.training.datasets.cats64 import rebuild_cats64
from sdic_plugin.training.encoder import EncoderTrainingConfig
from sdic_plugin.training.generator_config import Augmentation, GeneratorTrainingConfig
from sdic_plugin.training.places import check_places
from sdic_plugin.training.settings import rules_of
from sdic_plugin.training.transport import TransportTrainingConfig

STAGES = {
    "generator": GeneratorTrainingConfig,
    "encoder": EncoderTrainingConfig,
    "compensation": CompensationTrainingConfig,
    "transport": TransportTrainingConfig,
    "tuning": TuningConfig,
}
PATHS = ["data=a", "output=b"]


def base(stage: str) -> dict:
    return {} if stage == "tuning" else {"data": "a", "output": "b"}


def load(stage: str, *assignments: str, path: str | None = None):
    return load_config(STAGES[stage], path, [*(f"{key}={value}" for key, value in base(stage).items()), *assignments])


# ------------------------------------------------------------------------------------------------ hostile values


NUMBERS = [0, 1, 2, 3, 4, 8, 48, 64, -1, 2**31, 2**63, 2**64, -(2**63), 10**400, 10**5000, 0.0, 0.5, 1.0, 4.0, 2.5]
NUMBERS += [-0.5, 1e-300, 1e9, 1e300, -1e300, math.inf, -math.inf, math.nan]
TEXTS = ["", " ", "x", "no", "None", "1", "-1", "nan", "inf", "1e999", "٣", "0x10", "a\nb", "a\0b", "\x1b[31m"]
TEXTS += ["\ud800", "x" * 300, "x" * 100_000, "/dev/zero", "../..", "~", "dataset:", "a. B"]
LISTS = [[], [1], [1, 1], [0, 0], [2, 1], [True, False], [0.5, 0.5], [0.9, 1.0], [math.nan, 0.9], ["a"], ["colour"]]
LISTS += [["colour"] * 3, [[1], [2]], [1] * 4, [4.0] * 4, [8] * 5, [None], [1] * 5000, (0.9, 0.99), [10**400] * 2]
OTHERS = [None, True, False, {}, {"4": 8}, {"4": True}, {4: 8}, {"x": {"y": []}}, {0.9, 0.99}, b"x", b"\xff", 1j]
OTHERS += [object(), int, iter([1, 1]), range(2), float, Path("x"), {"4": -1, "8": 1}, dataclasses.field()]
NESTED: list = []
for _ in range(2000):
    NESTED = [NESTED]
VALUES = [*NUMBERS, *TEXTS, *LISTS, *OTHERS, NESTED]


def plain_values(value: object) -> list:
    if isinstance(value, dict):
        return [each for item in value.items() for each in item]
    return value if isinstance(value, list) else [value]


@pytest.mark.parametrize("stage", STAGES)
def test_every_value_of_every_setting_is_sound_or_refused_in_one_sentence(stage):
    cls, refused, accepted = STAGES[stage], 0, 0
    for name in rules_of(cls):
        for value in VALUES:
            try:
                settings = cls(**{**base(stage), name: value})
            except SDICError as error:
                assert len(str(error)) < 400 and is_sentence(str(error).replace("a. B", "")), (name, str(error))
                refused += 1
                continue
            accepted += 1
            written = json.loads(json.dumps(dataclasses.asdict(settings), allow_nan=False))
            assert cls(**written) == settings
            for each in plain_values(getattr(settings, name)):
                assert each is None or isinstance(each, bool | int | float | str), (name, value)
                assert isinstance(each, str | None) or -1e-9 < each < 2**63
    assert refused > 30 * len(rules_of(cls)) and accepted > len(rules_of(cls))


@pytest.mark.parametrize("stage", STAGES)
def test_every_text_of_the_command_line_is_sound_or_refused_in_one_sentence(stage):
    texts = [text for text in TEXTS if "\ud800" not in text]
    texts += ["none", "NONE", "null", "true", "[]", "[[", "{", "{}", "[nan]", "2024-01-01", '"""', "'"]
    texts += ["9" * 5000, "[" * 5000]
    texts += ["1\nsteps = 2", "1 # 2", "=", "a=b", "-", "+1", "1_0", ".5", "5.", "[1,]", "{4=8}", "0o7", "1e5"]
    for name in rules_of(STAGES[stage]):
        for text in texts:
            try:
                load(stage, f"{name}={text}")
            except SDICError as error:
                assert len(str(error)) < 400 and is_sentence(str(error).replace("a. B", "")), (name, str(error))


@pytest.mark.parametrize(
    "content", ["a = [", "a" * 2000, "steps = " + "9" * 5000, "a = " + "[" * 20_000, "\0", "=", "[[a]]"]
)
def test_settings_files_of_any_content_are_read_or_refused_in_one_sentence(tmp_path, content):
    (tmp_path / "a.toml").write_text(content)
    with pytest.raises(SDICError) as error:
        load("encoder", path=tmp_path / "a.toml")
    assert len(str(error.value)) < 600 and is_sentence(str(error.value))


@pytest.mark.parametrize("stage", STAGES)
def test_every_setting_says_what_it_must_be(stage):
    for name, rule in rules_of(STAGES[stage]).items():
        assert re.match(r"(a|one of|text|true) ", rule.needed), name


# ------------------------------------------------------------------------------------------------ what was wrong


PATH = "a path or name of 1 to 4,096 characters on one line"


@pytest.mark.parametrize(
    ("stage", "assignment", "shown", "needed"),
    [
        ("encoder", "gradient_clip=-1", "-1", "a number in (0, 1,000,000,000,000]"),
        ("encoder", 'gradient_clip="x"', "'x'", "a number in (0, 1,000,000,000,000]"),
        ("compensation", "misalignment=1e9", "1000000000.0", "a number in [0, 0.5]"),
        ("compensation", "edit_transfer_weight=nan", "nan", "a number in [0, 1,000,000]"),
        ("compensation", "strides=[0,0]", "[0, 0]", "a list of two whole numbers from 1 to 2, or none"),
        ("compensation", "train_dipn=maybe", "'maybe'", "true or false"),
        ("encoder", "data=", "''", PATH),
        ("encoder", "output=", "''", PATH),
        ("encoder", "model=", "''", f"{PATH}, or none"),
        ("encoder", "steps=true", "True", "a whole number from 1 to 99,999,999"),
        ("encoder", "learning_rate=1e300", "1e+300", "a number in (0, 1]"),
        ("encoder", "stage_units=[1,1,1]", "[1, 1, 1]", "a list of four whole numbers from 1 to 200"),
        ("compensation", "matching_channels=6", "6", "a whole number from 4 to 1,024, divisible by 4"),
        ("generator", "augmentation=mixup", "'mixup'", "one of none, diffaugment, adaptive"),
        (
            "generator",
            'policies=["colour","colour"]',
            "['colour', 'colour']",
            "a list with nothing but colour, translation, cutout in it, each at most once",
        ),
    ],
)
def test_wrong_settings_are_named_with_what_is_needed(stage, assignment, shown, needed):
    with pytest.raises(SDICError) as error:
        load(stage, assignment)
    assert str(error.value) == f"{assignment.partition('=')[0]} is {shown}, but must be {needed}."


@pytest.mark.parametrize(
    ("assignment", "message"),
    [
        (
            "progressive_from=0.5",
            "progressive_until is 0.25, but must not be less than progressive_from, which is 0.5",
        ),
        (
            "learning_rte=1",
            r"The settings \['learning_rte'\] are unknown to this stage: perhaps learning_rate was meant",
        ),
        ("zzz=1", "'zzz'.* are unknown to this stage: the docstring of EncoderTrainingConfig lists those there are"),
        ("output=none", "The settings are incomplete, for output have no value: give them .* with --set output=…"),
        ("gradient_accumulation=5", "batch_size 32 cannot be divided into gradient_accumulation 5"),
    ],
)
def test_other_sentences(assignment, message):
    with pytest.raises(SDICError, match=message):
        load("encoder", assignment)


def test_files_get_the_same_sentences(tmp_path):
    (tmp_path / "a.toml").write_text("data = 2024\noutput = 'b'\n")
    with pytest.raises(SDICError, match="data is 2024, but must be a path or name"):
        load_config(EncoderTrainingConfig, tmp_path / "a.toml", [])
    (tmp_path / "a.toml").write_text("batch_size = [4]\n")
    with pytest.raises(SDICError, match=r"batch_size is \[4\], but must be a whole number from 1 to 65,536"):
        load("encoder", path=tmp_path / "a.toml")


# ------------------------------------------------------------------------------------------------ what is taken


@pytest.mark.parametrize("word", ["False", "false", "no", "NO", "off", "Off", "0"])
def test_words_for_false(word):
    config = load("compensation", f"train_dipn={word}", f"from_scratch={word}")
    assert (config.train_dipn, config.from_scratch) == (False, False)


@pytest.mark.parametrize("word", ["True", "true", "yes", "YES", "on", "On", "1"])
def test_words_for_true(word):
    config = load("compensation", f"train_dipn={word}", f"from_scratch={word}")
    assert (config.train_dipn, config.from_scratch) == (True, True)


@pytest.mark.parametrize(
    ("stage", "assignment", "value"),
    [
        ("encoder", "batch_size=4.0", 4),
        ("encoder", "learning_rate=1", 1.0),
        ("encoder", "learning_rate=.5", 0.5),
        ("encoder", "steps=1_000", 1000),
        ("encoder", "data=2024", "2024"),
        ("encoder", "output=7", "7"),
        ("encoder", "data= photos of cats ", "photos of cats"),
        ("encoder", 'model="none"', "none"),
        ("encoder", "model='C:\\cats'", "C:\\cats"),
        ("encoder", 'trackers=["tensorboard"]', ["tensorboard"]),
        ("generator", "ada_images=5e5", 500_000),
        ("generator", "channels={4 = 8, 8 = 8, 16 = 8, 32 = 8, 64 = 8}", dict.fromkeys("4 8 16 32 64".split(), 8)),
    ],
)
def test_what_is_meant_is_taken(stage, assignment, value):
    given = getattr(load(stage, assignment), assignment.partition("=")[0])
    assert given == value and type(given) is type(value)


def test_python_objects_may_be_tuples_and_paths():
    config = TrainingConfig(data=Path("a"), output="b", adam_betas=(0, 0.5))
    assert (config.data, config.adam_betas) == ("a", [0.0, 0.5])
    with pytest.raises(TypeError):
        TrainingConfig(data="a")


def test_none_takes_back_what_the_recipe_says():
    names = ["widen_stem", "train_dipn", "ssim_weight", "steps"]
    recipe = load("compensation", path="cats64_compensation_third")
    unset = load("compensation", *(f"{name}=None" for name in names), path="cats64_compensation_third")
    assert [getattr(recipe, name) for name in names] == [[64, 192], False, 1.0, 1800]
    assert [getattr(unset, name) for name in names] == [None, True, 0.0, 10_000]
    assert load("generator", "augmentation=none", path="cats64_generator").augmentation == "none"
    assert load("compensation", "widen_stem=none", "widen_stem=[64, 64]").widen_stem == [64, 64]


@pytest.mark.parametrize("stage", STAGES)
def test_settings_that_may_be_none_are_none_by_default(stage):
    """So that `key=none` means the same whether it is read as the value or as taking back."""
    for field in dataclasses.fields(STAGES[stage]):
        if rules_of(STAGES[stage])[field.name].needed.endswith("or none"):
            assert field.default is None


@pytest.mark.parametrize("recipe", sorted(path.stem for path in RECIPES.glob("*.toml")))
def test_every_recipe_is_sound(recipe):
    stage = next(stage for stage in STAGES if f"_{stage}" in recipe)
    config = load(stage, path=recipe)
    assert type(config)(**settings_of(config)) == config


def test_choices_are_those_of_the_code():
    assert POLICIES == ("colour", "translation", "cutout")
    assert set(get_args(Augmentation)) == {"none", "diffaugment", "adaptive"}


# ------------------------------------------------------------------------------------------------ places


@pytest.fixture
def photos(tmp_path) -> Path:
    (tmp_path / "photos").mkdir()
    for i in range(3):
        Image.new("RGB", (16, 16), (80 * i, 0, 0)).save(tmp_path / "photos" / f"{i}.png")
    return tmp_path / "photos"


@pytest.fixture
def specials(tmp_path) -> dict[str, str]:
    """Things that are neither files nor folders, of which some could be read without end, and others block."""
    os.mkfifo(tmp_path / "pipe.zip")
    listener = socket.socket(socket.AF_UNIX)
    listener.bind(str(tmp_path / "socket"))
    (tmp_path / "dangling").symlink_to(tmp_path / "gone")
    yield {
        "device": "/dev/zero",
        "pipe": str(tmp_path / "pipe.zip"),
        "socket": str(tmp_path / "socket"),
        "link to nothing": str(tmp_path / "dangling"),
        "nothing": str(tmp_path / "nothing"),
        "name too long": str(tmp_path / ("x" * 300)),
        "text file": __file__,
    }
    listener.close()


def places(photos: Path, **changes) -> CompensationTrainingConfig:
    values = {"data": str(photos), "output": str(photos.parent / "run"), "cache": str(photos.parent / "cache")}
    return CompensationTrainingConfig(**{**values, **changes})


def check(photos: Path, **changes) -> str:
    """What is said of places that cannot serve; nothing is left behind."""
    before = sorted(photos.parent.rglob("*"))
    with pytest.raises(SDICError) as error:
        check_places(places(photos, **changes))
    assert len(str(error.value)) < 500 and is_sentence(str(error.value))
    assert before == sorted(photos.parent.rglob("*"))
    return str(error.value)


@pytest.mark.parametrize(
    "kind", ["device", "pipe", "socket", "link to nothing", "nothing", "name too long", "text file"]
)
def test_only_folders_and_zips_are_data(photos, specials, kind):
    for name in ("data", "validation"):
        assert re.match(r"The data .* is neither a folder nor a zip file", check(photos, **{name: specials[kind]}))
    if kind != "text file":
        assert f"lpips is '{specials[kind][:20]}" in check(photos, lpips=specials[kind])
        assert f"labels is '{specials[kind][:20]}" in check(photos, labels=specials[kind], balance=["age"])
        with pytest.raises(SDICError, match="cannot be read"):
            load("encoder", path=specials[kind])


def test_folders_that_serve_are_left_as_they_were(photos):
    check_places(places(photos))
    assert sorted(path.name for path in photos.parent.iterdir()) == ["photos"]


@pytest.mark.parametrize("name", ["output", "cache"])
@pytest.mark.parametrize(
    "place", ["/proc/zz", "/dev/null", "/dev/null/x", "photos/0.png", "photos/0.png/x", "x" * 300]
)
def test_folders_that_cannot_be_written_are_named(photos, name, place):
    place = place if place.startswith("/") else str(photos.parent / place)
    assert re.match(
        rf"The {'output' if name == 'output' else 'folder'} .* cannot be written",
        check(photos, **{name: place}),
    )


@pytest.mark.parametrize("name", ["checkpoints", "samples", "model"])
def test_a_file_in_the_way_of_the_run_is_named(photos, name):
    (photos.parent / "run").mkdir()
    (photos.parent / "run" / name).write_text("")
    assert re.search(rf"{name}' is no folder", check(photos))


@pytest.mark.parametrize("name", ["config.json", "log.jsonl"])
def test_a_folder_in_the_way_of_the_run_is_named(photos, name):
    (photos.parent / "run" / name).mkdir(parents=True)
    assert f"{name} in it is no file" in check(photos)


def test_a_run_does_not_write_among_its_images(photos):
    assert "lies in the folder of the images" in check(photos, output=str(photos / "run"))


def test_read_only_disks_are_named(photos, tmp_path):
    (tmp_path / "disk").mkdir()
    command = ["mount", "-t", "tmpfs", "-o", "ro", "tmpfs", str(tmp_path / "disk")]
    if shutil.which("mount") is None or subprocess.run(command, capture_output=True).returncode:
        pytest.skip("file systems cannot be mounted here")
    try:
        assert "Read-only file system" in check(photos, output=str(tmp_path / "disk/run"))
        assert "Read-only file system" in check(photos, cache=str(tmp_path / "disk/cache"))
    finally:
        subprocess.run(["umount", str(tmp_path / "disk")], check=True)


def test_picture_files_are_read_to_a_bound(tmp_path):
    path = tmp_path / "a.png"
    with open(path, "wb") as file:
        file.truncate(1000)
    assert len(read_file(path, 1000)) == 1000
    with pytest.raises(OSError, match="it has 1000 bytes, and at most 999 are read"):
        read_file(path, 999)
    with pytest.raises(OSError, match="no regular file"):
        read_file(Path("/dev/zero"))
    with pytest.raises(SDICError, match="an empty name"):
        open_source("")


@pytest.mark.parametrize("stage", ["generator", "encoder", "compensation"])
@pytest.mark.parametrize(
    ("assignment", "message"),
    [
        ("output=/proc/zz", "The output '/proc/zz' cannot be written"),
        ("data=/dev/zero", "The data /dev/zero is neither a folder nor a zip file"),
        ("cache=/proc/zz", "The folder /proc/zz for decoded images cannot be written"),
        ("batch_size=4.5", "batch_size is 4.5"),
    ],
)
def test_command_says_so_before_any_work(photos, capsys, stage, assignment, message):
    """The model that would be loaded first is not even looked for."""
    places = [f"data={photos}", f"output={photos.parent / 'run'}", f"cache={photos.parent / 'cache'}", assignment]
    assert (
        main(["train", stage, "--from", "no such model", *(part for each in places for part in ("--set", each))]) == 2
    )
    said = capsys.readouterr().err
    assert said.startswith(f"sdic: {message}") and said.count("\n") == 1
    assert sorted(path.name for path in photos.parent.iterdir()) == ["photos"]


@pytest.mark.parametrize(
    ("option", "value", "message"),
    [
        ("--learning-rate", "nan", "learning_rate is nan, but must be a number in"),
        ("--steps", "0", "steps is 0, but must be a whole number"),
        ("--images", "0", "--images is below 1"),
        ("--out", "/proc/zz", "--out '/proc/zz' cannot be written"),
    ],
)
def test_tuning_says_so_before_any_work(photos, option, value, message):
    arguments = ["--model", "no such model", "--data", str(photos), "--out", str(photos.parent / "tuned")]
    with pytest.raises(SDICError, match=message):
        tune([*arguments, option, value])


def test_sdic_data_tries_its_folder_first(photos):
    with pytest.raises(SDICError, match="The folder '/proc/zz' cannot be made or written"):
        rebuild_cats64(photos, "/proc/zz")
    with pytest.raises(SDICError, match="empty name"):
        rebuild_cats64("", photos.parent / "out")
    os.mkfifo(photos / "pipe.zip")
    with pytest.raises(SDICError, match="are not among the 3 files"):
        rebuild_cats64(photos, photos.parent / "out")


def test_settings_of_earlier_versions_can_be_resumed(tmp_path):
    """Numbers were stored as they were given: 4.0 and 1 are the same settings as 4 and 1.0."""
    from sdic_plugin.training.checkpoints import Checkpoint, check_settings

    config = TrainingConfig(data="a", output="b", batch_size=4, learning_rate=1, gradient_accumulation=1)
    before = {**settings_of(config), "batch_size": 4.0, "learning_rate": 1, "seed": 0.0, "no_longer_known": 3}
    del before["trackers"]
    check_settings(config, Checkpoint(tmp_path, 3, {"settings": before}, {}), "3 images", 1)
