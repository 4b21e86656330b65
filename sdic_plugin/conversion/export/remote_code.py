"""A repository that runs without this package: `DiffusionPipeline.from_pretrained(repo, trust_remote_code=True)`.

diffusers loads `pipeline.py` beside the model_index.json, and for each component one Python file in the component's
own folder; files cannot import each other. So every file is written from the sources of this package, with all modules
it needs joined into one: their imports of each other are left out, the others stand once at the top, and of a name
that two modules define the later one gets a suffix.
"""

from __future__ import annotations

import ast
import importlib
import io
import json
import tokenize
from collections.abc import Iterator
from dataclasses import dataclass
from pathlib import Path

from sdic_plugin.checkpoints.output import REMOTE_CODE, check_output
from sdic_plugin.models import ALL_COMPONENTS
from sdic_plugin.pipeline.sdic import SDICPipeline
from sdic_plugin.utils.files import replacing_folder
from sdic_plugin.version import __version__

PACKAGE = "sdic_plugin"
PIPELINE_MODULE = "sdic_plugin.pipeline.sdic"
HEADER = '''"""{title}

Written by sdic_plugin {version} from its own sources (`sdic export remote-code`), Apache-2.0; change them there.
"""

from __future__ import annotations

'''

Token = tuple[int, str, tuple[int, int], tuple[int, int], str]
"""Kind, text, start, end and line, as in `tokenize.TokenInfo`."""


@dataclass
class Module:
    """One source file, taken apart.

    Attributes:
        name: Dotted name.
        source: Its text, without docstring and imports at the top level.
        imports: Its imports of other packages.
        needs: The modules of this package that it imports at the top level, in order.
        names: The names it defines at the top level.
    """

    name: str
    source: str
    imports: list[str]
    needs: list[str]
    names: set[str]


def export_remote_code(pipe: SDICPipeline, output: str | Path, overwrite: bool = False) -> list[str]:
    """Write a repository that needs diffusers, torch and nothing of ours; whole or not at all.

    Args:
        pipe: Any SDIC pipeline, not fused; its weights and edits are written too.
        output: Folder to write.
        overwrite: Replace what an earlier export wrote.

    Returns:
        The Python files, relative to the folder.

    Raises:
        CheckpointError: If the folder may not be written.
    """
    output = Path(output)
    check_output(output, overwrite, REMOTE_CODE)
    with replacing_folder(output) as folder:
        pipe.save_pretrained(folder)
        index_path = folder / "model_index.json"
        index = json.loads(index_path.read_text(encoding="utf-8"))
        index["_class_name"] = ["pipeline", SDICPipeline.__name__]
        written = {"pipeline.py": joined_source(PIPELINE_MODULE, "SDIC as a diffusers pipeline.")}
        for name, cls in ALL_COMPONENTS.items():
            if name not in pipe.components:
                continue
            module = _defining_module(f"{PACKAGE}.models", cls.__name__)
            stem = module.rpartition(".")[2]
            index[name] = [stem, cls.__name__]
            written[f"{name}/{stem}.py"] = joined_source(module, f"{cls.__name__} of SDIC.")
        for path, text in written.items():
            (folder / path).write_text(text, encoding="utf-8")
        index_path.write_text(json.dumps(index, indent=2, sort_keys=True) + "\n", encoding="utf-8")
    return sorted(written)


def joined_source(module: str, title: str) -> str:
    """Return one file that does what a module of this package does, without the package."""
    modules = _ordered(module)
    imports = sorted({line for each in modules for line in each.imports}, key=lambda line: (line[:5] == "from ", line))
    text = HEADER.format(title=title, version=__version__) + "\n".join(imports) + "\n"
    taken: dict[str, str] = {}
    for each in modules:
        source = each.source
        clashes = {name: f"{name}_of_{each.name.rpartition('.')[2]}" for name in each.names if name in taken}
        if clashes:
            source = _renamed(source, clashes)
        taken |= dict.fromkeys(each.names, each.name)
        text += f"\n\n# ---- {each.name}\n\n\n{source.strip()}\n"
    return text


def _ordered(name: str) -> list[Module]:
    """A module and all it needs, each after what it needs itself."""
    done: dict[str, Module] = {}

    def visit(current: str) -> None:
        if current in done:
            return
        module = _read(current)
        for needed in module.needs:
            visit(needed)
        done[current] = module

    visit(name)
    return list(done.values())


def _read(name: str) -> Module:
    """Take a module apart."""
    text = _path(name).read_text(encoding="utf-8")
    lines, tree = text.splitlines(keepends=True), ast.parse(text)
    imports: list[str] = []
    needs: list[str] = []
    names: set[str] = set()
    for node in tree.body:
        if isinstance(node, ast.Import | ast.ImportFrom):
            if not isinstance(node, ast.ImportFrom) or not _is_own(node):
                imports += [] if getattr(node, "module", "") == "__future__" else _single_imports(node)
            else:
                needs += _defining_modules(node)
            _blank(lines, node)
        else:
            names |= set(_defined(node))
    if ast.get_docstring(tree) is not None:
        _blank(lines, tree.body[0])
    for inner in ast.walk(tree):
        if isinstance(inner, ast.ImportFrom) and _is_own(inner) and inner not in tree.body:
            indent = " " * inner.col_offset
            own = [f"{indent}{alias.name} = {_late_import(inner.module, alias.name)}\n" for alias in inner.names]
            _blank(lines, inner)
            lines[inner.lineno - 1] = "".join(own)
    return Module(name, "".join(lines), imports, list(dict.fromkeys(needs)), names)


def _late_import(module: str | None, name: str) -> str:
    """What a function imports of this package when it is called: parts that only the package itself has."""
    return f'importlib.import_module("{module}").{name}'


def _is_own(node: ast.ImportFrom) -> bool:
    return str(node.module).split(".")[0] == PACKAGE


def _single_imports(node: ast.Import | ast.ImportFrom) -> list[str]:
    """One line per imported name."""
    start = f"from {node.module} import " if isinstance(node, ast.ImportFrom) else "import "
    return [start + alias.name + (f" as {alias.asname}" if alias.asname else "") for alias in node.names]


def _defining_modules(node: ast.ImportFrom) -> Iterator[str]:
    """Where the imported names are defined, behind the `__init__` of a folder."""
    for alias in node.names:
        if alias.asname is not None and alias.asname != alias.name:
            raise AssertionError(f"{node.module}.{alias.name} is imported under another name, which cannot be joined.")
        yield _defining_module(str(node.module), alias.name)


def _defining_module(module: str, name: str) -> str:
    path = _path(module)
    if path.name == "__init__.py":
        for node in ast.parse(path.read_text(encoding="utf-8")).body:
            if isinstance(node, ast.ImportFrom) and _is_own(node) and name in (alias.name for alias in node.names):
                return _defining_module(str(node.module), name)
    return module


def _path(module: str) -> Path:
    return Path(str(importlib.import_module(module).__file__))


def _defined(node: ast.stmt) -> Iterator[str]:
    if isinstance(node, ast.FunctionDef | ast.ClassDef):
        yield node.name
    targets = (
        node.targets if isinstance(node, ast.Assign) else [node.target] if isinstance(node, ast.AnnAssign) else []
    )
    for target in targets:
        yield from (each.id for each in ast.walk(target) if isinstance(each, ast.Name) and each.id != "__all__")


def _blank(lines: list[str], node: ast.stmt) -> None:
    for number in range(node.lineno - 1, int(node.end_lineno or node.lineno)):
        lines[number] = ""


def _renamed(source: str, names: dict[str, str]) -> str:
    """Rename names in code, not those after a dot, and nothing in strings and comments."""
    if unclear := names.keys() & _other_uses(ast.parse(source)):
        raise AssertionError(f"{sorted(unclear)} name two things each, so this module cannot be joined: rename one.")
    result: list[Token] = []
    previous = ""
    for token in tokenize.generate_tokens(io.StringIO(source).readline):
        text = token.string
        if token.type == tokenize.NAME and previous != "." and text in names:
            text = names[text]
        result.append((token.type, text, token.start, token.end, token.line))
        previous = token.string
    return _untokenized(source, result)


def _other_uses(tree: ast.AST) -> set[str]:
    """Names of parameters, keywords and class attributes, which must keep theirs."""
    found: set[str] = set()
    for node in ast.walk(tree):
        if isinstance(node, ast.arg | ast.keyword) and node.arg is not None:
            found.add(node.arg)
        elif isinstance(node, ast.ClassDef):
            found |= {name for statement in node.body for name in _defined(statement)}
    return found


def _untokenized(source: str, tokens: list[Token]) -> str:
    """Put tokens back where they stood."""
    lines = source.splitlines(keepends=True)
    for kind, text, (row, start), (end_row, end), _ in reversed(tokens):
        if kind == tokenize.NAME and row == end_row and lines[row - 1][start:end] != text:
            lines[row - 1] = lines[row - 1][:start] + text + lines[row - 1][end:]
    return "".join(lines)
