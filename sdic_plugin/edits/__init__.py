"""Edits: one file per family, their file format, and the loader that gives them to a pipeline."""

from sdic_plugin.edits.base import Edit
from sdic_plugin.edits.files import read_edits, write_edits
from sdic_plugin.edits.ganspace import GANSpaceEdit
from sdic_plugin.edits.interfacegan import DirectionEdit
from sdic_plugin.edits.loader import EditsLoaderMixin
from sdic_plugin.edits.stylespace import StyleSpaceEdit

__all__ = [
    "DirectionEdit",
    "Edit",
    "EditsLoaderMixin",
    "GANSpaceEdit",
    "StyleSpaceEdit",
    "read_edits",
    "write_edits",
]
