"""Which photos files and folders hold, each with a name of its own."""

from __future__ import annotations

import logging
import os
from collections.abc import Sequence
from pathlib import Path

from sdic_plugin.errors import SDICError
from sdic_plugin.photos.inputs import IMAGE_SUFFIXES, UNREAD_SUFFIXES, Eyes, Photo
from sdic_plugin.photos.results import EDITED, fold_name, is_result

logger = logging.getLogger(__name__)


def find_photos(
    paths: Sequence[str | os.PathLike[str]],
    eyes: Eyes | None = None,
    output: str | os.PathLike[str] | None = None,
    results: Sequence[str] = (EDITED,),
) -> list[Photo]:
    """List the photos that files and folders (searched to any depth) hold; names are made to differ.

    Args:
        paths: The files and folders.
        eyes: The eye centres of a single photo.
        output: Folder that results go to. No photos are searched in it, should it lie within one of the folders; in
            it, or if it is one of the folders, earlier results are no photos.
        results: Kinds of files that count as results; see `sdic_plugin.photos.results`.

    Raises:
        SDICError: If there is none, or eyes were given for several.
    """
    folder = None if output is None else Path(output).resolve()
    found: list[tuple[Path, Path]] = []
    unread = 0
    for path in map(Path, paths):
        if path.is_dir():
            files = [p for p in path.rglob("*") if p.is_file()]
            unread += sum(p.suffix.lower() in UNREAD_SUFFIXES for p in files)
            inside = sorted(p for p in files if p.suffix.lower() in IMAGE_SUFFIXES)
            if folder is not None and folder != path.resolve() and folder.is_relative_to(path.resolve()):
                inside = [p for p in inside if not p.resolve().is_relative_to(folder)]
            found += [(p, p.relative_to(path)) for p in inside]
        else:
            found.append((path, Path(path.name)))
    photos = [pair for pair in found if pair[0].resolve().parent != folder or not is_result(pair[0], results)]
    heic = f"HEIC (.heic, .heif) cannot be read, and files left out for it are {unread}: convert them to JPEG first."
    if not photos:
        where = ", ".join(map(str, paths)) or "nothing"
        if unread:
            raise SDICError(f"No photo that can be read was found in {where}: {heic}")
        kept = f" but earlier results in {output}, which is --out" if found else ""
        raise SDICError(f"No photo was found in {where}{kept}: give picture files or folders.")
    if unread:
        logger.warning(heic)
    if len(photos) < len(found):
        logger.warning(f"{len(found) - len(photos)} earlier results in {output} are not taken for photos.")
    if eyes is not None and len(photos) > 1:
        raise SDICError(f"--eyes was given for {len(photos)} photos, but eye points belong to one: give one photo.")
    return _named(photos, eyes)


def _named(found: Sequence[tuple[Path, Path]], eyes: Eyes | None) -> list[Photo]:
    """Name photos, given as paths and relative paths, so that names differ on every file system."""
    photos, taken = [], set()
    for path, relative in found:
        stem = "_".join(relative.with_suffix("").parts)
        name, number = stem, 2
        while fold_name(name) in taken:
            name, number = f"{stem}_{number}", number + 1
        taken.add(fold_name(name))
        photos.append(Photo(name, path, eyes, stem))
    return photos
