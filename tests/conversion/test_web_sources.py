"""The page's own resampling, aligning and pasting back, run by Node, against `sdic_plugin.images`, pixel by pixel."""

from __future__ import annotations

import json
import shutil
import subprocess
from pathlib import Path

import numpy as np
import pytest
from PIL import Image
from testing.templates import CATS64_TEMPLATE

from sdic_plugin.images.alignment import (
    Alignment,
    AlignmentTemplate,
    align_by_eyes,
    paste_back,
    two_point_alignment,
)
from sdic_plugin.images.face_alignment import FaceLandmarks, FFHQTemplate, align_eyes, align_face
from sdic_plugin.images.face_detection import _with_longer_side, cut_window
from sdic_plugin.images.processor import SDICImageProcessor
from sdic_plugin.photos.photo import load_example

SOURCES = Path(__file__).parents[2] / "web"
pytestmark = [
    pytest.mark.skipif(shutil.which("node") is None, reason="Node is not installed"),
    pytest.mark.skipif(not (SOURCES / "node_modules/esbuild").is_dir(), reason="run npm ci in web/ first"),
]
PROGRAM = """
import {{ readFileSync, writeFileSync }} from "node:fs";
import * as crops from "{sources}/src/crops";
import * as geometry from "{sources}/src/geometry";
import * as resampling from "{sources}/src/resampling";
const [folder] = process.argv.slice(2);
const read = (name) => readFileSync(`${{folder}}/${{name}}`);
const photo = (name, [width, height]) => ({{ width, height, data: new Uint8ClampedArray(read(name)) }});
const picture = (name, [width, height]) => ({{ width, height, channels: 3, data: Float32Array.from(read(name)) }});
const {{ task, given }} = JSON.parse(read("task.json"));
const tasks = {{
  eyes: ({{ size, photoSize, eyes, template }}) =>
    crops.takeCrop(photo("photo", photoSize), geometry.alignEyes(eyes, template, size, photoSize)),
  faceEyes: ({{ size, photoSize, eyes, template }}) =>
    crops.takeFaceCrop(photo("photo", photoSize), geometry.alignEyes(eyes, template, size, photoSize)),
  face: ({{ size, photoSize, marks, template }}) =>
    crops.takeFaceCrop(photo("photo", photoSize), geometry.alignFace(marks, template, size[0], photoSize)),
  window: ({{ size, photoSize, eyes, template }}) =>
    crops.cutWindow(photo("photo", photoSize), geometry.alignTwoPoints(...eyes, template, size, photoSize)),
  middle: ({{ size, photoSize }}) => crops.takeMiddle(photo("photo", photoSize), size),
  scale: ({{ size, photoSize }}) => resampling.scalePhoto(photo("photo", photoSize), ...size),
  paste: ({{ alignment, photoSize, size }}) =>
    crops.pasteDifference(photo("photo", photoSize), picture("crop", size), picture("reference", size), alignment),
}};
writeFileSync(`${{folder}}/answer`, Uint8Array.from(tasks[task](given).data));
"""
CAT, PERSON = load_example("chelsea"), load_example("astronaut")
FFHQ = {"rule": "ffhq", "eye_scale": 2.0, "mouth_scale": 1.8, "shift": 0.1}


@pytest.fixture(scope="module")
def program(tmp_path_factory) -> Path:
    folder = tmp_path_factory.mktemp("program")
    (folder / "main.ts").write_text(PROGRAM.format(sources=SOURCES.as_posix()))
    command = [
        SOURCES / "node_modules/.bin/esbuild",
        folder / "main.ts",
        "--bundle",
        "--format=esm",
        "--platform=node",
    ]
    subprocess.run([*command, f"--outfile={folder / 'main.mjs'}", "--log-level=error"], check=True)
    return folder / "main.mjs"


@pytest.fixture
def ask(program, tmp_path):
    def run(task: str, photo: Image.Image, channels: int = 3, pictures=None, **given) -> np.ndarray:
        (tmp_path / "photo").write_bytes(photo.convert("RGBA").tobytes())
        for name, each in (pictures or {}).items():
            (tmp_path / name).write_bytes(each.tobytes())
        given["photoSize"] = photo.size
        (tmp_path / "task.json").write_text(json.dumps({"task": task, "given": given}))
        subprocess.run(["node", program, tmp_path], check=True)
        width, height = photo.size if task == "paste" else given["size"]
        return np.frombuffer((tmp_path / "answer").read_bytes(), np.uint8).reshape(height, width, channels).astype(int)

    return run


def assert_same(found: np.ndarray, wanted: Image.Image, share: float = 0.002) -> None:
    """Equal but for a level here and there, where rounding is a matter of the last bit."""
    off = np.abs(found - np.asarray(wanted).astype(int))
    assert off.max() <= 1 and (off > 0).mean() < share


@pytest.mark.parametrize("size", [16, 64, 512])
def test_crops_by_eyes(ask, size):
    template = CATS64_TEMPLATE.to_dict()
    for eyes in (CAT.eyes, (316.0, 20.5, 172.0, 113.25)):  # the second reaches far beyond the photo
        wanted, _ = align_by_eyes(CAT.source, eyes, CATS64_TEMPLATE, size, size)
        found = ask("eyes", CAT.source, eyes=[eyes[:2], eyes[2:]], size=[size, size], template=template)
        assert_same(found, wanted)


@pytest.mark.parametrize("size", [32, 128, 256])
def test_crops_of_faces(ask, size):
    for scale, move in ((1, 0), (1, -90), (3, 20)):  # as it is, over the border, much larger than the crop
        photo = PERSON.source.resize((512 * scale, 512 * scale), Image.Resampling.BICUBIC)
        points = np.array([(204, 99), (248, 106), (0, 0), (202, 141), (240, 146)]) + np.array([move, move / 2])
        marks = FaceLandmarks.from_points(points * scale)
        wanted, _ = align_face(photo, marks, FFHQTemplate(), size, size)
        names = {"leftEye": marks.left_eye, "rightEye": marks.right_eye}
        names |= {"leftMouth": marks.left_mouth, "rightMouth": marks.right_mouth}
        assert_same(ask("face", photo, marks=names, size=[size, size], template=FFHQ), wanted)
    eyes = PERSON.eyes
    wanted, _ = align_eyes(PERSON.source, eyes, FFHQTemplate(), size, size)
    assert_same(ask("faceEyes", PERSON.source, eyes=[eyes[2:], eyes[:2]], size=[size, size], template=FFHQ), wanted)


@pytest.mark.parametrize(
    ("left", "right"),
    [((150, 90), (330, 120)), ((200, 150), (260, 140)), ((380, 200), (230, 290)), ((-90.3, 40.2), (60.1, 10.0)),
     ((-400, -300), (-200, -310)), ((210, 150), (240, 152)), ((-300, 200), (900, 180))],
)  # fmt: skip
def test_windows_that_faces_are_looked_at_in(ask, left, right):
    edges = AlignmentTemplate((0.0, 0.5), (1.0, 0.5))
    wanted = cut_window(CAT.source, two_point_alignment(left, right, edges, (96, 96), CAT.source.size))
    found = ask("window", CAT.source, eyes=[left, right], size=[96, 96], template=edges.to_dict())
    assert_same(found, wanted)


@pytest.mark.parametrize("size", [(64, 64), (48, 64), (300, 451), (800, 300)])
def test_the_middle(ask, size):
    processor = SDICImageProcessor(size[1], size[0])
    wanted = processor.postprocess(processor.preprocess(CAT.source), "pil")[0]
    assert_same(ask("middle", CAT.source, size=size), wanted)


@pytest.mark.parametrize(("side", "photo_size"), [(640, (451, 300)), (256, (3001, 2111)), (640, (2001, 1403))])
def test_scaled_photos_that_faces_are_sought_in(ask, side, photo_size):
    photo = CAT.source.resize(photo_size, Image.Resampling.BICUBIC)
    wanted = _with_longer_side(photo, side)
    assert_same(ask("scale", photo, size=wanted.shape[1::-1]), Image.fromarray(wanted))


@pytest.mark.parametrize("scale", [0.2, 1, 4])
@pytest.mark.parametrize("turned", [False, True])
def test_pasting_back(ask, scale, turned):
    photo = CAT.source.resize((round(451 * scale), round(300 * scale)), Image.Resampling.BICUBIC).convert("RGBA")
    alpha = np.full(photo.size[::-1], 255, np.uint8)
    alpha[:, : photo.width // 2] = 128
    alpha[: photo.height // 4] = 0
    photo.putalpha(Image.fromarray(alpha))
    factor = 0.2 / scale
    matrix = ((factor, -0.03 / scale if turned else 0, -12.0), (0.03 / scale if turned else 0, factor, -4.5))
    alignment = Alignment(matrix, (64, 64), photo.size)
    crop, reference = (CAT.source.resize((64, 64)), CAT.source.rotate(20).resize((64, 64)))
    given = {"matrix": matrix, "cropSize": [64, 64], "photoSize": photo.size}
    pictures = {"crop": crop, "reference": reference}
    found = ask("paste", photo, 4, pictures, alignment=given, size=[64, 64])
    assert_same(found, paste_back(photo, crop, alignment, reference))
