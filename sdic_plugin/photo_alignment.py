"""Crops of many photos, as files: what `sdic align` runs."""

from __future__ import annotations

import json
from collections.abc import Sequence
from pathlib import Path

from PIL import Image

from sdic_plugin.alignment import Alignment
from sdic_plugin.atomic import replacing_file
from sdic_plugin.errors import SDICError
from sdic_plugin.face_alignment import Template, align_eyes, align_face
from sdic_plugin.face_detection import choose_face, detect_faces, find_detector
from sdic_plugin.image_processor import load_image
from sdic_plugin.photos import Photo, PhotoSummary

ALL_FACES = "all"


def align_photos(
    photos: Sequence[Photo],
    output: Path,
    template: Template,
    width: int,
    height: int,
    face: str | int = "largest",
    detector: str | None = None,
) -> PhotoSummary:
    """Crop photos and write `NAME.png` and `NAME.json` (what `Alignment.from_dict` reads) for each.

    Args:
        photos: The photos; where eyes are given, nothing is searched.
        output: Folder for the files; made if needed.
        template: Where eyes (and mouth) belong.
        width: Width of the crops in pixels.
        height: Height of the crops in pixels.
        face: "largest", "all" (`NAME_0.png` … from the left), or a number counted from the left.
        detector: File of the face detector; see `sdic_plugin.face_detection`.

    Returns:
        What was written, and the reasons of photos that failed.

    Raises:
        SDICError: If the size is not positive, or there is no face detector and one is needed.
    """
    if width < 1 or height < 1:
        raise SDICError(f"A crop of {width} x {height} was asked for and positive sides are needed.")
    if any(photo.eyes is None for photo in photos):
        detector = str(find_detector(detector))  # once: a Hub out of reach keeps one waiting
    output.mkdir(parents=True, exist_ok=True)
    summary = PhotoSummary()
    for photo in photos:
        try:
            for name, crop, alignment in _crops(photo, template, (width, height), face, detector):
                summary.written += _write(output / name, crop, alignment)
        except (SDICError, OSError) as error:
            summary.failed[photo.label] = str(error)
    return summary


def _crops(
    photo: Photo, template: Template, size: tuple[int, int], face: str | int, detector: str | None
) -> list[tuple[str, Image.Image, Alignment]]:
    picture = load_image(photo.source)
    if photo.eyes is not None:
        return [(photo.name, *align_eyes(picture, photo.eyes, template, *size))]
    found = detect_faces(picture, detector)
    if face == ALL_FACES and found:
        chosen = {f"{photo.name}_{index}": choose_face(found, index) for index in range(len(found))}
    else:
        chosen = {photo.name: choose_face(found, "largest" if face == ALL_FACES else face)}
    return [(name, *align_face(picture, each.landmarks, template, *size)) for name, each in chosen.items()]


def _write(path: Path, crop: Image.Image, alignment: Alignment) -> list[Path]:
    picture, values = path.with_name(f"{path.name}.png"), path.with_name(f"{path.name}.json")
    with replacing_file(picture) as temporary:
        crop.save(temporary, format="PNG")
    with replacing_file(values) as temporary:
        Path(temporary).write_text(json.dumps(alignment.to_dict(), indent=2) + "\n", encoding="utf-8")
    return [picture, values]
