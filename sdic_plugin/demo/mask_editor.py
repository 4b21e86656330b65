"""The editor in which visitors paint where the edit wins: it reads one painted layer, and looks at its size first."""

from __future__ import annotations

import threading
from abc import ABCMeta
from collections import OrderedDict
from typing import Any, ClassVar

import gradio as gr
from gradio.component_meta import ComponentMeta
from gradio.components.base import server
from gradio.components.image_editor import AcceptBlobs, EditorData, EditorValue

from sdic_plugin.demo.limits import decode_layer
from sdic_plugin.errors import ImageError

MOST_PAINTINGS = 64
"""Layers that were sent and not asked for yet; the oldest go first."""

LAYER_BYTES = 1 << 20


class _WithoutStub(ComponentMeta):
    """Gradio writes a .pyi file beside the source of every new kind of component; this one has no events to list."""

    def __new__(cls, name: str, bases: tuple[type, ...], attributes: dict[str, Any]) -> type:
        """Make the class and nothing else."""
        return ABCMeta.__new__(cls, name, bases, attributes)


class MaskEditor(gr.ImageEditor, metaclass=_WithoutStub):
    """Gradio's image editor, reading the painted layer alone.

    Gradio decodes background, every layer and the composite, of any size, although the page needs one layer. Here the
    rest is thrown away as it comes, and a layer's size is read from its header before it is decoded.
    """

    is_template = True  # so that Gradio takes the original's part of the page

    # Of the class, since Gradio makes editors anew for visitors whose editor changes.
    _paintings: ClassVar[OrderedDict[str, bytes]] = OrderedDict()
    _lock: ClassVar[threading.Lock] = threading.Lock()

    @server
    def accept_blobs(self, data: AcceptBlobs) -> None:
        """Keep the painted layer that the browser sends ahead of a request, until that comes."""
        fields, files = data.data, data.files
        name = str(fields.get("id", ""))[:40]
        if fields.get("type") != "layer" or str(fields.get("index")) != "0" or not name or not files:
            return
        content = files[0][1]
        if len(content) > LAYER_BYTES:
            return
        with self._lock:
            self._paintings[name] = content
            while len(self._paintings) > MOST_PAINTINGS:
                self._paintings.popitem(last=False)

    def preprocess(self, payload: EditorData | None) -> EditorValue | None:
        """Read what was painted: one layer, an RGBA picture, or none; never a background or composite.

        Raises:
            gr.Error: If the layer is no picture, or larger than the editor's own.
        """
        if payload is None:
            return None
        if payload.id is not None:
            with self._lock:
                content = self._paintings.pop(str(payload.id)[:40], None)
        else:
            layers = [layer for layer in payload.layers or [] if layer is not None]
            if len(layers) > 1:
                raise gr.Error("The mask has several layers: paint on one.", print_exception=False)
            content = None if not layers else _read(layers[0].path)
        if content is None:
            return EditorValue(background=None, layers=[], composite=None)
        try:
            return EditorValue(background=None, layers=[decode_layer(content)], composite=None)
        except ImageError as error:
            raise gr.Error(str(error), print_exception=False) from error


def _read(path: str) -> bytes:
    with open(path, "rb") as file:
        content = file.read(LAYER_BYTES + 1)
    if len(content) > LAYER_BYTES:
        raise gr.Error("The mask's file is larger than 1 MB: paint it in the page's editor.", print_exception=False)
    return content
