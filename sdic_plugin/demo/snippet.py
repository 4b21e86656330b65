"""Python code that makes, without the page, what the page shows."""

from __future__ import annotations

import torch

from sdic_plugin.demo.sessions import Session
from sdic_plugin.images.alignment import FEATHER

TEMPLATE = """\
{import_torch}from sdic_plugin import {imports}
from sdic_plugin.photos.photo import crop_photo

pipe = SDICPipeline.from_pretrained({name!r}{dtype})
{load_edits}photo = load_image("photo.jpg")  # the photo you gave
{crop}
inversion = pipe.invert(crop)  # once per photo
before = pipe.edit(inversion).images[0]
edited = pipe.edit({arguments}).images[0]
edited.save("edited.png")
paste_back("photo.jpg", edited, alignment{reference}{feather}).save("photo_edited.png")
"""


def write_snippet(name: str, session: Session, dtype: torch.dtype = torch.float32) -> str:
    """Write code that gives the session's last edit, pixel for pixel.

    Args:
        name: The model's bundled name or Hub id.
        session: With an alignment.
        dtype: What the model computes in.
    """
    settings, marks = session.settings, session.landmarks
    imports = ["SDICPipeline", "load_image", "paste_back"]
    if marks is None:
        eyes = tuple(value for eye in session.eyes for value in eye) if len(session.eyes) == 2 else None
        crop = f"crop, alignment = crop_photo(pipe, photo, {eyes!r})"
    else:
        imports += ["FaceLandmarks", "align_face", "read_template"]
        crop = (
            f"marks = FaceLandmarks({marks.left_eye}, {marks.right_eye}, {marks.left_mouth}, {marks.right_mouth})\n"
            "height, width = pipe.image_size\n"
            "crop, alignment = align_face(photo, marks, read_template(pipe.config.alignment), width, height)"
        )
    strengths = {edit: value for edit, value in settings.strengths.items() if value}
    arguments = ["inversion"]
    if strengths:
        arguments.append(f"edits={strengths!r}")
    if settings.compensation != 1:
        arguments.append(f"compensation={settings.compensation!r}")
    if settings.mask is not None:
        arguments.append('mask="auto"' if isinstance(settings.mask, str) else 'mask="mask.png"')
    code = TEMPLATE.format(
        imports=", ".join(sorted(imports, key=str.lower)),
        import_torch="" if dtype == torch.float32 else "import torch\n\n",
        name=name,
        dtype="" if dtype == torch.float32 else f", dtype={dtype}",
        load_edits="".join(f"pipe.load_edits({source!r})\n" for source in session.edit_sources),
        crop=crop,
        arguments=", ".join(arguments),
        reference=", reference=before" if settings.difference else "",
        feather="" if settings.feather == FEATHER else f", feather={settings.feather!r}",
    )
    return code if marks is None else code.replace("from sdic_plugin.photos.photo import crop_photo\n", "")
