"""Dataclass fields become command-line options; presets replace defaults."""

import importlib
import sys
from dataclasses import FrozenInstanceError, dataclass, fields

import pytest

from minitext.data.dataset import DataConfig
from minitext.utils.config import option, parse, require
from minitext.utils.errors import UserError


@dataclass(frozen=True)
class TrainConfig:
    """training

    A second paragraph, which the help does not show.
    """

    max_length: int = option(256, "tokens per text")
    lr: float = option(1e-3, "learning rate")
    name: str = option("first", "name of the run")
    out: str | None = option(None, "folder")
    steps: int | None = option(None, "maximum number of steps")
    quiet: bool = option(False, "print nothing")
    fast: bool | None = option(None, "fast or not; decided later if not given")
    fractions: tuple[float, float] = option((1.0, 0.5), "of train and test", metavar=("TRAIN", "TEST"))
    penalties: tuple[float, ...] = option((0.1, 1.0), "candidates")
    kind: str = option("mean", "pooling", choices=("mean", "max"))

    def __post_init__(self) -> None:
        if self.max_length < 1:
            raise UserError(f"--max-length must be at least 1 (got {self.max_length})")


@dataclass(frozen=True)
class Config:
    data: DataConfig
    train: TrainConfig


def parsed(*arguments: str) -> TrainConfig:
    return parse(Config, "A script.", arguments=arguments).train


@pytest.fixture
def help_text(capsys: pytest.CaptureFixture, monkeypatch: pytest.MonkeyPatch) -> str:
    monkeypatch.setenv("COLUMNS", "200")  # otherwise argparse wraps lines inside the phrases that we look for
    with pytest.raises(SystemExit) as end:
        parsed("--help")
    assert end.value.code == 0
    return capsys.readouterr().out


def test_without_arguments_each_option_has_its_default():
    assert parsed() == TrainConfig()


@pytest.mark.parametrize(
    ("arguments", "name", "value"),
    [
        (["--max-length", "8"], "max_length", 8),
        (["--max-length=8"], "max_length", 8),
        (["--lr", "5e-5"], "lr", 5e-5),
        (["--name", "second"], "name", "second"),
        (["--out", "runs"], "out", "runs"),
        (["--steps", "3"], "steps", 3),
        (["--quiet"], "quiet", True),
        (["--fast"], "fast", True),
        (["--no-fast"], "fast", False),
        (["--fractions", "0.04", "0.02"], "fractions", (0.04, 0.02)),
        (["--penalties", "2"], "penalties", (2.0,)),
        (["--penalties", "1", "2", "3"], "penalties", (1.0, 2.0, 3.0)),
        (["--kind", "max"], "kind", "max"),
    ],
)
def test_an_argument_has_the_type_of_its_field(arguments: list[str], name: str, value: object):
    config = parsed(*arguments)
    assert getattr(config, name) == value
    assert type(getattr(config, name)) is type(value)
    assert [entry.name for entry in fields(config) if getattr(config, entry.name) != entry.default] == [name]


def test_parsed_options_are_frozen():
    with pytest.raises(FrozenInstanceError):
        parsed().lr = 1.0


def test_each_group_gets_its_own_instance():
    arguments = ["--lr", "0.5", "--data", "imdb", "--subset", "0.04", "0.02"]
    config = parse(Config, "A script.", arguments=arguments)
    assert config == Config(DataConfig(data="imdb", subset=(0.04, 0.02)), TrainConfig(lr=0.5))


@pytest.mark.parametrize(
    ("arguments", "shown"),
    [
        (["--colour", "red"], "--colour"),
        (["--max", "8"], "--max"),  # an abbreviation would change its meaning when an option is added
        (["stray"], "stray"),
        (["--max-length", "long"], "'long'"),
        (["--max-length"], "--max-length"),
        (["--fractions", "0.5"], "--fractions"),
        (["--kind", "median"], "'median'"),
        (["--quiet=yes"], "--quiet"),
    ],
)
def test_a_wrong_argument_exits_with_status_2_and_is_named(
    capsys: pytest.CaptureFixture, arguments: list[str], shown: str
):
    with pytest.raises(SystemExit) as end:
        parsed(*arguments)
    assert end.value.code == 2
    assert shown in capsys.readouterr().err.splitlines()[-1]


def test_a_value_that_the_dataclass_rejects_raises_a_user_error():
    with pytest.raises(UserError, match="--max-length must be at least 1"):
        parsed("--max-length", "0")


def test_the_help_shows_defaults_as_they_are_typed(help_text: str):
    assert "tokens per text (default: 256)" in help_text
    assert "learning rate (default: 0.001)" in help_text
    assert "of train and test (default: 1.0 0.5)" in help_text
    assert "pooling (default: mean)" in help_text


def test_the_help_shows_no_default_for_none_and_false(help_text: str):
    lines = [line.strip() for line in help_text.splitlines()]
    assert any(line.endswith(" folder") for line in lines)
    assert any(line.endswith("print nothing") for line in lines)
    assert not any("default: None" in line or "default: False" in line for line in lines)


def test_the_help_has_the_description_and_the_first_line_of_each_group(help_text: str):
    assert "A script." in help_text
    assert "\ntraining:\n" in help_text
    assert "second paragraph" not in help_text


def test_the_help_names_the_values_of_a_tuple(help_text: str):
    assert "--fractions TRAIN TEST" in help_text


# Presets

PRESETS = {"large": {"max_length": 512, "fractions": (0.04, 0.02)}}


def with_presets(*arguments: str) -> TrainConfig:
    return parse(Config, "A script.", PRESETS, arguments).train


def test_a_preset_replaces_defaults():
    config = with_presets("--preset", "large")
    assert (config.max_length, config.fractions, config.lr) == (512, (0.04, 0.02), 1e-3)


def test_a_given_option_overrides_the_preset():
    assert with_presets("--max-length", "64", "--preset", "large").max_length == 64


def test_without_preset_the_defaults_hold():
    assert with_presets() == TrainConfig()


def test_the_help_lists_what_a_preset_sets(capsys, monkeypatch):
    monkeypatch.setenv("COLUMNS", "200")
    with pytest.raises(SystemExit):
        with_presets("--help")
    assert "large: --max-length 512 --fractions 0.04 0.02" in capsys.readouterr().out


@pytest.mark.parametrize("script", ["train_static", "train_scratch", "train_finetune"])
def test_each_script_has_the_preset_of_the_course_report(script, monkeypatch):
    module = importlib.import_module(script)
    monkeypatch.setattr(sys, "argv", [script, "--preset", "course-report"])
    monkeypatch.setattr(module, "parse", lambda *given, **more: configs.append(parse(*given, **more)) or configs[0])
    monkeypatch.setattr(module, "train_one_seed", lambda *_: None)
    configs = []
    module.main()
    groups = [getattr(configs[0], group.name) for group in fields(configs[0])]
    values = {entry.name: getattr(group, entry.name) for group in groups for entry in fields(group)}
    assert module.COURSE_REPORT.items() <= values.items()
    assert (values["data"], values["subset"]) == ("imdb", (0.04, 0.02))


# Numbers


@pytest.mark.parametrize(
    "arguments",
    [
        ["--lr", "nan"],
        ["--lr", "inf"],
        ["--lr=-inf"],
        ["--penalties", "0.1", "nan"],
        ["--fractions", "1", "inf"],
        ["--steps", str(2**64)],
        ["--max-length", "9" * 400],
    ],
)
def test_a_number_that_is_not_finite_or_too_large_is_refused_for_every_option(arguments: list[str]):
    name = arguments[0].partition("=")[0]
    with pytest.raises(UserError, match=f"{name} must be a finite number of at most 64 bits"):
        parsed(*arguments)


@pytest.mark.parametrize("value", [float("nan"), float("inf"), 2**63, -(2**70)])
def test_a_condition_is_not_met_by_a_number_that_is_not_usable(value: float):
    with pytest.raises(UserError, match=r"--lr must be any number \(got "):
        require(TrainConfig(lr=value), lambda _: True, "any number", "lr")


def test_each_value_of_a_field_has_to_meet_the_condition():
    with pytest.raises(UserError, match=r"--penalties must be > 0 \(got -1\)"):
        require(TrainConfig(penalties=(0.1, -1)), lambda value: value > 0, "> 0", "penalties")
