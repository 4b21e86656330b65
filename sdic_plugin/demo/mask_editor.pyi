"""The editor in which visitors paint where the edit wins: it reads one painted layer, and looks at its size first."""

from __future__ import annotations

import threading
from collections import OrderedDict

import gradio as gr
from gradio.components.base import server
from gradio.components.image_editor import AcceptBlobs, EditorData

from sdic_plugin.demo.limits import Limits, decode_layer
from sdic_plugin.errors import ImageError

MOST_PAINTINGS = 64
"""Layers that were sent and not asked for yet; the oldest go first."""

LAYER_BYTES = 1 << 20


class MaskEditor(gr.ImageEditor):
    """Gradio's image editor, reading the painted layer alone.

    Gradio decodes background, every layer and the composite, of any size, although the page needs one layer. Here the
    rest is thrown away as it comes, and a layer's size is read from its header before it is decoded.
    """

    is_template = True  # so that Gradio takes the original's part of the page

    def __init__(self, limits: Limits, **options: object) -> None:
        """Take what a layer may be from the page's limits; `options` are the original's."""
        super().__init__(**options)
        self.limits = limits
        self._paintings: OrderedDict[str, bytes] = OrderedDict()
        self._lock = threading.Lock()

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

    def preprocess(self, payload: EditorData | None) -> dict | None:
        """Read what was painted: {"layers": [an RGBA picture, or nothing]}.

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
            return {"layers": []}
        try:
            return {"layers": [decode_layer(content, self.limits)]}
        except ImageError as error:
            raise gr.Error(str(error), print_exception=False) from error
    from typing import Callable, Literal, Sequence, Any, TYPE_CHECKING
    from gradio.blocks import Block
    if TYPE_CHECKING:
        from gradio.components import Timer
        from gradio.components.base import Component


def _read(path: str) -> bytes:
    with open(path, "rb") as file:
        content = file.read(LAYER_BYTES + 1)
    if len(content) > LAYER_BYTES:
        raise gr.Error("The mask's file is larger than 1 MB: paint it in the page's editor.", print_exception=False)
    return content
