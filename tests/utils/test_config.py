"""Proves that a dataclass is the whole truth about a script's options, and that a script ends with the status and the
one line that a shell and a person expect.
"""

import importlib
import sys
from dataclasses import FrozenInstanceError, dataclass, fields

import pytest

from minitext.data.dataset import DataConfig
from minitext.utils.config import option, parse
from minitext.utils.errors import UserError, exit_status


@dataclass(frozen=True)
class TrainOptions:
    """training

    A second paragraph, which is not for the command line.
    """

    max_length: int = option(256, "tokens of a text")
    lr: float = option(1e-3, "learning rate")
    name: str = option("first", "of the run")
    out: str | None = option(None, "folder")
    steps: int | None = option(None, "at most so many steps")
    quiet: bool = option(False, "say nothing")
    share: tuple[float, float] = option((1.0, 0.5), "of train and test", metavar=("TRAIN", "TEST"))
    penalties: tuple[float, ...] = option((0.1, 1.0), "to choose from")
    kind: str = option("mean", "how", choices=("mean", "max"))

    def __post_init__(self) -> None:
        if self.max_length < 1:
            raise UserError(f"--max-length {self.max_length}: at least 1")


def parsed(*arguments: str) -> TrainOptions:
    return parse("A script.", list(arguments), train=TrainOptions).train


def help_text(capsys: pytest.CaptureFixture, monkeypatch: pytest.MonkeyPatch) -> str:
    monkeypatch.setenv("COLUMNS", "200")  # else argparse breaks lines where we look for a phrase
    with pytest.raises(SystemExit) as end:
        parsed("--help")
    assert end.value.code == 0
    return capsys.readouterr().out


# Options


def test_without_arguments_each_option_has_its_default():
    assert parsed() == TrainOptions()


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
        (["--share", "0.04", "0.02"], "share", (0.04, 0.02)),
        (["--penalties", "2"], "penalties", (2.0,)),
        (["--penalties", "1", "2", "3"], "penalties", (1.0, 2.0, 3.0)),
        (["--kind", "max"], "kind", "max"),
    ],
)
def test_an_argument_becomes_a_value_of_its_field_s_type(arguments: list[str], name: str, value: object):
    options = parsed(*arguments)
    assert getattr(options, name) == value
    assert type(getattr(options, name)) is type(value)
    assert [entry.name for entry in fields(options) if getattr(options, entry.name) != entry.default] == [name]


def test_parsed_options_cannot_be_changed():
    with pytest.raises(FrozenInstanceError):
        parsed().lr = 1.0


def test_each_group_gets_its_own_instance():
    options = parse("A script.", ["--lr", "0.5", "--data", "imdb", "--subset", "0.04", "0.02"],
                    data=DataConfig, train=TrainOptions)  # fmt: skip
    assert options.data == DataConfig(data="imdb", subset=(0.04, 0.02))
    assert options.train == TrainOptions(lr=0.5)


@pytest.mark.parametrize(
    ("arguments", "shown"),
    [
        (["--colour", "red"], "--colour"),
        (["--max", "8"], "--max"),  # an abbreviation would change its meaning when an option is added
        (["stray"], "stray"),
        (["--max-length", "long"], "'long'"),
        (["--max-length"], "--max-length"),
        (["--share", "0.5"], "--share"),
        (["--kind", "median"], "'median'"),
        (["--quiet=yes"], "--quiet"),
    ],
)
def test_an_argument_that_is_wrong_ends_with_status_2_and_is_shown(
    capsys: pytest.CaptureFixture, arguments: list[str], shown: str
):
    with pytest.raises(SystemExit) as end:
        parsed(*arguments)
    assert end.value.code == 2
    assert shown in capsys.readouterr().err.splitlines()[-1]


def test_a_value_that_the_dataclass_refuses_is_the_user_s_error():
    with pytest.raises(UserError, match="--max-length 0: at least 1"):
        parsed("--max-length", "0")


def test_the_help_shows_defaults_as_they_are_typed(capsys: pytest.CaptureFixture, monkeypatch: pytest.MonkeyPatch):
    text = help_text(capsys, monkeypatch)
    assert "tokens of a text (default: 256)" in text
    assert "learning rate (default: 0.001)" in text
    assert "of train and test (default: 1.0 0.5)" in text
    assert "how (default: mean)" in text


def test_the_help_shows_no_default_where_there_is_none(capsys: pytest.CaptureFixture, monkeypatch: pytest.MonkeyPatch):
    lines = [line.strip() for line in help_text(capsys, monkeypatch).splitlines()]
    assert any(line.endswith("folder") for line in lines)
    assert any(line.endswith("say nothing") for line in lines)
    assert not any("None" in line or "False" in line for line in lines)


def test_the_help_has_the_description_and_the_first_line_of_each_group(
    capsys: pytest.CaptureFixture, monkeypatch: pytest.MonkeyPatch
):
    text = help_text(capsys, monkeypatch)
    assert "A script." in text
    assert "\ntraining:\n" in text
    assert "second paragraph" not in text


def test_the_help_names_the_values_of_a_tuple(capsys: pytest.CaptureFixture, monkeypatch: pytest.MonkeyPatch):
    assert "--share TRAIN TEST" in help_text(capsys, monkeypatch)


# Exit status


def status_of(error: BaseException | None, monkeypatch: pytest.MonkeyPatch, *arguments: str) -> int:
    monkeypatch.setattr(sys, "argv", ["train.py", *arguments])

    def main() -> None:
        if error is not None:
            raise error

    return exit_status(main)


def test_a_script_that_ends_well_has_status_0_and_says_nothing(
    capsys: pytest.CaptureFixture, monkeypatch: pytest.MonkeyPatch
):
    assert status_of(None, monkeypatch) == 0
    assert capsys.readouterr() == ("", "")


@pytest.mark.parametrize(
    ("error", "status", "line"),
    [
        (UserError("data.csv, line 3: no label"), 2, "error: data.csv, line 3: no label"),
        (OSError(28, "No space left on device", "runs"), 2, "error: [Errno 28] No space left on device: 'runs'"),
        (KeyboardInterrupt(), 130, "interrupted"),
        (KeyboardInterrupt("state saved in runs/1"), 130, "interrupted: state saved in runs/1"),
    ],
)
def test_what_a_user_can_mend_is_one_line_on_stderr(
    capsys: pytest.CaptureFixture, monkeypatch: pytest.MonkeyPatch, error: BaseException, status: int, line: str
):
    assert status_of(error, monkeypatch) == status
    assert capsys.readouterr() == ("", line + "\n")


@pytest.mark.parametrize("error", [UserError("bad"), OSError("bad")])
def test_debug_keeps_the_traceback(monkeypatch: pytest.MonkeyPatch, error: Exception):
    with pytest.raises(type(error), match="bad"):
        status_of(error, monkeypatch, "--debug")


def test_an_error_of_ours_is_not_dressed_up_as_the_user_s(monkeypatch: pytest.MonkeyPatch):
    with pytest.raises(ValueError, match="a bug"):
        status_of(ValueError("a bug"), monkeypatch)


def test_the_status_of_argparse_passes_through(monkeypatch: pytest.MonkeyPatch):
    with pytest.raises(SystemExit) as end:
        status_of(SystemExit(2), monkeypatch)
    assert end.value.code == 2


# Presets

COURSE_REPORT = {"report": {"max_length": 512, "share": (0.04, 0.02)}}


def with_presets(*arguments: str) -> TrainOptions:
    return parse("A script.", list(arguments), presets=COURSE_REPORT, train=TrainOptions).train


def test_a_preset_replaces_defaults():
    found = with_presets("--preset", "report")
    assert (found.max_length, found.share, found.lr) == (512, (0.04, 0.02), 1e-3)


def test_an_option_that_is_given_wins_over_the_preset():
    assert with_presets("--max-length", "64", "--preset", "report").max_length == 64


def test_without_a_preset_nothing_changes():
    assert with_presets() == TrainOptions()


def test_the_help_says_what_a_preset_sets(capsys, monkeypatch):
    monkeypatch.setenv("COLUMNS", "200")
    with pytest.raises(SystemExit):
        with_presets("--help")
    assert "report: --max-length 512 --share 0.04 0.02" in capsys.readouterr().out


@pytest.mark.parametrize("script", ["train_static", "train_scratch", "train_finetune"])
def test_each_script_has_the_reports_settings_as_a_preset_of_options_that_it_has(script, monkeypatch):
    module = importlib.import_module(script)
    seen = {}
    monkeypatch.setattr(module, "train_one_seed", lambda options, *_: seen.update(vars(options)))
    monkeypatch.setattr(sys, "argv", [script, "--preset", "report"])
    module.main()
    values = {field.name: getattr(group, field.name) for group in seen.values() for field in fields(group)}
    assert module.COURSE_REPORT.items() <= values.items()
    assert (values["data"], values["fraction"]) == ("imdb", (0.04, 0.02))
