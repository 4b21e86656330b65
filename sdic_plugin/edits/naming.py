"""How edits are named and grouped for people, beside their sliders."""

from __future__ import annotations

from sdic_plugin.edits.base import Edit


def edit_title(edit: Edit) -> str:
    """Name an edit for people: "eye_size" is "Eye size"."""
    words = edit.name.replace("_", " ")
    return words[:1].upper() + words[1:]


def edit_group(edit: Edit, num_styles: int) -> str:
    """Name the group of sliders an edit belongs to: early styles move shapes, late ones paint."""
    if edit.layers is None:
        return "Look"
    return "Shape" if sum(edit.layers) / 2 < num_styles / 2 else "Colour"
