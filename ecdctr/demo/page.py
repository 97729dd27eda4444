"""GAUC per evaluation day and experiment, calibration, and the lineage of the serving model."""

from __future__ import annotations

import datetime as dt
import io
import math
from pathlib import Path
from typing import TYPE_CHECKING, Any, NamedTuple

import numpy as np
from rich.box import SIMPLE_HEAD
from rich.table import Table

from ecdctr.errors import StoreError
from ecdctr.evaluation.stored import judged_on, other_impressions
from ecdctr.report.figures import GREY, new_figure
from ecdctr.report.lineage import lineage
from ecdctr.report.rows import COLOURS, NAMES, short_name
from ecdctr.report.templates import environment
from ecdctr.store.aliases import SERVING
from ecdctr.store.manifest import Ref

if TYPE_CHECKING:
    from collections.abc import Iterable

    from matplotlib.axes import Axes
    from matplotlib.figure import Figure
    from numpy.typing import NDArray
    from rich.console import Console

    from ecdctr.store.store import Store

COLUMNS = 3  # days in the terminal table, so that it fits into 80 columns


class Row(NamedTuple):
    """An experiment's newest A-CTR evaluation on one day; a floor's, which is no version, too."""

    experiment: str
    date: str
    version: str
    metrics: dict[str, dict[str, float]]
    curve: list[list[float]]


def collect(store: Store, experiments: list[str]) -> list[Row]:
    """Return the evaluations of next-day ads in the store.

    Of several versions for a day, the newest counts. Raises StoreError if there is none.
    """
    newest: dict[tuple[str, str], Row] = {}
    for experiment in experiments:
        for date, ref in store.evaluated(experiment):
            evaluation = (
                store.load_evaluation(ref, date)
                if date - ref.date == dt.timedelta(days=1)
                else None
            )
            if evaluation:
                row = _row_of(experiment, date, ref, evaluation)
                newest.setdefault((experiment, str(date)), row)
    if not newest:
        raise StoreError(
            f"No evaluation of A-CTR in {store.root} for {', '.join(experiments)}; "
            "run the DAGs, or: ecdctr evaluate --date D"
        )
    rows = sorted(newest.values(), key=lambda row: (experiments.index(row.experiment), row.date))
    _refuse_other_data(store, rows)
    return rows


def _row_of(experiment: str, date: dt.date, ref: Ref, evaluation: dict[str, Any]) -> Row:
    """Return what is shown of an evaluation; raises StoreError where it does not hold that."""
    metrics, curve = evaluation.get("metrics"), evaluation.get("calibration_curve")
    if not isinstance(metrics, dict) or not isinstance(curve, list):
        raise StoreError(
            f"The evaluation of {ref} on {date} is damaged (it holds no metrics); make it again: "
            f"ecdctr evaluate --date {date} --version {ref}."
        )
    return Row(experiment, str(date), str(ref), metrics, curve)


def _refuse_other_data(store: Store, rows: list[Row]) -> None:
    """Raise StoreError when a day was delivered again between two experiments' evaluations."""
    first: dict[str, tuple[Ref, str]] = {}
    for row in rows:
        ref, date = Ref.parse(row.version), dt.date.fromisoformat(row.date)
        data = judged_on(store, ref, date)
        other, before = first.setdefault(row.date, (ref, data))
        if data != before:
            raise StoreError(other_impressions(date, other, ref))


def print_table(rows: list[Row], console: Console) -> None:
    """Tabulate next-day GAUC: a line per experiment, a column for each of the newest days."""
    grouped = _by_experiment(rows)
    dates = sorted({row.date for row in rows})
    common = _common_days(grouped)
    shown = dates[-COLUMNS:]
    left_out = "" if shown == dates else f" (newest {COLUMNS} of {len(dates)} days)"
    table = Table(title=f"GAUC on next-day ads{left_out}", box=SIMPLE_HEAD, pad_edge=False)
    table.add_column("model", no_wrap=True)
    means = {"gauc": "mean", "log_loss": "LogLoss"}
    if _some_expected(rows):
        means["expected_gauc"] = "expected"
    else:  # both do not fit into 80 columns; the page has them all
        means["calibration"] = "calib."
    for header in (*(date[5:] for date in shown), *means.values()):
        table.add_column(header, justify="right")
    for name, by_date in grouped.items():
        cells = [_gauc(by_date[date].metrics["all"]) if date in by_date else "–" for date in shown]
        of_common = [by_date[date].metrics["all"] for date in common]
        table.add_row(short_name(name), *cells, *_means(of_common, means))
    oracle = {row.date: row.metrics["oracle"] for row in rows if "oracle" in row.metrics}
    if oracle:
        cells = [_gauc(oracle[date]) if date in oracle else "–" for date in shown]
        of_common = [oracle[date] for date in common if date in oracle]
        table.add_row(short_name("oracle"), *cells, *_means(of_common, means), style="dim")
    console.print(table)
    if "expected_gauc" in means:
        console.print(
            "expected: GAUC by the true probabilities of held-out ads, where a day's clicks are no "
            "noise.",
            style="dim",
        )
    if common != dates:
        console.print(
            f"Means are over the {len(common)} days that all experiments have, of {len(dates)}.",
            style="dim",
        )


def _some_expected(rows: list[Row]) -> bool:
    """Tell whether held-out ads have judged some of them."""
    return any("expected_gauc" in row.metrics["all"] for row in rows)


def _gauc(metrics: dict[str, float]) -> str:
    """Show GAUC; a dash on a day without a user who both clicked and did not."""
    return f"{metrics['gauc']:.4f}" if "gauc" in metrics else "–"


def _means(metrics: list[dict[str, float]], keys: Iterable[str]) -> list[str]:
    """Return the mean of each of these metrics over days; a dash where no day is common to all."""
    shown = []
    for key in keys:
        values = [one[key] for one in metrics if key in one]
        shown.append(f"{np.mean(values):.4f}" if values else "–")
    return shown


def write_page(store: Store, rows: list[Row], target: Path) -> None:
    """Write one HTML file with everything inside it, values escaped."""
    serving = store.alias(SERVING)
    history = list(reversed(store.alias_history(SERVING)))
    curves = mean_calibration([row for row in rows if row.version])  # floors have no version
    page = (
        environment("ecdctr.demo")
        .get_template("page.html")
        .render(
            serving=serving,
            lineage=lineage(store, serving) if serving else None,
            history=history,
            rows=rows,
            expected=_some_expected(rows),
            names=NAMES,
            gauc_plot=_gauc_plot(rows),
            calibration_plot=_calibration_plot(curves) if curves else "",
            written=dt.datetime.now(dt.UTC).strftime("%Y-%m-%d %H:%M UTC"),
        )
    )
    target.parent.mkdir(parents=True, exist_ok=True)
    target.write_text(page, "utf-8")


def _by_experiment(rows: list[Row]) -> dict[str, dict[str, Row]]:
    grouped: dict[str, dict[str, Row]] = {}
    for row in rows:
        grouped.setdefault(row.experiment, {})[row.date] = row
    return grouped


def _common_days(grouped: dict[str, dict[str, Row]]) -> list[str]:
    """Return the days that all experiments have; means over others would compare other days."""
    return sorted(set.intersection(*(set(by_date) for by_date in grouped.values())))


def _svg(figure: Figure) -> str:
    buffer = io.StringIO()
    figure.savefig(buffer, format="svg", bbox_inches="tight")
    text = buffer.getvalue()
    return text[text.index("<svg") :]


def _figure(width: float, height: float) -> tuple[Figure, Axes]:
    figure = new_figure(width, height)
    axes = figure.subplots()
    axes.spines[["top", "right"]].set_visible(False)
    return figure, axes


def _days(dates: list[str]) -> NDArray[np.datetime64]:
    return np.array(dates, "datetime64[D]")


def _gauc_plot(rows: list[Row]) -> str:
    from matplotlib.dates import DateFormatter, DayLocator

    figure, axes = _figure(7, 3.6)
    expected = all("expected_gauc" in row.metrics["all"] for row in rows)
    measure = "expected_gauc" if expected else "gauc"  # where it can be had, without a day's noise
    for name, by_date in _by_experiment(rows).items():
        dates = sorted(by_date)
        values = [by_date[date].metrics["all"].get(measure, math.nan) for date in dates]
        floor = not by_date[dates[0]].version
        style, colour = (":", GREY) if floor else ("-", COLOURS.get(name))
        label = NAMES.get(name, name)
        axes.plot(_days(dates), values, style, marker="o", color=colour, label=label)
    oracle = {
        row.date: row.metrics["oracle"].get(measure, math.nan)
        for row in rows
        if "oracle" in row.metrics
    }
    if oracle:
        dates = sorted(oracle)
        axes.plot(
            _days(dates),
            [oracle[d] for d in dates],
            "--",
            marker="o",
            color=COLOURS["oracle"],
            label=NAMES["oracle"],
        )
    axes.set_ylabel("expected GAUC" if expected else "GAUC")
    axes.set_xlabel("evaluation day (next-day ads)")
    axes.xaxis.set_major_locator(DayLocator(interval=-(-len({row.date for row in rows}) // 8)))
    axes.xaxis.set_major_formatter(DateFormatter("%m-%d"))
    axes.legend(frameon=False, fontsize=8, loc="center left", bbox_to_anchor=(1.0, 0.5))
    return _svg(figure)


def _calibration_plot(curves: dict[str, NDArray[np.float64]]) -> str:
    figure, axes = _figure(4.2, 3.6)
    for name, curve in curves.items():
        predicted, observed = curve.T
        axes.plot(predicted, observed, marker="o", ms=3, color=COLOURS.get(name))
    top = max(curve.max() for curve in curves.values())
    axes.plot([0, top], [0, top], ":", color="#999999")
    axes.set_xlabel("predicted CTR (deciles)")
    axes.set_ylabel("observed CTR")
    return _svg(figure)


def mean_calibration(rows: list[Row]) -> dict[str, NDArray[np.float64]]:
    """Return each experiment's mean calibration curve [points, (predicted, observed)].

    It is the mean over the days that all of them have, with as many points as the longest curve;
    without such a day nothing is returned.
    """
    grouped = _by_experiment(rows)
    points = max(len(row.curve) for row in rows)
    days = [
        date
        for date in _common_days(grouped)
        if all(len(by_date[date].curve) == points for by_date in grouped.values())
    ]
    if not days or not points:
        return {}
    return {
        name: np.mean([by_date[date].curve for date in days], axis=0)
        for name, by_date in grouped.items()
    }
