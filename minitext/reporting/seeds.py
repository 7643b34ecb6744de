"""The same command with several seeds: what chance alone does to a score.

In: a script's options. Out: options for each seed in turn, then mean and deviation of every score over the runs, and
their learning curves in one figure. A seed draws splits, fractions, weights, dropout and the order of batches.
"""

import json
from collections.abc import Iterator, Mapping, Sequence
from dataclasses import replace
from pathlib import Path
from typing import Any, TypeVar

from minitext.evaluation.significance import summary
from minitext.reporting.report import IN_PERCENT, METRIC_LABELS, show_mean, text_table
from minitext.utils.errors import UserError
from minitext.utils.io import write_text
from minitext.utils.metrics_log import MetricsLog

Config = TypeVar("Config")  # a script's dataclass with a field `run: RunConfig`


def for_each_seed(options: Config, names: Sequence[str] = ("",)) -> Iterator[Config]:
    """`options` as they are, or once for each of `--num-seeds` seeds. `names` are the runs that the script writes.

    SeedGroup whose runs are all finished are passed over by `--resume`. Raises UserError where a run would have to stand
    inside another.
    """
    chosen = options.run
    for name in names if chosen.num_seeds > 1 else ():
        if (Path(chosen.out) / name / "scores.json").exists():
            raise UserError(f"{Path(chosen.out) / name}: holds a run of one seed; choose another --out for several")
    for seed in range(chosen.seed, chosen.seed + chosen.num_seeds):
        once = replace(chosen, seed=seed)
        finished = all((once.folder(name) / "scores.json").exists() for name in names)
        if not (chosen.num_seeds > 1 and finished and getattr(chosen, "resume", False)):
            yield replace(options, run=once)


def summarize(options: Any, name: str = "") -> str:
    """Write `seeds.json` and `curves.png` into the folder above the runs; returns a table for a terminal."""
    folders = [replace(options.run, seed=options.run.seed + i).folder(name) for i in range(options.run.num_seeds)]
    runs = [json.loads((folder / "scores.json").read_text(encoding="utf-8")) for folder in folders]
    over_seeds = {
        part: {
            key: over(runs, part, key)
            for key in METRIC_LABELS
            if all(run[part][key]["value"] is not None for run in runs)
        }
        for part in runs[0]
    }
    above = folders[0].parent
    write_text(above / "seeds.json", json.dumps(over_seeds, indent=2) + "\n")
    from minitext.reporting.plots import save, spread_curves  # here: matplotlib is slow to import

    save(spread_curves([MetricsLog(folder / "metrics.jsonl").evaluations() for folder in folders]), above / "curves.png")
    return f"\n{above}: mean (deviation) of {len(runs)} seeds\n{text_table(seed_rows(over_seeds))}"


def over(runs: Sequence[Mapping], part: str, key: str) -> dict:
    values = [run[part][key]["value"] for run in runs]
    mean, deviation = summary(values)
    return {"mean": mean, "deviation": deviation, "values": values}


def seed_rows(over_seeds: Mapping[str, Mapping]) -> list[list[str]]:
    """A header and a row a score, with a column for each part of the data."""
    rows = [["", *over_seeds]]
    for key, label in METRIC_LABELS.items():
        cells = [
            show_mean(scores[key]["mean"], scores[key]["deviation"], key in IN_PERCENT) if key in scores else "none"
            for scores in over_seeds.values()
        ]
        rows.append([label, *cells])
    return rows
