"""`python -m sdic_plugin`: the `sdic` command."""

import sys

from sdic_plugin.commands.cli import main

if __name__ == "__main__":
    sys.exit(main())
