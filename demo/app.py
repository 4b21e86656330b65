"""The Space: `SDIC_MODEL` chooses a bundled name, a folder or a Hub id; `SDIC_MCP=1` serves tools, too."""

import contextlib
import os

with contextlib.suppress(ImportError):
    import spaces  # noqa: F401  (on ZeroGPU, before anything that touches CUDA)

from sdic_plugin.checkpoints.folder import DEFAULT_MODEL
from sdic_plugin.demo import launch

if __name__ == "__main__":
    launch(os.environ.get("SDIC_MODEL", DEFAULT_MODEL), mcp=os.environ.get("SDIC_MCP") == "1")
