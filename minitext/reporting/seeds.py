"""Seed variance: the same run with several seeds.

Inputs: the configuration of a script. Outputs: one configuration per seed; then `seeds.json` with mean and standard
deviation of every score over the runs, and their learning curves in one figure.
"""

from collections.abc import Iterator, Sequence
from dataclasses import replace
from pathlib import Path
from typing import Any, TypeVar

from minitext.evaluation.significance import mean_and_std
from minitext.reporting.formats import format_mean, text_table
from minitext.reporting.report import IF_CALIBRATED, IN_PERCENT, METRIC_LABELS
from minitext.utils.errors import UserError
from minitext.utils.io import read_json, write_json
from minitext.utils.metrics_log import MetricsLog
from minitext.utils.run_dir import METRICS_FILE, already_finished, log

Config = TypeVar("Config")  # a frozen dataclass with a field `run: RunConfig`


def for_each_seed(config: Config, names: Sequence[str] = ("",)) -> Iterator[Config]:
    """Yield `config` once for each of `--num-seeds` seeds; `names` are the runs that the script writes for a seed.

    With `--resume`, seeds whose runs are all finished are skipped, and it is said. Raises UserError if
    they have other settings, or if a run of a single seed exists where those of several seeds would be written.
    """
    run = config.run
    for name in names if run.num_seeds > 1 else ():
        if (Path(run.out) / name / "scores.json").exists():
            raise UserError(f"{Path(run.out) / name}: contains a run of a single seed; pass another --out")
    for seed in range(run.seed, run.seed + run.num_seeds):
        seed_config = replace(config, run=replace(run, seed=seed))
        folders = [seed_config.run.folder(name) for name in names]
        if not already_finished(seed_config, folders):
            yield seed_config
        else:
            log(f"{', '.join(map(str, folders))}: finished already, with these settings", run.quiet)


def summarize(config: Any, name: str = "") -> str:
    """Write `seeds.json` and `curves.png` for the runs `name` of all seeds; returns a table for the terminal."""
    from minitext.reporting.plots import curves, save  # here: matplotlib is slow to import

    seeds = range(config.run.seed, config.run.seed + config.run.num_seeds)
    folders = [replace(config.run, seed=seed).folder(name) for seed in seeds]
    runs = [read_json(folder / "scores.json") for folder in folders]
    summary: dict[str, dict[str, dict]] = {part: {} for part in runs[0]}
    rows = [["", *summary]]
    for key, label in METRIC_LABELS.items():
        rows.append([label])
        for part, means in summary.items():
            values = [run[part][key]["value"] for run in runs]
            if None in values:  # undefined for a seed
                rows[-1].append("none")
                continue
            mean, std = mean_and_std(values)
            means[key] = {"mean": mean, "std": std, "values": values}
            rows[-1].append(format_mean(mean, std, key in IN_PERCENT))
    rows.append([IF_CALIBRATED])
    for part in summary:
        found = [run[part]["ece_if_calibrated"] for run in runs]
        above = sum(one["verdict"] == "above" for one in found)
        mean = mean_and_std([one["mean"] for one in found])[0]
        rows[-1].append(f"{100 * mean:.1f} %; above in {above} of {len(runs)}")
    parent = folders[0].parent
    write_json(parent / "seeds.json", summary)
    save(curves(*(MetricsLog(folder / METRICS_FILE).evaluations() for folder in folders)), parent / "curves.png")
    return f"\n{parent}: mean (standard deviation) of {len(runs)} seeds\n{text_table(rows)}"
