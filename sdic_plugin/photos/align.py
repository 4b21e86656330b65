"""Crops of many photos, as files: what `sdic align` runs."""

from __future__ import annotations

import json
from collections.abc import Mapping, Sequence
from pathlib import Path

from PIL import Image

from sdic_plugin.errors import SDICError
from sdic_plugin.images.alignment import Alignment
from sdic_plugin.images.face_alignment import Template, align_eyes, align_face
from sdic_plugin.images.face_detection import choose_face, detect_faces
from sdic_plugin.images.reading import load_image
from sdic_plugin.images.sheets import save_picture
from sdic_plugin.photos.photo import Photo, PhotoSummary, needed_detector
from sdic_plugin.photos.results import ALIGNED, PhotoIdentity, ResultNames
from sdic_plugin.utils.files import check_output_folder, replacing_file

ALL_FACES = "all"

MAX_SIDE = 4096
"""Longest side of a crop in pixels: four times what the largest published generators draw."""


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
        detector: File of the face detector; see `sdic_plugin.images.face_detection`.

    Returns:
        What was written, and the reasons of photos that failed.

    Raises:
        SDICError: If the size is not possible, the folder cannot be written, or there is no face detector and one is
            needed.
    """
    if not (1 <= width <= MAX_SIDE and 1 <= height <= MAX_SIDE):
        raise SDICError(f"A crop of {width} x {height} was asked for and sides of 1 to {MAX_SIDE} pixels are needed.")
    check_output_folder(output)
    detector = needed_detector(photos, face, detector)
    output.mkdir(parents=True, exist_ok=True)
    summary, names = PhotoSummary(), ResultNames(photos, output)
    for photo in photos:
        try:
            crops = _crops(photo, template, (width, height), face, detector)
            ends = [f"{end}.png" for end in crops]
            name = names.choose(photo, ends, _is_older_crop)
            metadata = PhotoIdentity(photo).mark(ALIGNED).to_metadata()
            for end, (crop, alignment) in crops.items():
                summary.written += _write(output / f"{name}{end}", crop, alignment, metadata)
        except (SDICError, OSError) as error:
            summary.fail(photo, error)
    return summary


def _crops(
    photo: Photo, template: Template, size: tuple[int, int], face: str | int, detector: str | None
) -> dict[str, tuple[Image.Image, Alignment]]:
    """Crop a photo; returns crops by the end of their names."""
    picture = load_image(photo.source)
    if photo.eyes is not None:
        return {"": align_eyes(picture, photo.eyes, template, *size)}
    found = detect_faces(picture, detector)
    if face == ALL_FACES and found:
        chosen = {f"_{index}": choose_face(found, index) for index in range(len(found))}
    else:
        chosen = {"": choose_face(found, "largest" if face == ALL_FACES else face)}
    return {end: align_face(picture, each.landmarks, template, *size) for end, each in chosen.items()}


def _is_older_crop(path: Path) -> bool:
    """Whether a picture without a mark is a crop that an older version wrote, rather than somebody's photo."""
    return path.with_suffix(".json").is_file()


def _write(path: Path, crop: Image.Image, alignment: Alignment, metadata: Mapping[str, str]) -> list[Path]:
    picture, values = path.with_name(f"{path.name}.png"), path.with_name(f"{path.name}.json")
    save_picture(crop, picture, metadata)
    with replacing_file(values) as temporary:
        Path(temporary).write_text(json.dumps(alignment.to_dict(), indent=2) + "\n", encoding="utf-8")
    return [picture, values]
