"""Settings as dataclasses whose values are checked by the annotations of their fields.

A stage's settings are a dataclass that derives from `Settings`. The annotation of each field says what it may hold, in
the types below with pydantic's constraints: `Annotated[int, Field(ge=1, le=64)]`. The same annotation checks values
given in Python, in a file and on the command line, and words the sentence for a wrong one.

What is taken as it is meant: true, false, yes, no, on, off, 1 and 0 for switches, whole numbers for real ones, 4.0 for
4, numbers in quotes, tuples for lists. What is not: true and false for numbers, 2.5 for a whole number, anything that
is not finite.
"""

from __future__ import annotations

import dataclasses
import os
import tomllib
import typing
from collections.abc import Iterable, Mapping
from dataclasses import dataclass
from functools import cache
from typing import Annotated, Any

from pydantic import AfterValidator, BeforeValidator, Field, TypeAdapter

from sdic_plugin.errors import SDICError, shorten

LONGEST_PATH = 4096
LONGEST_TEXT = 1000

BLOCK_SIDES = ("4", "8", "16", "32", "64", "128", "256", "512", "1024", "2048")
"""Resolutions that a block of a generator can have, as tables of channels name them."""

NUMBER_WORDS = {2: "two", 4: "four", 5: "five"}
"""Lengths of lists."""


def _path_text(value: object) -> object:
    return os.fspath(value) if isinstance(value, os.PathLike) else value


def _one_line(text: str) -> str:
    if any(character < " " or character == "\x7f" for character in text):
        raise ValueError("control characters")
    return text


def _not_blank(text: str) -> str:
    if not text.strip():
        raise ValueError("empty")
    return text


def _each_once(values: list[str]) -> list[str]:
    if len(set(values)) < len(values):
        raise ValueError("given twice")
    return values


def _power_of_two(value: int) -> int:
    if value & (value - 1):
        raise ValueError("no power of two")
    return value


def _side_of_block(text: str) -> str:
    if text not in BLOCK_SIDES:
        raise ValueError("no resolution of a block")
    return text


Number = Annotated[float, Field(allow_inf_nan=False)]
Count = Annotated[int, Field(ge=1, le=1_000_000_000)]
Seed = Annotated[int, Field(ge=0, le=2**63 - 1)]
Share = Annotated[Number, Field(ge=0, le=1)]
BatchSize = Annotated[int, Field(ge=1, le=65_536)]
LearningRate = Annotated[Number, Field(gt=0, le=1)]
GradientClip = Annotated[Number, Field(gt=0, le=1e12)]
Betas = Annotated[list[Annotated[Number, Field(ge=0, lt=1)]], Field(min_length=2, max_length=2)]
"""Adam's two decay rates."""
Weight = Annotated[Number, Field(ge=0, le=1e6)]
"""Weight of a loss."""
Channels = Annotated[int, Field(ge=1, le=4096)]
"""Channels of a layer."""
Resolution = Annotated[
    int,
    Field(ge=8, le=2048, description="a power of two from 8 to 2,048"),
    AfterValidator(_power_of_two),
]
ChannelTable = Annotated[
    dict[Annotated[str, AfterValidator(_side_of_block)], Channels],
    Field(description="a table of 1 to 4,096 channels per resolution, such as {4 = 64, 8 = 32}"),
]
Place = Annotated[
    str,
    Field(max_length=LONGEST_PATH, description=f"a path or name of 1 to {LONGEST_PATH:,} characters on one line"),
    AfterValidator(_one_line),
    AfterValidator(_not_blank),
    BeforeValidator(_path_text),
]
"""A file, a folder, or what stands for one."""
EachOnce = AfterValidator(_each_once)
"""For lists of choices."""
Text = Annotated[
    str,
    Field(max_length=LONGEST_TEXT, description=f"text of at most {LONGEST_TEXT:,} characters on one line"),
    AfterValidator(_one_line),
]


@dataclass
class Settings:
    """Base of dataclasses that hold settings."""

    def __post_init__(self) -> None:
        """Check and convert every value.

        Raises:
            SDICError: Naming the first wrong setting, what was given and what is needed.
        """
        for name, rule in rules_of(type(self)).items():
            setattr(self, name, rule.check(getattr(self, name)))


class Rule:
    """What one setting may be.

    Args:
        name: The setting's.
        annotation: Its type, with constraints.
    """

    def __init__(self, name: str, annotation: Any) -> None:
        self.name = name
        self._adapter: TypeAdapter[Any] = TypeAdapter(annotation)
        self._schema = schema = self._adapter.json_schema()
        # Of the values other than none.
        self._plain_schema = next((part for part in schema.get("anyOf", ()) if part.get("type") != "null"), schema)

    @property
    def needed(self) -> str:
        """What the setting must be, as in "must be a number in [0, 1]"."""
        return _needed(self._schema)

    def check(self, value: object) -> Any:
        """Return the value in the setting's type.

        Raises:
            SDICError: If it does not fit.
        """
        try:
            self._check_kind(value)
            return self._adapter.validate_python(value)
        except (ValueError, TypeError, OverflowError, RecursionError):  # pydantic's own is a ValueError
            raise SDICError(f"{self.name} is {shorten(value)}, but must be {self.needed}.") from None

    def _check_kind(self, value: object) -> None:
        """Refuse what pydantic would convert: switches to numbers, and sets and iterators to lists."""
        kind = self._plain_schema.get("type")
        if kind == "array" and not isinstance(value, list | tuple | None):
            raise ValueError("not a list")
        values: Iterable[object] = value if isinstance(value, list | tuple) else [value]
        if isinstance(value, Mapping):
            values = value.values()
        if kind != "boolean" and any(isinstance(each, bool) for each in values):
            raise ValueError("a switch is no number")

    def read(self, text: str) -> Any:
        """Turn text from the command line into a value to check: text as it stands, anything else as in TOML."""
        text = text.strip()
        if self._takes_text and not text.startswith(('"', "'")):
            return text
        try:
            table = tomllib.loads(f"value = {text}")
        except (ValueError, RecursionError):  # no TOML, or a number of more digits than Python reads
            return text
        return table["value"] if table.keys() == {"value"} else text

    def unsets(self, text: str) -> bool:
        """Whether text from the command line takes the setting back; a choice of that name is a choice."""
        return text.strip().lower() == "none" and "none" not in self._plain_schema.get("enum", ())

    @property
    def _takes_text(self) -> bool:
        return self._plain_schema.get("type") == "string" and not {"enum", "const"} & self._plain_schema.keys()


def rules_of(settings: type) -> dict[str, Rule]:
    """Return the rules of a dataclass of settings, in the order of its fields."""
    return _rules_of(settings)


@cache
def _rules_of(settings: type) -> dict[str, Rule]:
    annotations = typing.get_type_hints(settings, include_extras=True)
    return {field.name: Rule(field.name, annotations[field.name]) for field in dataclasses.fields(settings)}


# What is needed, in words.


def _needed(schema: Mapping[str, Any]) -> str:
    """Describe a JSON schema of the types above."""
    if "anyOf" in schema:
        parts = [_needed(part) for part in schema["anyOf"] if part.get("type") != "null"]
        return f"{' or '.join(parts)}, or none"
    if "description" in schema:
        return schema["description"]
    choices = _choices(schema)
    if choices:
        return f"one of {', '.join(choices)}" if len(choices) > 1 else choices[0]
    if schema["type"] == "boolean":
        return "true or false"
    if schema["type"] == "array":
        return _needed_list(schema)
    return f"a {_noun(schema)} {_range(schema)}"


def _needed_list(schema: Mapping[str, Any]) -> str:
    items = schema["items"]
    choices = _choices(items)
    if choices:
        return f"a list with nothing but {', '.join(choices)} in it, each at most once"
    if items["type"] == "string":
        return f"a list, each item of it {_needed(items)}"
    return f"a list of {NUMBER_WORDS[schema['minItems']]} {_noun(items)}s {_range(items)}"


def _choices(schema: Mapping[str, Any]) -> list[str]:
    return [str(choice) for choice in schema.get("enum", [schema["const"]] if "const" in schema else [])]


def _noun(schema: Mapping[str, Any]) -> str:
    return "whole number" if schema["type"] == "integer" else "number"


def _range(schema: Mapping[str, Any]) -> str:
    opening, low = ("[", schema["minimum"]) if "minimum" in schema else ("(", schema["exclusiveMinimum"])
    closing, high = ("]", schema["maximum"]) if "maximum" in schema else (")", schema["exclusiveMaximum"])
    if schema["type"] == "integer":
        multiple = f", divisible by {schema['multipleOf']}" if "multipleOf" in schema else ""
        return f"from {low:,} to {high:,}{multiple}"
    return f"in {opening}{low:g}, {high:,.15g}{closing}"
