"""Command-line options from frozen dataclasses: each default is defined once.

Inputs: a dataclass whose fields are groups, dataclasses with fields made by `option`. Outputs: a filled instance of it.
"""

import argparse
import math
import types
import typing
from collections.abc import Callable, Mapping, Sequence
from dataclasses import field, fields
from typing import Any, TypeVar

from minitext.utils.errors import UserError

Settings = TypeVar("Settings")
MAX_INTEGER = 2**63 - 1


def option(default: Any, help: str, **argparse_settings: Any) -> Any:
    """A dataclass field that is also a command-line option with this help text."""
    return field(default=default, metadata={"help": help, **argparse_settings})


def require(config: Any, condition: Callable[[Any], bool], expected: str, *names: str) -> None:
    """Raise UserError unless the fields `names` meet a condition: "--lr must be > 0 (got -1)". None is not checked.

    A field with several values meets it if each of them does. No number may be NaN, infinite, or too large for torch.
    """
    for name in names:
        values = getattr(config, name)
        for value in values if isinstance(values, tuple) else (values,):
            if value is not None and not (is_usable(value) and condition(value)):
                raise UserError(f"--{name.replace('_', '-')} must be {expected} (got {value})")


def is_usable(value: Any) -> bool:
    """False for NaN, infinity, and integers that torch's 64 bits cannot hold."""
    if isinstance(value, int):
        return abs(value) <= MAX_INTEGER
    return not isinstance(value, float) or math.isfinite(value)


def parse(
    config: type[Settings],
    description: str | None,
    presets: Mapping[str, Mapping[str, Any]] | None = None,
    arguments: Sequence[str] | None = None,
) -> Settings:
    """Parse the command line (or `arguments`) into an instance of `config`, a dataclass whose fields are dataclasses.

    A field `max_length: int = option(256, "…")` of one of these becomes `--max-length`, listed in the help under the
    first line of its docstring. `presets` are `{name: {field: value}}`: `--preset name` replaces these defaults.
    """
    parser = argparse.ArgumentParser(
        description=description, formatter_class=argparse.RawDescriptionHelpFormatter, allow_abbrev=False
    )
    if presets:
        shown = "; ".join(f"{name}: {format_preset(preset)}" for name, preset in presets.items())
        parser.add_argument("--preset", choices=tuple(presets), help=f"other defaults. {shown}".replace("%", "%%"))
    for group in fields(config):
        add_group(parser, group.type)
    given = parser.parse_args(arguments)
    if presets and given.preset:
        parser.set_defaults(**presets[given.preset])
        given = parser.parse_args(arguments)  # again: given options override the preset
    return config(**{group.name: fill(group.type, given) for group in fields(config)})


def format_preset(preset: Mapping[str, Any]) -> str:
    """The command-line arguments that a preset replaces."""
    words = []
    for name, value in preset.items():
        words += [f"--{name.replace('_', '-')}", *map(str, value if isinstance(value, tuple) else (value,))]
    return " ".join(words)


def add_group(parser: argparse.ArgumentParser, settings: type) -> None:
    """Add all options of one dataclass; the types come from the annotations."""
    group = parser.add_argument_group((settings.__doc__ or settings.__name__).splitlines()[0])
    for entry in fields(settings):
        details = dict(entry.metadata)
        kind = entry.type
        if isinstance(kind, types.UnionType):  # `str | None`: the option may be absent
            kind = next(member for member in typing.get_args(kind) if member is not type(None))
        if kind is bool:
            details["action"] = argparse.BooleanOptionalAction if entry.default is None else "store_true"
        elif typing.get_origin(kind) is tuple:  # `tuple[float, float]` has two values, `tuple[float, ...]` one or more
            members = typing.get_args(kind)
            details |= {"type": members[0], "nargs": "+" if members[-1] is ... else len(members)}
        else:
            details["type"] = kind
        if entry.default is not None and kind is not bool:
            shown = " ".join(map(str, entry.default)) if isinstance(entry.default, tuple) else entry.default
            details["help"] += f" (default: {shown})"
        group.add_argument(f"--{entry.name.replace('_', '-')}", default=entry.default, **details)


def fill(settings: type[Settings], given: argparse.Namespace) -> Settings:
    """An instance of one dataclass from parsed arguments. Raises UserError for a number that is not usable."""
    values = {entry.name: getattr(given, entry.name) for entry in fields(settings)}
    filled = settings(**{name: tuple(value) if isinstance(value, list) else value for name, value in values.items()})
    require(filled, is_usable, "a finite number of at most 64 bits", *values)
    return filled
