"""Measures what a model's own kind of picture is like, so that `invert` warns of photos that look otherwise.

Run: python -m sdic_plugin.training.subject --model DIR --data PHOTOS

PHOTOS are aligned pictures of the model's subject, 50 or more (some hundred give a better threshold), best such as its
networks have not seen. Only `model_index.json` is written, so it serves converted models too; trained ones have it
from their validation images. See `sdic_plugin.pipeline.subject_check`.
"""

from __future__ import annotations

import argparse
import json
import sys
from collections.abc import Sequence
from pathlib import Path

from sdic_plugin.checkpoints.components import find_model
from sdic_plugin.checkpoints.folder import read_json
from sdic_plugin.errors import SDICError, shorten
from sdic_plugin.images.cache import load_images
from sdic_plugin.pipeline.sdic import SDICPipeline
from sdic_plugin.pipeline.subject_check import SubjectReference
from sdic_plugin.utils.files import replacing_file


def note_subject(
    model: Path, photos: str | Path, limit: int | None = None, every_other: bool = False
) -> SubjectReference:
    """Measure it on photos, and write it into the `model_index.json` of a model's folder.

    Args:
        model: Folder of the whole model.
        photos: Folder, zip or data set of aligned pictures of its subject.
        limit: Number of pictures, from the first on; None takes all.
        every_other: Leave the second, fourth … out, such as to find error rates on them.

    Raises:
        SDICError: If the model or the photos cannot be read, or there are too few.
    """
    pipe = SDICPipeline.from_pretrained(model)
    pipe.set_progress_bar_config(unit="batch", delay=1)
    images = load_images(photos, pipe.encoder.config.image_size, limit)
    reference = pipe.learn_subject(images[::2] if every_other else images)
    index = model / "model_index.json"
    content = {**read_json(index), "subject": reference.to_dict()}
    with replacing_file(index) as temporary:
        temporary.write_text(json.dumps(content, indent=2, sort_keys=True) + "\n", encoding="utf-8")
    return reference


def main(arguments: Sequence[str] | None = None) -> None:
    """Parse the command line and measure."""
    parser = argparse.ArgumentParser(description=__doc__.splitlines()[0])
    parser.add_argument("--model", required=True, help="folder of a whole model, or of the run that made it")
    parser.add_argument("--data", required=True, help="folder or zip of aligned pictures of its subject")
    parser.add_argument("--limit", type=int, help="number of pictures, from the first on")
    parser.add_argument("--every-other", action="store_true", help="leave every second picture out")
    options = parser.parse_args(arguments)
    try:
        if not Path(options.model).is_dir():
            raise SDICError(f"The model {shorten(options.model)} is no folder: give one, for its index is rewritten.")
        folder = find_model(options.model)
        reference = note_subject(folder, options.data, options.limit, options.every_other)
    except SDICError as error:
        sys.exit(f"subject: {error}")
    print(f"{folder / 'model_index.json'} knows its subject from {reference.pictures} pictures")


if __name__ == "__main__":
    main()
