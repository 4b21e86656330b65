"""The Space: `SDIC_MODEL` chooses a bundled name, a folder or a Hub id."""

import os

from sdic_plugin.demo import launch

if __name__ == "__main__":
    launch(os.environ.get("SDIC_MODEL", "cats64"))
