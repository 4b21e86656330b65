"""How a command is declared: a dataclass of its options, a function that takes it, and typer in between.

typer reads options off a function's signature. A command here has up to thirty of them, some of which two commands
share, so they are fields of a dataclass instead, annotated as typer's parameters are; `Commands.command` makes the
signature of them. Parsing imports nothing heavy and runs nothing: it ends in a `Job`, which `main` runs.
"""

from __future__ import annotations

import dataclasses
import inspect
import re
from collections.abc import Callable, Iterable, Iterator, Mapping, Sequence
from dataclasses import dataclass
from typing import Annotated, Any, TypeVar, get_args, get_origin, get_type_hints

import typer
from typer.core import TyperCommand, TyperGroup

from sdic_plugin.commands.imports import import_diffusers
from sdic_plugin.errors import LONGEST_MESSAGE, cut_middle, printable, shorten
from sdic_plugin.utils.memory import keep_freed_memory

UsageError: type[Exception] = typer.BadParameter.__mro__[1]
"""What typer raises for arguments it cannot read; it has no public name for it."""

NEGATIVE_NUMBER = re.compile(r"-(\d+|\d*\.\d+)")


@dataclass(kw_only=True)
class Arguments:
    """Options of a command; each command has a class of its own."""

    own_process = False  # no annotation, so that it is no option
    """Whether the process is this command's alone, so that it may change what holds for all of it."""

    @property
    def keeps_memory(self) -> bool:
        """Whether the process may keep what it has freed; see `sdic_plugin.utils.memory`."""
        return True

    def prepare_process(self) -> None:
        """Make the process fit for the work, if it is this command's alone; called once the options are checked."""
        if self.own_process and self.keeps_memory:
            keep_freed_memory()
        if self.own_process:
            import_diffusers()


Options = TypeVar("Options", bound=Arguments)


@dataclass(frozen=True)
class Job:
    """A command whose arguments were read.

    Attributes:
        run: Does the work; returns the exit code.
        options: What it does it with.
    """

    run: Callable[[], int]
    options: Arguments


@dataclass(frozen=True)
class BareValue:
    """Marks an option whose value may be left out; it then has this one."""

    value: str


@dataclass(frozen=True)
class SeveralValues:
    """Marks an option that takes several values at once, as `--rows a b`; it may be repeated, too."""


class _PlainFlags:
    """Gives typer's own flags (help, completion) False for their default: to find that None is no flag takes it 0.1 s.

    That is how long pydantic takes to import, which typer reads values with.
    """

    def get_params(self, ctx: Any) -> list[Any]:
        params: list[Any] = super().get_params(ctx)  # type: ignore[misc]  # of typer's command, which stands behind
        for param in params:
            if not param.expose_value and param.default is None:
                param.default = False
        return params


class _Group(_PlainFlags, TyperGroup):
    """A command that has commands of its own."""


class Commands:
    """A command line's commands, in the order of their help.

    Args:
        help: What it is for.
        examples: Commands to copy, the most usual one first.
        root: Whether it is the whole command line, rather than a command that has some of its own.
    """

    def __init__(self, help: str, examples: Sequence[str] = (), root: bool = False) -> None:
        self.app = typer.Typer(
            cls=_Group,
            help=help,
            epilog=examples_text(examples),
            add_completion=root,
            context_settings={"help_option_names": ["-h", "--help"]},
            pretty_exceptions_enable=False,
            rich_markup_mode="rich",
            subcommand_metavar="COMMAND",
        )

    def command(
        self, name: str, help: str, examples: Sequence[str], panel: str | None = None
    ) -> Callable[[Callable[[Options], int]], Callable[[Options], int]]:
        """Add a command: decorates its function, whose one argument is annotated with the class of its options."""

        def add(run: Callable[[Options], int]) -> Callable[[Options], int]:
            (name_of_options,) = inspect.signature(run).parameters
            self.app.command(
                name,
                help=help,
                epilog=examples_text(examples),
                rich_help_panel=panel,
                cls=_command_class(get_type_hints(run)[name_of_options]),
            )(_with_options_as_parameters(run, get_type_hints(run)[name_of_options]))
            return run

        return add

    def group(self, name: str, commands: Commands, panel: str | None = None) -> None:
        """Add a command that has commands of its own."""
        self.app.add_typer(commands.app, name=name, rich_help_panel=panel)


def examples_text(examples: Sequence[str]) -> str | None:
    """Lay examples out, one a line; None without any."""
    if not examples:
        return None
    lines = [example.replace("[", r"\[") for example in examples]
    return "\n".join(["[bold]Examples[/bold]", *(f"$ {line}" for line in lines)])


def _with_options_as_parameters(run: Callable[[Options], int], options: type[Options]) -> Callable[..., Job]:
    """Return a function with a parameter for each option, which returns the job to do."""

    def read(**values: Any) -> Job:
        arguments = options(**values)
        return Job(lambda: run(arguments), arguments)

    hints = get_type_hints(options, include_extras=True)
    parameters = [
        inspect.Parameter(field.name, inspect.Parameter.KEYWORD_ONLY, default=_default(field),
                          annotation=hints[field.name])
        for field in dataclasses.fields(options)
    ]  # fmt: skip
    vars(read)["__signature__"] = inspect.Signature(parameters)
    read.__annotations__ = {field.name: hints[field.name] for field in dataclasses.fields(options)}
    return read


def given_options(options: Arguments, names: Iterable[str]) -> list[str]:
    """Of the options of these names, those with another value than their default, as on the command line."""
    defaults = {field.name: _default(field) for field in dataclasses.fields(options)}
    return [f"--{name.replace('_', '-')}" for name in names if getattr(options, name) != defaults[name]]


def _default(field: dataclasses.Field[Any]) -> Any:
    if field.default_factory is not dataclasses.MISSING:
        return field.default_factory()
    return inspect.Parameter.empty if field.default is dataclasses.MISSING else field.default


def _command_class(options: type[Arguments]) -> type[TyperCommand]:
    """Return typer's command with options whose values may be left out, or are several."""
    bare: dict[str, str] = {}
    several: set[str] = set()
    for name, hint in get_type_hints(options, include_extras=True).items():
        for mark in get_args(hint)[1:] if get_origin(hint) is Annotated else ():
            if isinstance(mark, BareValue):
                bare[name] = mark.value
            if isinstance(mark, SeveralValues):
                several.add(name)

    class OptionsCommand(_PlainFlags, TyperCommand):
        options_class = options

        def parse_args(self, ctx: Any, args: list[str]) -> list[str]:
            if not ctx.resilient_parsing:  # as for completion, where the line is not whole yet
                flags = {flag: param for param in self.params for flag in getattr(param, "opts", ())}
                rules = {flag: _Rule.of(param, bare, several) for flag, param in flags.items() if flag[:1] == "-"}
                args = list(join_values(args, rules, ctx))
            return super().parse_args(ctx, args)

    return OptionsCommand


@dataclass(frozen=True)
class _Rule:
    """How many values follow an option: `count`, from one on with `several`, or none or one with a `bare` value."""

    count: int
    several: bool = False
    bare: str | None = None

    @classmethod
    def of(cls, param: Any, bare: Mapping[str, str], several: set[str]) -> _Rule:
        flag = getattr(param, "is_flag", False)
        return cls(0 if flag else param.nargs, param.name in several, bare.get(param.name))


def join_values(arguments: Sequence[str], rules: Mapping[str, _Rule], context: Any = None) -> Iterator[str]:
    """Rewrite options so that each value stands with its option: `--rows a b` becomes `--rows=a --rows=b`.

    What looks like another option is not taken for a value, as click would; negative numbers are values.

    Raises:
        UsageError: If an option lacks its values.
    """
    rest = list(arguments)
    while rest:
        word = rest.pop(0)
        rule = rules.get(word)
        if word == "--":
            yield from [word, *rest]
            return
        if rule is None or not rule.count:
            yield word
            continue
        most = len(rest) if rule.several else rule.count
        values = rest[: next((i for i, each in enumerate(rest[:most]) if not _is_value(each)), min(most, len(rest)))]
        del rest[: len(values)]
        if not values and rule.bare is not None:
            values = [rule.bare]
        if len(values) < rule.count:
            needed = "one or more values" if rule.several else "a value" if rule.count == 1 else f"{rule.count} values"
            raise UsageError(f"{word} takes {needed}, but {len(values) or 'none'} was given.", context)
        if rule.count > 1:
            yield from [word, *values]
        else:
            yield from (f"{word}={value}" for value in values)


def _is_value(word: str) -> bool:
    return word[:1] != "-" or word == "-" or " " in word or NEGATIVE_NUMBER.fullmatch(word) is not None


def usage_message(error: Any) -> str:
    """Say on one line, fit for a terminal, what is wrong with the arguments, and of which command."""
    context, option = getattr(error, "ctx", None), getattr(error, "param", None)
    where = "sdic" if context is None else context.command_path
    message = " ".join(error.format_message().split())
    choices = getattr(getattr(context, "command", None), "commands", None)
    if choices and message == "Missing command.":
        message = f"no command was given: give one of {', '.join(choices)}."
    elif option is not None and error.message:
        message = f"{_name_of(option)}{_what_is_wrong(error)}."
    return f"{where}: {cut_middle(printable(message), LONGEST_MESSAGE).rstrip('.')}; see {where} --help."


def _name_of(option: Any) -> str:
    return str(option.opts[0] if option.opts[0].startswith("-") else option.metavar or option.name)


def _what_is_wrong(error: Any) -> str:
    """Say what is wrong with a value, quoting it; pydantic's own words begin with "Input should be"."""
    text = error.message.removeprefix("Value error, ").partition(", unable to parse")[0].rstrip(".")
    details: list[dict[str, Any]] = getattr(error.__cause__, "errors", list)()
    if details and text.startswith("Input should"):
        return f" is {shorten(details[0].get('input'))}, but{text.removeprefix('Input')}"
    return f": {text}"
