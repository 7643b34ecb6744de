"""Settings are frozen dataclasses; the command line is made from them, so a default stands in one place only.

In: dataclasses whose fields were made by `option`. Out: one filled instance of each, from the command line.
"""

import argparse
import types
import typing
from collections.abc import Mapping
from dataclasses import MISSING, field, fields
from types import MappingProxyType, SimpleNamespace
from typing import Any


def option(default: Any, help: str, **argparse_settings: Any) -> Any:
    """A dataclass field that is also a command-line option, with the help text that a user reads."""
    return field(default=default, metadata={"help": help, **argparse_settings})


def parse(
    description: str,
    arguments: list[str] | None = None,
    presets: Mapping[str, Mapping[str, Any]] = MappingProxyType({}),
    **groups: type,
) -> SimpleNamespace:
    """Parse the command line into one instance of each dataclass in `groups`, under its keyword's name.

    A field `max_length: int = option(256, "…")` becomes `--max-length`, listed under its dataclass's first doc line.
    A preset, `{"report": {"epochs": 10, …}}`, replaces defaults; options that are given win over it.
    """
    parser = argparse.ArgumentParser(
        description=description, formatter_class=argparse.RawDescriptionHelpFormatter, allow_abbrev=False
    )
    if presets:
        shown = "; ".join(f"{name}: {describe(preset)}" for name, preset in presets.items())
        parser.add_argument("--preset", choices=tuple(presets), help=f"other defaults. {shown}".replace("%", "%%"))
    for settings in groups.values():
        add_group(parser, settings)
    if presets:
        early = argparse.ArgumentParser(add_help=False, allow_abbrev=False)
        early.add_argument("--preset")
        parser.set_defaults(**presets.get(early.parse_known_args(arguments)[0].preset, {}))
    given = parser.parse_args(arguments)
    return SimpleNamespace(**{name: fill(settings, given) for name, settings in groups.items()})


def describe(preset: Mapping[str, Any]) -> str:
    """A preset as it would be typed."""
    words = []
    for name, value in preset.items():
        words += [f"--{name.replace('_', '-')}", *map(str, value if isinstance(value, tuple) else (value,))]
    return " ".join(words)


def add_group(parser: argparse.ArgumentParser, settings: type) -> None:
    """Add all options of one dataclass."""
    group = parser.add_argument_group((settings.__doc__ or settings.__name__).splitlines()[0])
    for entry in fields(settings):
        add_option(group, entry)


def fill(settings: type, given: argparse.Namespace) -> Any:
    """An instance of one dataclass from parsed arguments."""
    values = {entry.name: getattr(given, entry.name) for entry in fields(settings)}
    return settings(**{name: tuple(value) if isinstance(value, list) else value for name, value in values.items()})


def add_option(group: Any, entry: Any) -> None:
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
