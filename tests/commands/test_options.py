"""The promise of the command line: its commands and options as they were under argparse, in one table."""

from __future__ import annotations

import os
import re
import subprocess
import sys
import types
from typing import Any, Literal, Union, get_args, get_origin, get_type_hints

import pytest

from sdic_plugin.checkpoints.folder import DEFAULT_MODEL
from sdic_plugin.commands.cli import build_commands, read_arguments
from sdic_plugin.commands.evaluate import ROWS
from sdic_plugin.commands.framework import BareValue, Job, SeveralValues
from sdic_plugin.commands.options import Dtype

# Name, [value if none is given], "..." for repeated ones, "several" for many values at once, type, choices, default,
# and after the colon what the help calls the value.
OPTIONS = {
    "invert": f"""
        PHOTO ...
        --example : NAME
        --model = {DEFAULT_MODEL!r}
        --out Path required
        --eyes : X1,Y1,X2,Y2
        --face [largest] : N|none
        --detector : FILE
        --paste-back [auto] auto|difference|replace
        --refine-steps int = 0 : N
        --save-inversion flag
        --no-sheets flag
        --skip-existing flag
        --batch-size int = 8 : N
        --device = 'cpu'
        --dtype bfloat16|float16|float32 = 'float32'
    """,
    "edit": f"""
        PHOTO ...
        --example : NAME
        --model = {DEFAULT_MODEL!r}
        --out Path required
        --eyes : X1,Y1,X2,Y2
        --face [largest] : N|none
        --detector : FILE
        --paste-back [auto] auto|difference|replace
        --refine-steps int = 0 : N
        --save-inversion flag
        --no-sheets flag
        --skip-existing flag
        --batch-size int = 8 : N
        --device = 'cpu'
        --dtype bfloat16|float16|float32 = 'float32'
        --edit ... : NAME=STRENGTH[,…]
        --sweep ... : NAME=FIRST:LAST:COUNT
        --edits ... : SET
        --compensation float = 1.0
        --mask
        --feature-edit continuous|official
        --preview [4] int : N
        --smoothing float = 0.1 : SECONDS
        --gap float = 0.5 : SECONDS
        --quality int = 18 : N
        --overwrite flag
    """,
    "align": """
        PHOTO ... required
        --model
        --size int
        --eyes : X1,Y1,X2,Y2
        --face = 'largest' : N
        --detector : FILE
        --out Path required
    """,
    "convert": """
        FILE ... Path required
        --out Path required
        --feature-resolution int
        --content-rows two int : FIRST LAST
        --encoder-type e4e|psp
        --dtype bfloat16|float16|float32 = 'float32'
        --variant
        --source
        --license
        --alignment ffhq
        --overwrite flag
    """,
    "train": """
        stage compensation|encoder|generator|transport required
        --config : FILE
        --from : MODEL
        --set ... : KEY=VALUE
    """,
    "evaluate": f"""
        --model = {DEFAULT_MODEL!r}
        --data required
        --limit int
        --part = '1/1' : K/N
        --full flag
        --rows several : ROW
        --multiples several float : X
        --optimize several : SPACE:STEPS
        --optimize-images int = 64 : N
        --w-optimization int = 0 : N
        --edits ... : SET
        --edit-truth int = 0 : N
        --by several : COLUMN
        --labels Path : FILE
        --samples int : N
        --generators several : MODEL
        --truncation float = 1.0
        --reference : DATA
        --nearest int = 0 : N
        --lpips : FILE
        --identity : FILE
        --inception : FILE
        --efficientnet : PLACE
        --batch-size int = 8
        --device = 'cpu'
        --out Path
    """,
    "data": """
        name cats64 required
        --source required
        --out = '.'
    """,
    "sample": f"""
        --model = {DEFAULT_MODEL!r}
        --count int = 16
        --seed int = 0
        --seeds : 1,2,5-9
        --truncation float = 0.7
        --mixing flag
        --mix-layers : FIRST:LAST
        --out Path required
        --device = 'cpu'
    """,
    "export rosinality": f"""
        --model = {DEFAULT_MODEL!r}
        --out Path required
        --overwrite flag
    """,
    "export remote-code": f"""
        --model = {DEFAULT_MODEL!r}
        --out Path required
        --overwrite flag
    """,
    "export onnx": f"""
        --model = {DEFAULT_MODEL!r}
        --out Path required
        --overwrite flag
    """,
    "export web": f"""
        --model = {DEFAULT_MODEL!r}
        --out Path required
        --overwrite flag
        --weights float16|float32|int8 = 'float16'
        --runtime Path : FOLDER
    """,
    "push": """
        MODEL required
        USER/NAME required
        --license
        --edits-only flag
        --card : FILE
        --evaluation : FILE
        --example ... : FILE
        --base-model : USER/NAME
        --relation = 'finetune'
        --dataset ... : NAME
        --no-half flag
        --private flag
        --revision
    """,
    "edits import": """
        FILE ... Path required
        --family ganspace|interfacegan|latents|offset|sefa|styleclip required
        --out Path required : SET
        --add flag
        --model
        --name
        --layers : FIRST:LAST
        --strength float
        --range two float : LOW HIGH
        --description = ''
        --ends two : LOW HIGH
        --source
        --license
        --preset cars|ffhq
        --component ... : NAME=INDEX
        --rule layer_target|offset|target = 'target'
        --index int = 0
        --minus : avg|INDEX
        --text
        --neutral
        --clip = 'openai/clip-vit-base-patch32'
        --threshold float = 0.15
    """,
    "edits find": f"""
        --method ganspace|interfacegan|sefa required
        --model = {DEFAULT_MODEL!r}
        --out Path required : SET
        --count int = 10
        --layers : FIRST:LAST
        --samples int
        --seed int = 0
        --seeds several int = [0]
        --scores Path : CSV
        --labelled : PHOTOS
        --by several : COLUMN[=VALUE
        --labels Path : CSV
        --latents Path
        --truncation float = 0.7
        --folders ... : NAME=WITH,WITHOUT
        --measure ... : NAME|MODULE:FUNCTION
        --fit regression|svm = 'regression'
        --apart flag
    """,
    "edits show": """
        EDITS required
        --model
        --out Path : PNG
        --seeds several int = [0]
        --any-generator flag
    """,
    "bench": """
        --model
        --resolution int = 1024
        --batch-size int = 1
        --repeats int = 5
        --threads int
        --dtype bfloat16|float16|float32 = 'float32'
        --against-float32 flag
        --device = 'cpu'
        --default-malloc flag
        --compile flag
        --profile flag
        --out Path
    """,
    "demo": f"""
        --model = {DEFAULT_MODEL!r}
        --port int
        --detector : FILE
        --mcp flag
        --dtype bfloat16|float16|float32 = 'float32'
    """,
}


def leaves(command: Any, path: tuple[str, ...] = ()) -> dict[str, Any]:
    """Commands without commands of their own, by path."""
    if not hasattr(command, "commands"):
        return {" ".join(path): command}
    return {
        name: leaf for key, below in command.commands.items() for name, leaf in leaves(below, (*path, key)).items()
    }


def described(command: Any) -> set[str]:
    """The options of a command, in the table's words."""
    hints = get_type_hints(command.options_class, include_extras=True)
    return {describe(param, hints[param.name]) for param in command.params if param.name in hints}


def describe(param: Any, hint: Any) -> str:
    base, *marks = get_args(hint)
    bare = next((mark.value for mark in marks if isinstance(mark, BareValue)), None)
    several = any(isinstance(mark, SeveralValues) for mark in marks)
    if get_origin(base) in (Union, types.UnionType):
        (base,) = (each for each in get_args(base) if each is not type(None))
    words = [param.opts[0] if param.opts[0].startswith("-") else param.metavar or param.name]
    if bare is not None:
        words.append(f"[{bare}]")
    if get_origin(base) is list:
        words.append("several" if several else "...")
        base = get_args(base)[0]
    if get_origin(base) is tuple:
        words.append("two")
        base = get_args(base)[0]
    if base is bool:
        words.append("flag")
    elif get_origin(base) is Literal:
        words.append("|".join(sorted(get_args(base))))
    elif base is not str:
        words.append(base.__name__)
    if param.required:
        words.append("required")
    elif base is not bool and param.default not in (None, []):
        words += ["=", repr(param.default)]
    if param.metavar and words[0].startswith("-"):
        words += [":", param.metavar.removesuffix("...").strip("[]") if "…" not in param.metavar else param.metavar]
    return " ".join(words)


def test_every_command_is_there():
    assert leaves(build_commands()).keys() == OPTIONS.keys()


@pytest.mark.parametrize("name", OPTIONS)
def test_every_option_is_as_it_was(name):
    wanted = {line.strip() for line in OPTIONS[name].strip().splitlines()}
    found = described(leaves(build_commands())[name])
    named_since = {
        "--seeds several int = [0] : SEED",
        "--paste-back [auto] auto|difference|replace : auto|replace|difference",
    }
    assert {each.partition(" : ")[0] if each in named_since else each for each in found} == wanted


def test_choices_are_those_of_the_library():
    from sdic_plugin.commands import edits_find, edits_import
    from sdic_plugin.edits import attributes, ganspace, styleclip
    from sdic_plugin.evaluation import METHODS
    from sdic_plugin.utils.precision import DTYPES

    assert tuple(METHODS) == ROWS and get_args(Dtype) == DTYPES
    assert get_args(edits_find.Fit) == attributes.METHODS and get_args(edits_import.Rule) == ganspace.RULES
    assert sorted(get_args(edits_import.Preset)) == sorted(ganspace.presets())
    assert edits_import.CLIP_MODEL == styleclip.CLIP_MODEL


def read(line: str) -> Any:
    """Options as they are read of a line."""
    job = read_arguments(line.split())
    assert isinstance(job, Job)
    return job.options


@pytest.mark.parametrize(
    ("words", "face", "paste"),
    [
        ("", None, None),
        ("--face", "largest", None),
        ("--face 2 --paste-back", "2", "auto"),
        ("--face=2 --paste-back=difference", "2", "difference"),
        ("--paste-back difference --face", "largest", "difference"),
    ],
)
def test_options_whose_value_may_be_left_out(words, face, paste):
    options = read(f"edit a.png {words} --out out")
    assert (options.face, options.paste_back, options.photos) == (face, paste, ["a.png"])


def test_options_with_several_values():
    options = read(
        "evaluate --rows full official --multiples 1 -2.5 --data x --rows initial --optimize w:1 --multiples=3"
    )
    assert options.rows == ["full", "official", "initial"] and options.optimize == ["w:1"]
    assert options.multiples == [1, -2.5, 3]
    assert read("edits show a --seeds 1 2 3").seeds == [1, 2, 3] and read("edits show a").seeds == [0]
    assert read("evaluate --data x").multiples is None


def test_options_with_two_values():
    assert read("convert a.pt --out out --content-rows -1 5").content_rows == (-1, 5)
    assert read("edits import a --family sefa --out a --range -2 .5 --ends grey ginger").range == (-2, 0.5)


def test_options_that_are_repeated_and_photos_between_them():
    options = read("edit a.png --edit turn=-1 b.png --edit turn=2,size=1 --out out -- --c.png")
    assert options.edit == ["turn=-1", "turn=2,size=1"] and options.photos == ["a.png", "b.png", "--c.png"]
    assert read("train encoder --set a=1 --set b=none --from cats64").set == ["a=1", "b=none"]


def test_negative_numbers_are_values():
    assert read("sample --out out --seed -1 --truncation -0.7").truncation == -0.7
    assert read("edits import a --family sefa --out a --strength -3").strength == -3


@pytest.mark.parametrize(
    ("line", "message"),
    [
        ("", "sdic: no command was given: give one of invert, edit, align"),
        ("edits", "sdic edits: no command was given: give one of import, find, show;"),
        ("edti", "sdic: No such command 'edti'. Did you mean 'edit'"),
        ("edit a.png", "sdic edit: Missing option '--out'"),
        ("edit a.png --out --face", "sdic edit: --out takes a value, but none was given"),
        ("convert a.pt --out b --content-rows 1", "sdic convert: --content-rows takes 2 values, but 1 was given"),
        ("evaluate --data x --rows", "sdic evaluate: --rows takes one or more values, but none was given"),
        ("bench --threads many", "sdic bench: --threads is 'many', but should be a valid integer"),
        ("bench --thread 1", "sdic bench: No such option: --thread"),
        ("bench --dtype int8", "sdic bench: --dtype: 'int8' is not one of 'float32', 'float16', 'bfloat16'"),
        ("train \x1b[31m", "sdic train: stage: '\\x1b[31m' is not one of 'generator'"),
        ("convert", "sdic convert: Missing argument 'FILE'"),
    ],
)  # fmt: skip
def test_complaints_are_one_sentence(line, message, capsys):
    assert read_arguments(line.split()) == 2
    said = capsys.readouterr()
    assert said.out == "" and said.err.startswith(message) and said.err.count("\n") == 1
    assert said.err.endswith("--help.\n") and said.err.strip().isprintable()


def test_help_has_groups_and_examples(capsys):
    assert read_arguments(["edit", "-h"]) == 0
    said = capsys.readouterr().out
    assert "\x1b" not in said  # no terminal, no colour
    for text in ("Editing", "Finding the subject", "Examples", "$ sdic edit --example chelsea", "(extra [align])"):
        assert text in said
    assert read_arguments(["--version"]) == 0
    assert capsys.readouterr().out.startswith("sdic ")


@pytest.mark.parametrize(
    ("line", "proposed"),
    [
        ("sdic e", {"edit", "evaluate", "export", "edits"}),
        ("sdic edit --model c", {"cats64"}),
        ("sdic edit --example ", {"chelsea", "astronaut"}),
        ("sdic train --config toy", {"toy_generator", "toy_encoder", "toy_compensation"}),
        ("sdic bench --dtype ", {"float32", "float16", "bfloat16"}),
        ("sdic edit a.png --paste-back ", {"auto", "replace", "difference"}),
        ("sdic edits f", {"find"}),
        ("sdic evaluate --rows off", {"official"}),
    ],
)
def test_a_shell_completes(line, proposed, monkeypatch, capsys):
    monkeypatch.setenv("_SDIC_COMPLETE", "complete_bash")
    monkeypatch.setenv("COMP_WORDS", line)
    monkeypatch.setenv("COMP_CWORD", str(line.count(" ")))
    with pytest.raises(SystemExit):
        read_arguments([])
    assert set(capsys.readouterr().out.split()) == proposed


@pytest.mark.skipif(sys.platform == "win32", reason="needs a pseudo-terminal")
@pytest.mark.parametrize("environment", [{}, {"NO_COLOR": "1"}])
def test_colour_is_for_terminals_that_want_it(environment):
    import pty

    ours, theirs = pty.openpty()
    kept = {key: value for key, value in os.environ.items() if key not in ("NO_COLOR", "FORCE_COLOR")}
    subprocess.run(
        [sys.executable, "-m", "sdic_plugin", "--help"],
        stdout=theirs, env={**kept, "TERM": "xterm-256color", **environment}, check=True,
    )  # fmt: skip
    os.close(theirs)
    said = os.read(ours, 1 << 16).decode(errors="replace")
    os.close(ours)
    assert (re.search(r"\x1b\[[0-9;]*3[0-9]m", said) is None) == ("NO_COLOR" in environment)
