"""The tables of the page that compares runs, and what all of the page's sections are made of.

In: a `Comparison`. Out: HTML, everything from outside escaped. On a narrow screen each row becomes a card.
"""

from collections.abc import Sequence
from html import escape

from minitext.evaluation.significance import BootstrapEstimate, is_significant_gap
from minitext.reporting import svg
from minitext.reporting.comparison import (
    CORRECTED,
    INTERVALS,
    Comparison,
    PairwiseTest,
    by_kind,
    count_or_dash,
    counted,
    show_bytes,
    show_p,
    texts_a_second,
    time_or_dash,
)


def section(title: str, note: str, *parts: str) -> str:
    """A titled part of the page; `note` is text, `parts` are HTML."""
    return f'<section><h2>{escape(title)}</h2><p class="soft">{escape(note)}</p>{"".join(parts)}</section>'


def name(comparison: Comparison, run: int) -> str:
    """A run's mark and name."""
    return f'<span class="run">{svg.legend_mark(run)}{escape(comparison.runs[run].name)}</span>'


def table(head: Sequence[str], rows: Sequence[str], cards: bool = False) -> str:
    cells = "".join(f'<th scope="col">{escape(cell)}</th>' for cell in head)
    kind = ' class="cards"' if cards else ""
    inside = f"<thead><tr>{cells}</tr></thead><tbody>{''.join(rows)}</tbody>"
    return f'<div class="wide-table"><table{kind}>{inside}</table></div>'


def cell(label: str, inside: str, best: bool = False) -> str:
    """A cell of HTML; `label` stands above it on a narrow screen."""
    return f'<td data-label="{escape(label)}"{" class=best" if best else ""}>{inside}</td>'


def scored(score: dict, in_percent: bool) -> str:
    """A score, with its interval below it."""
    factor, digits, unit = (100, 1, " %") if in_percent else (1, 3, "")
    if score["value"] is None:
        return "none"
    value = f"<b>{factor * score['value']:.{digits}f}{unit}</b>"
    if score["low"] is None:
        return value
    return (
        value
        + f'<span class="interval">{factor * score["low"]:.{digits}f} to {factor * score["high"]:.{digits}f}</span>'
    )


def tested(pair: PairwiseTest) -> str:
    """McNemar's p, and what it says once the number of pairs is taken into account."""
    corrected = "" if pair.corrected == pair.test.p else f"corrected {show_p(pair.corrected)}<br>"
    verdict = '<span class="sure">more than chance</span>' if pair.differ else "may be chance"
    return f'<b>p {show_p(pair.test.p)}</b><span class="interval">{corrected}{verdict}</span>'


def bootstrap_p(sampled: BootstrapEstimate) -> str:
    return f'<span class="interval">bootstrap p {show_p(sampled.p_value())}</span>'


def signed(sampled: BootstrapEstimate, factor: float, digits: int) -> str:
    """A difference, with its interval below it."""
    value, low, high = (minus(factor * end, digits) for end in (sampled.value, *sampled.interval()))
    return f'<b>{value if value.startswith("−") else f"+{value}"}</b><span class="interval">{low} to {high}</span>'


def minus(value: float, digits: int) -> str:
    return f"{value:z.{digits}f}".replace("-", "−")


SCORES = (("accuracy", "accuracy", max), ("macro_f1", "F1 (macro)", max), ("log_loss", "log-loss (nats)", min),
          ("ece", "calibration error", min))  # fmt: skip


def scores(comparison: Comparison) -> str:
    """The overview: a row a run."""
    reach = reach_of([(score["accuracy"]["low"], score["accuracy"]["high"]) for score in comparison.scores], 0.02)
    rows = []
    for i, (run, own, gap) in enumerate(zip(comparison.runs, comparison.scores, comparison.gaps, strict=True)):
        cells = []
        for key, label, better in SCORES:
            values = [score[key]["value"] for score in comparison.scores]
            best = len(values) > 1 and own[key]["value"] == better(values)
            inside = scored(own[key], key != "log_loss")
            if key == "accuracy":
                inside += svg.whisker(i, own[key]["value"], own[key]["low"], own[key]["high"], reach)
            cells.append(cell(label, inside, best))
        flag = '<span class="interval flag">overfitted</span>' if is_significant_gap(gap) else ""
        cells.append(cell("train − test, points", signed(gap, 100, 1) + flag))
        cells.append(cell("parameters", count_or_dash(run.costs.get("parameters"))))
        cells.append(cell("training", time_or_dash(run.costs.get("train_seconds"))))
        cells.append(cell("texts a second", count_or_dash(texts_a_second(run))))
        cells.append(cell("on disk", show_bytes(run.size)))
        rows.append(f'<tr><th scope="row">{name(comparison, i)}</th>{"".join(cells)}</tr>')
    head = [
        "",
        *(label for _, label, _ in SCORES),
        "train − test, points",
        "parameters",
        "training",
        "texts a second",
        "on disk",
    ]
    note = "On test, with 95 % bootstrap intervals over the texts. ★ marks the best value, which may be so by chance."
    return section("Scores", note, table(head, rows, cards=True))


def reach_of(intervals: Sequence[tuple[float, float]], least: float) -> tuple[float, float]:
    return svg.spread([end for interval in intervals for end in interval], least)


def changed_settings(comparison: Comparison) -> str:
    """Every two runs: what they differ by, and whether it may be chance."""
    if not comparison.pairs:
        return ""
    ends = [pair.differences["accuracy"].interval() for pair in comparison.pairs]
    far = 1.08 * max(0.01, *(abs(end) for interval in ends for end in interval))
    rows = []
    for pair, (low, high) in zip(comparison.pairs, ends, strict=True):
        gap = pair.differences["accuracy"]
        ahead = pair.first if gap.value >= 0 else pair.second
        only = f"{pair.test.only_first:,} and {pair.test.only_second:,}"
        both = f"{name(comparison, pair.first)}<br>− {name(comparison, pair.second)}"
        rows.append(
            f'<tr><th scope="row">{both}</th>'
            + cell(
                "accuracy, points", signed(gap, 100, 1) + svg.whisker(ahead, gap.value, low, high, (-far, far), True)
            )
            + cell(
                "F1 (macro), points",
                signed(pair.differences["macro_f1"], 100, 1) + bootstrap_p(pair.differences["macro_f1"]),
            )
            + cell(
                "log-loss (nats)",
                signed(pair.differences["log_loss"], 1, 3) + bootstrap_p(pair.differences["log_loss"]),
            )
            + cell("only one is right", f'{only}<span class="interval">texts, first and second</span>')
            + cell("McNemar", tested(pair))
            + "</tr>"
        )
    head = ["", "accuracy, points", "F1 (macro), points", "log-loss (nats)", "only one is right", "McNemar"]
    return section("Differences", f"{INTERVALS} {CORRECTED}", table(head, rows, cards=True))


def by_tag(comparison: Comparison) -> str:
    """Accuracy in each kind of text, where the data say of what kind a text is."""
    rows = []
    for kind, count, of_runs in by_kind(comparison.runs):
        cells = []
        for i, (run, own) in enumerate(zip(comparison.runs, of_runs, strict=True)):
            whisker = svg.whisker(i, own["value"], own["low"], own["high"], (0, 1))
            cells.append(cell(run.name, scored(own, True) + whisker))
        label = f'{escape(kind)}<small class="interval">{counted(count, "text")}</small>'
        rows.append(f'<tr><th scope="row">{label}</th>{"".join(cells)}</tr>')
    if not rows:
        return ""
    note = "Accuracy on test by tag, with 95 % intervals (Wilson); the scale of the bars is 0 to 100 %."
    head = ["", *(run.name for run in comparison.runs)]
    return section("By kind of text", note, table(head, rows, cards=True))
