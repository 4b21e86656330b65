"""What a command's process need not import."""

from __future__ import annotations

import sys
from types import ModuleType

UNUSED = ("peft", "scipy", "transformers")
"""Packages that diffusers imports along with its pipeline class wherever they are installed."""


def import_diffusers() -> None:
    """Import diffusers as if the `UNUSED` packages were not installed: they take as long as diffusers itself.

    diffusers needs them for LoRA adapters, text encoders and schedulers, none of which a command has; afterwards they
    can be imported as ever, as skimage and CLIP do. This is about the whole process, so it is for the command line
    only, and does nothing if diffusers was imported before.
    """
    if "diffusers" in sys.modules:
        return
    missing = [name for name in UNUSED if name not in sys.modules]
    modules: dict[str, ModuleType | None] = sys.modules  # type: ignore[assignment]  # None: "cannot be imported"
    modules.update(dict.fromkeys(missing))
    try:
        from diffusers import DiffusionPipeline  # noqa: F401
    finally:
        for name in missing:
            modules.pop(name, None)
