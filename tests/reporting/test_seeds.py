"""Several seeds: which runs are made, and their summary."""

import json
import re
from dataclasses import asdict, dataclass, replace
from pathlib import Path

import pytest

from minitext.reporting import plots
from minitext.reporting.report import METRIC_LABELS
from minitext.reporting.seeds import for_each_seed, summarize
from minitext.utils.config import option
from minitext.utils.errors import UserError
from minitext.utils.run_dir import RunConfig

ROW = {"train": {"loss": 0.5, "accuracy": 0.9}, "valid": {"loss": 0.6, "accuracy": 0.8}}


VERDICTS = ("within", "above")


@dataclass(frozen=True)
class Resumable(RunConfig):
    """run"""

    resume: bool = option(False, "resume an interrupted run")


@dataclass(frozen=True)
class Config:
    data: str
    run: Resumable


def config(out: Path, resume: bool = False, **settings) -> Config:
    return Config(data="the data", run=Resumable(out=str(out), resume=resume, **settings))


def write_run(folder: Path, value: float, epochs: int = 2) -> None:
    folder.mkdir(parents=True)
    if_calibrated = {"ece_if_calibrated": {"mean": 0.02, "percentile_95": 0.04, "verdict": VERDICTS[value > 0.75]}}
    scores = {part: {key: {"value": value} for key in METRIC_LABELS} | if_calibrated for part in ("train", "test")}
    (folder / "scores.json").write_text(json.dumps(scores))
    rows = [{"update": 1, "loss": 0.5}, *({"epoch": epoch, **ROW} for epoch in range(1, epochs + 1))]
    (folder / "metrics.jsonl").write_text("".join(json.dumps(row) + "\n" for row in rows))


def write_settings(folder: Path, settings: Config) -> None:
    (folder / "settings.json").write_text(json.dumps(asdict(settings) | {"versions": {"minitext": "0.2.0"}}))


def test_one_seed_has_no_folder_of_its_own(tmp_path):
    (single,) = for_each_seed(config(tmp_path / "a", seed=4))
    assert (single.run.seed, single.run.folder(), single.data) == (4, tmp_path / "a", "the data")
    assert single.run.folder("mlp") == tmp_path / "a" / "mlp"


def test_several_seeds_are_consecutive_and_have_a_folder_each(tmp_path):
    runs = list(for_each_seed(config(tmp_path / "a", seed=4, num_seeds=3)))
    assert [each.run.seed for each in runs] == [4, 5, 6]
    assert runs[1].run.folder("mlp") == tmp_path / "a" / "mlp" / "seed5"


def test_resume_skips_the_seeds_that_are_finished(tmp_path):
    write_run(tmp_path / "a" / "seed0", 0.5)
    write_settings(tmp_path / "a" / "seed0", config(tmp_path / "b", seed=0))
    assert [each.run.seed for each in for_each_seed(config(tmp_path / "a", resume=True, num_seeds=3))] == [1, 2]
    assert [each.run.seed for each in for_each_seed(config(tmp_path / "a", num_seeds=3))] == [0, 1, 2]


def test_one_finished_seed_is_not_trained_again_with_resume(tmp_path, capsys):
    write_run(tmp_path / "a", 0.5)
    write_settings(tmp_path / "a", config(tmp_path / "a"))
    assert list(for_each_seed(config(tmp_path / "a", resume=True))) == []
    assert capsys.readouterr().out == f"{tmp_path / 'a'}: finished already, with these settings\n"


def test_finished_seeds_with_other_settings_are_refused_by_name_or_replaced(tmp_path):
    for seed in range(2):
        write_run(tmp_path / "a" / f"seed{seed}", 0.5)
        other = replace(config(tmp_path / "a", seed=seed), data="other data" if seed else "the data")
        write_settings(tmp_path / "a" / f"seed{seed}", other)
    with pytest.raises(UserError, match=r"seed1: .* other settings \(data: other data → the data\)"):
        list(for_each_seed(config(tmp_path / "a", resume=True, num_seeds=3)))
    again = for_each_seed(config(tmp_path / "a", resume=True, overwrite=True, num_seeds=3))
    assert [each.run.seed for each in again] == [1, 2]


def test_a_run_of_one_seed_is_not_mixed_with_several(tmp_path):
    write_run(tmp_path / "a" / "mlp", 0.5)
    with pytest.raises(UserError, match=r"a/mlp: contains a run of a single seed; pass another --out"):
        list(for_each_seed(config(tmp_path / "a", num_seeds=2), ("logistic", "mlp")))


def test_the_summary_has_mean_and_standard_deviation_of_each_score(tmp_path, monkeypatch):
    monkeypatch.setattr(plots, "DPI", 30)
    for seed, value in enumerate((0.8, 0.9, 0.7)):
        write_run(tmp_path / "a" / f"seed{seed}", value, epochs=2 + seed)
    table = summarize(config(tmp_path / "a", num_seeds=3))
    written = json.loads((tmp_path / "a" / "seeds.json").read_text())["test"]["accuracy"]
    assert written == {"mean": pytest.approx(0.8), "std": pytest.approx(0.1), "values": [0.8, 0.9, 0.7]}
    assert "mean (standard deviation) of 3 seeds" in table and "80.0 % (10.0)" in table
    assert re.search(r"calibration error if calibrated +2\.0 %; above in 2 of 3 ", table)
    assert (tmp_path / "a" / "curves.png").read_bytes().startswith(b"\x89PNG")


def test_a_score_that_is_undefined_for_a_seed_is_none_in_the_summary(tmp_path, monkeypatch):
    monkeypatch.setattr(plots, "DPI", 30)
    for seed in range(2):
        write_run(tmp_path / "a" / f"seed{seed}", 0.5)
    path = tmp_path / "a" / "seed1" / "scores.json"
    path.write_text(path.read_text().replace('"roc_auc": {"value": 0.5}', '"roc_auc": {"value": null}'))
    table = summarize(config(tmp_path / "a", num_seeds=2))
    assert next(line for line in table.splitlines() if line.startswith("ROC-AUC")).split()[1:] == ["none", "none"]


def test_the_mean_curve_ends_where_the_first_seed_stopped():
    runs = [[{"epoch": epoch, **ROW} for epoch in range(1, last + 1)] for last in (2, 4)]
    figure = plots.curves(*runs)
    thick = [line for line in figure.axes[0].lines if line.get_linewidth() == 2]
    assert [list(line.get_xdata()) for line in thick] == [[1, 2], [1, 2]]
    assert len(figure.axes[0].lines) == 6  # two seeds and their mean, on train and on validation
