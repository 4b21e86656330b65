"""What renews the pages of every bundled model: run a command, put its table or picture where the pages show it.

Tables stand between `<!-- name -->` and `<!-- end of name -->`.
"""

from __future__ import annotations

import os
import re
import shlex
import shutil
import subprocess
import sys
from collections.abc import Sequence
from dataclasses import dataclass
from pathlib import Path

from sdic_plugin.errors import SDICError
from sdic_plugin.utils.files import replacing_file

ROOT = Path(__file__).parents[1]
"""The repository."""


@dataclass(frozen=True)
class Workplace:
    """Where the parts work.

    Attributes:
        photos: The held-out photos, a zip.
        folder: For files that are thrown away afterwards.
    """

    photos: Path
    folder: Path

    def run(self, *arguments: str) -> None:
        """Run a command of this package, a module or (without a dot in its name) a subcommand of `sdic`.

        Raises:
            SDICError: If it fails, after it has said why.
        """
        module = arguments if "." in arguments[0] else ("sdic_plugin", *arguments)
        environment = {**os.environ, "PYTHONPATH": str(ROOT)}  # for the programs beside the cards
        command = [sys.executable, "-m", *module]
        code = subprocess.run(command, cwd=self.folder, env=environment, check=False).returncode
        if code != 0:
            raise SDICError(
                f"`python -m {shlex.join(module)}` ended with {code}, see above: mend that, and run again."
            )


def check_places(page: Path, names: Sequence[str]) -> None:
    """Raise SDICError unless a page is there, with the marks of all these tables: before they are computed."""
    if not page.is_file():
        raise SDICError(f"There is no {page.name} in {page.parent.name} to put tables into: write it first.")
    for name in names:
        _place_of(page, page.read_text(encoding="utf-8"), name)


def _place_of(page: Path, text: str, name: str) -> re.Match[str]:
    found = re.search(rf"<!-- {name} -->\n.*?<!-- end of {name} -->", text, flags=re.DOTALL)
    if found is None:
        raise SDICError(f"{page.name} has no place for the table {name!r}: mark it by <!-- {name} --> and its end.")
    return found


def replace_table(page: Path, name: str, table: str) -> None:
    """Put a table between a page's two marks of this name.

    Raises:
        SDICError: If the page does not hold both marks.
    """
    text = page.read_text(encoding="utf-8")
    found = _place_of(page, text, name)
    table = f"<!-- {name} -->\n\n{table.strip()}\n\n<!-- end of {name} -->"
    with replacing_file(page) as temporary:
        temporary.write_text(text[: found.start()] + table + text[found.end() :], encoding="utf-8")


def section(page: Path, heading: str) -> str:
    """Return what stands under a heading of a page of `sdic evaluate`, up to the next one; "# …" for the first.

    Raises:
        SDICError: If nothing does.
    """
    text = "\n" + page.read_text(encoding="utf-8")
    found = text.partition(f"\n{heading}")[2].partition("\n")[2].partition("\n## ")[0].strip()
    if not found:
        raise SDICError(f"{page.name} has nothing under {heading!r}: `sdic evaluate` writes other headings now.")
    return found


def up_to_first_table(text: str) -> str:
    """Leave out what follows on the first table."""
    before, bar, rest = text.partition("|")
    return before + bar + rest.partition("\n\n")[0]


def without_pictures(text: str) -> str:
    """Leave out the pictures of a page, which are not kept beside it."""
    return re.sub(r"^!\[[^\n]*\n+", "", text + "\n", flags=re.MULTILINE)


def table_that_begins(text: str, head: str) -> str:
    """Return the table whose first column has this head.

    Raises:
        SDICError: If there is none.
    """
    found = f"\n\n{text}\n\n".partition(f"\n\n| {head} |")
    if not found[1]:
        raise SDICError(f"There is no table of {head!r}: `sdic evaluate` writes others now.")
    return (found[1] + found[2].partition("\n\n")[0]).strip()


def keep(picture: Path, place: Path) -> None:
    """Let a picture take its place among the pages' pictures."""
    with replacing_file(place) as temporary:
        shutil.copyfile(picture, temporary)
