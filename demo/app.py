"""The Space: `SDIC_MODEL` chooses a bundled name, a folder or a Hub id; `SDIC_MCP=1` serves tools, too."""

import contextlib
import os

with contextlib.suppress(ImportError):
    import spaces  # noqa: F401  (on ZeroGPU, before anything that touches CUDA)

from sdic_plugin.demo import launch

if __name__ == "__main__":
    launch(os.environ.get("SDIC_MODEL", "cats64"), mcp=os.environ.get("SDIC_MCP") == "1")
