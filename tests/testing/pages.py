"""What stands in README, docs and cards: blocks, commands, links, headings."""

from __future__ import annotations

import re
import shlex
from pathlib import Path

ROOT = Path(__file__).parents[2]
README, DOCS = ROOT / "README.md", ROOT / "docs" / "pages"
OTHERS = [ROOT / "demo/README.md", ROOT / "hub_cards/README.md", ROOT / "hub_cards/cats64/README.md"]
PAGES = [README, *sorted(DOCS.rglob("*.md")), *OTHERS]
FENCE = re.compile(r"^(?P<indent> *)```(?P<language>\w*)\n(?P<code>.*?)^ *```$", flags=re.DOTALL | re.MULTILINE)


def name_of(page: Path) -> str:
    """For the names of tests."""
    return page.relative_to(ROOT).as_posix()


def blocks(page: Path, *languages: str) -> list[str]:
    """The fenced blocks of these languages, in order."""
    found = FENCE.finditer(page.read_text(encoding="utf-8"))
    return [_dedent(match["code"], len(match["indent"])) for match in found if match["language"] in languages]


def _dedent(code: str, indent: int) -> str:
    return "".join(line[indent:] if line.strip() else line for line in code.splitlines(keepends=True))


def shell_lines(page: Path, *languages: str) -> list[str]:
    """The lines of the shell blocks, continued ones joined."""
    return [line for block in blocks(page, *languages) for line in block.replace("\\\n", " ").splitlines()]


def prose(page: Path) -> str:
    """The page without its fenced blocks."""
    return FENCE.sub("", page.read_text(encoding="utf-8"))


def commands(page: Path) -> list[list[str]]:
    """Every command in shell blocks and in inline code, in words: `sdic …`, `python -m …`, `torchrun … -m …`."""
    code = shell_lines(page, "bash", "sh", "console")
    code += [" ".join(text.split()) for text in re.findall(r"`([^`]+)`", prose(page))]
    parts = [part for line in code for part in re.split(r"&&|;|\{ | \}", re.sub(r"(^|\s)#.*", "", line))]
    words = [shlex.split(re.sub(r"^\s*(\$ )?([A-Z]+=\S+ )?", "", part)) for part in parts if _is_command(part)]
    return [[Path(each[0]).name, *each[1:]] for each in words if len(each) > 1]


def _is_command(part: str) -> bool:
    return re.match(r"\s*(\$ )?([A-Z]+=\S+ )?(\S*/)?(sdic|python3?|torchrun|pip) ", part) is not None


def links(page: Path) -> list[str]:
    """Targets of links and pictures inside the repository."""
    targets = re.findall(r"\]\(([^)\s]+)\)", re.sub(r"`[^`]*`", "", prose(page)))
    return [target for target in targets if not target.startswith(("http:", "https:", "mailto:"))]


def anchors(page: Path) -> set[str]:
    """Anchors of the headings, where the site (Python-Markdown) and GitHub agree on them."""
    found = set()
    for heading in re.findall(r"^#+ (.+)$", prose(page), flags=re.MULTILINE):
        text = re.sub(r"[^\w\s-]", "", heading.strip().lower())
        on_site, on_github = re.sub(r"[-\s]+", "-", text), text.replace(" ", "-")
        if on_site == on_github:
            found.add(on_site)
    return found
