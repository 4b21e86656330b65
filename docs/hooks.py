"""What the site needs beyond its pages: the models' cards, and equations as MathML, which browsers draw themselves."""

from __future__ import annotations

import html
import re
from pathlib import Path

from latex2mathml.converter import convert
from mkdocs.config.defaults import MkDocsConfig
from mkdocs.structure.files import File, Files
from mkdocs.structure.pages import Page

ROOT = Path(__file__).parents[1]
CARDS = ("cats64/*.md", "cats64/assets/*", "converted_ffhq1024.md")
FIGURES = "hub_cards/cats64/fine_tune_evaluation.json"
"""What the example of a fine-tune's card was made from; on the Hub it is the repository's evaluation.json."""


def on_files(files: Files, config: MkDocsConfig) -> Files:
    """Add the cards, which stand beside the programs that made them."""
    for path in sorted(path for pattern in CARDS for path in (ROOT / "hub_cards").glob(pattern)):
        files.append(File.generated(config, path.relative_to(ROOT).as_posix(), abs_src_path=str(path)))
    files.append(File.generated(config, "hub_cards/cats64/evaluation.json", abs_src_path=str(ROOT / FIGURES)))
    return files


def on_page_markdown(markdown: str, page: Page, config: MkDocsConfig, files: Files) -> str:
    """Let links to cards, written for readers of the repository, lead to the site's copies."""
    return re.sub(r"\]\((?:\.\./){2}((?:\.\./)*hub_cards/)", r"](\1", markdown)


def on_page_content(content: str, page: Page, config: MkDocsConfig, files: Files) -> str:
    r"""Replace what arithmatex marks, \(…\) and \[…\], by MathML."""

    def to_mathml(match: re.Match) -> str:
        opening, latex = html.unescape(match["latex"])[:2], html.unescape(match["latex"])[2:-2]
        return convert(latex.strip(), display="block" if opening == r"\[" else "inline")

    return re.sub(r'<(?P<tag>span|div) class="arithmatex">(?P<latex>.*?)</(?P=tag)>', to_mathml, content, flags=re.S)
