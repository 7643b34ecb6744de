"""Command-line options from frozen dataclasses: each default is defined once.

Inputs: a dataclass whose fields are groups, dataclasses with fields made by `option`. Outputs: a filled instance of it.
"""

import argparse
import types
import typing
from collections.abc import Callable, Mapping, Sequence
from dataclasses import MISSING, Field, field, fields
from types import MappingProxyType
from typing import Any, TypeVar

from minitext.utils.errors import UserError

Settings = TypeVar("Settings")


def option(default: Any, help: str, **argparse_settings: Any) -> Any:
    """A dataclass field that is also a command-line option with this help text."""
    return field(default=default, metadata={"help": help, **argparse_settings})


def require(config: Any, condition: Callable[[Any], bool], expected: str, *names: str) -> None:
    """Raise UserError unless the fields `names` meet a condition: "--lr must be > 0 (got -1)". None is not checked."""
    for name in names:
        value = getattr(config, name)
        if value is not None and not condition(value):
            raise UserError(f"--{name.replace('_', '-')} must be {expected} (got {value})")


def parse(
    config: type[Settings],
    description: str | None,
    presets: Mapping[str, Mapping[str, Any]] = MappingProxyType({}),
    arguments: Sequence[str] | None = None,
) -> Settings:
    """Parse the command line into an instance of `config`.

    Args:
        config: a dataclass whose fields are dataclasses. A field `max_length: int = option(256, "…")` of one of them
            becomes `--max-length`, listed in the help under the first line of its dataclass's docstring.
        description: printed at the top of the help.
        presets: `{name: {field: value}}`; `--preset name` replaces these defaults, and given options override both.
        arguments: default: `sys.argv[1:]`.
    """
    parser = argparse.ArgumentParser(
        description=description, formatter_class=argparse.RawDescriptionHelpFormatter, allow_abbrev=False
    )
    if presets:
        shown = "; ".join(f"{name}: {format_preset(preset)}" for name, preset in presets.items())
        parser.add_argument("--preset", choices=tuple(presets), help=f"other defaults. {shown}".replace("%", "%%"))
    for group in fields(config):
        add_group(parser, group.type)
    if presets:
        early = argparse.ArgumentParser(add_help=False, allow_abbrev=False)
        early.add_argument("--preset")
        parser.set_defaults(**presets.get(early.parse_known_args(arguments)[0].preset, {}))
    given = parser.parse_args(arguments)
    return config(**{group.name: fill(group.type, given) for group in fields(config)})


def format_preset(preset: Mapping[str, Any]) -> str:
    """The command-line arguments that a preset replaces."""
    words = []
    for name, value in preset.items():
        words += [f"--{name.replace('_', '-')}", *map(str, value if isinstance(value, tuple) else (value,))]
    return " ".join(words)


def add_group(parser: argparse.ArgumentParser, settings: type) -> None:
    """Add all options of one dataclass."""
    group = parser.add_argument_group((settings.__doc__ or settings.__name__).splitlines()[0])
    for entry in fields(settings):
        add_option(group, entry)


def fill(settings: type[Settings], given: argparse.Namespace) -> Settings:
    """An instance of one dataclass from parsed arguments."""
    values = {entry.name: getattr(given, entry.name) for entry in fields(settings)}
    return settings(**{name: tuple(value) if isinstance(value, list) else value for name, value in values.items()})


def add_option(group: Any, entry: Field) -> None:
    """Add one dataclass field to an argparse group; its type comes from the annotation."""
    settings = dict(entry.metadata)
    help_text = settings.pop("help")
    kind = entry.type
    if isinstance(kind, types.UnionType):  # `str | None`: the option may be absent
        kind = next(member for member in typing.get_args(kind) if member is not type(None))
    if kind is bool:
        settings["action"] = "store_true"
    elif typing.get_origin(kind) is tuple:  # `tuple[float, float]` takes two values, `tuple[float, ...]` one or more
        members = typing.get_args(kind)
        settings |= {"type": members[0], "nargs": "+" if members[-1] is ... else len(members)}
    else:
        settings["type"] = kind
    default = None if entry.default is MISSING else entry.default
    if default is not None and kind is not bool:
        shown = " ".join(map(str, default)) if isinstance(default, tuple) else default
        help_text += f" (default: {shown})"
    group.add_argument(f"--{entry.name.replace('_', '-')}", default=default, help=help_text, **settings)
