"""The command line: ecdctr --config C --store S <command>."""

from __future__ import annotations

import contextlib
import datetime as dt
import json
import os
import sys
import tempfile
from dataclasses import dataclass
from pathlib import Path
from typing import Annotated, Any

import typer
from rich.console import Console
from rich.table import Table

from ecdctr.config import DOMAINS, LEVEL_DOMAIN, PRODUCTION, Config, Domain, Level, load_config
from ecdctr.errors import ConfigError, EcdctrError
from ecdctr.store.manifest import Ref
from ecdctr.store.store import Store

app = typer.Typer(no_args_is_help=True, add_completion=False, pretty_exceptions_enable=False, help=__doc__)
store_app = typer.Typer(no_args_is_help=True, help="Look at versions, verify, promote, roll back.")
app.add_typer(store_app, name="store")
import_app = typer.Typer(no_args_is_help=True, help="Turn logs of other shapes into impressions of the contract.")
app.add_typer(import_app, name="import")
out = Console()


@dataclass
class Session:
    """What the global options say."""

    config_path: Path
    store_path: Path
    as_json: bool

    def config(self, variant: str = "default") -> Config:
        """The configuration with a variant applied."""
        return load_config(self.config_path).with_variant(variant)

    @property
    def store(self) -> Store:
        """The artifact store."""
        return Store(self.store_path)


DateOption = Annotated[str, typer.Option("--date", help="data date, YYYY-MM-DD: the last day that is read")]
ExperimentOption = Annotated[str, typer.Option(help="namespace of versions; resolves fall back to production")]
VariantOption = Annotated[str, typer.Option(help="named overlay from 'variants:' in the configuration")]
ResultOption = Annotated[Path | None, typer.Option("--result", help="also write the result as JSON to this file")]


@app.callback()
def _global(
    context: typer.Context,
    config: Annotated[Path, typer.Option(envvar="ECDCTR_CONFIG", help="configuration file")] = Path(
        "configs/demo.yaml"
    ),
    store: Annotated[Path, typer.Option(envvar="ECDCTR_STORE", help="root of the artifact store")] = Path("demo/store"),
    as_json: Annotated[bool, typer.Option("--json", help="print results as JSON")] = False,
    debug: Annotated[bool, typer.Option(help="show tracebacks")] = False,
) -> None:
    context.obj = Session(config, store, as_json)


@app.command()
def simulate(
    context: typer.Context,
    preset: Annotated[str, typer.Option(help="tiny, demo or large")] = "demo",
    seed: int = 1,
    root: Annotated[Path | None, typer.Option("--out", help="data root; default: data.root")] = None,
    days: Annotated[int | None, typer.Option(min=1, help="other number of days")] = None,
    workers: Annotated[int, typer.Option(min=1)] = 2,
) -> None:
    """Generate a two-domain world with known click probabilities."""
    from ecdctr.console import Bars
    from ecdctr.data.simulate import PRESETS, simulate

    if preset not in PRESETS:
        raise ConfigError(f"Unknown preset '{preset}'; presets are {', '.join(PRESETS)}.")
    sim = PRESETS[preset]
    if days:
        sim = sim.model_copy(update={"days": days})
    root = root or context.obj.config().data.root
    bars = Bars()
    bars.start(f"simulate {preset}", sim.days * (sim.natural_per_day + sim.ads_per_day))
    try:
        rows = simulate(sim, seed, root, workers, bars.advance)
    finally:
        bars.close()
    last = sim.start + dt.timedelta(days=sim.days - 1)
    _show(context, {"root": str(root), "impressions": rows, "first": str(sim.start), "last": str(last), "seed": seed})


@app.command()
def validate(
    context: typer.Context,
    date: Annotated[str | None, typer.Option(help="last day to check; default: every day found")] = None,
    days: Annotated[int, typer.Option(min=1, help="with --date: how many days up to it")] = 1,
    domain: Annotated[str | None, typer.Option(help="natural or ads; default: both")] = None,
    result: ResultOption = None,
) -> None:
    """Check impressions against the data contract, day by day, and the last day against the days before it."""
    from ecdctr.data.contract import DayReport, raise_for, validate
    from ecdctr.data.days import available_dates, present_days, window
    from ecdctr.data.quality import check_day

    config = context.obj.config()
    domains = [_domain(domain)] if domain else list(DOMAINS)
    console = Console(stderr=True)

    def say(report: DayReport) -> None:
        for violation in report.violations:
            console.print(f"[red]{report.domain} {report.date}[/]  {violation}", soft_wrap=True, highlight=False)

    reports = []
    for name in domains:
        dates = present_days(config, name, window(_date(date), days)) if date else None
        reports += validate(config, [name], dates, say)
    bad = [report for report in reports if report.violations]
    for report in bad:
        raise_for(report, config)
    warnings = []
    for name in domains:
        newest = _date(date) if date else max(available_dates(config.data.root, name))
        warnings += [str(finding) for finding in check_day(config, name, newest)]
    for warning in warnings:
        console.print(f"[yellow]unlike the days before[/]  {warning}", soft_wrap=True, highlight=False)
    totals = {
        "days": len(reports),
        "impressions": sum(r.rows for r in reports),
        "clicks": sum(r.clicks for r in reports),
    }
    _show(context, totals | {"violations": len(bad), "warnings": warnings}, result)


@app.command()
def prepare(
    context: typer.Context,
    date: DateOption,
    level: Annotated[str, typer.Option(help="tpm, cpm or actr")] = "actr",
    variant: VariantOption = "default",
    result: ResultOption = None,
) -> None:
    """Prepare the examples of a level's window; days already prepared are re-used."""
    from ecdctr.console import Bars
    from ecdctr.data.days import window
    from ecdctr.data.prepare import prepare

    config = context.obj.config(variant)
    checked = _level(level)
    dates = window(_date(date), config.training(checked).window_days)
    bars = Bars()
    bars.start(f"prepare {LEVEL_DOMAIN[checked]}", len(dates))
    try:
        days = prepare(config, LEVEL_DOMAIN[checked], dates, checked == "tpm", lambda _: bars.advance(1))
    finally:
        bars.close()
    _show(context, {"level": level, "days": len(days), "first": str(days[0].date), "last": str(days[-1].date)}, result)


@app.command()
def train(
    context: typer.Context,
    level: Annotated[str, typer.Argument(help="tpm, cpm or actr")],
    date: DateOption,
    experiment: ExperimentOption = PRODUCTION,
    variant: VariantOption = "default",
    force: Annotated[bool, typer.Option("--force/--no-force", help="train again even if the version exists")] = False,
    restart: Annotated[
        bool, typer.Option("--restart/--no-restart", help="actr: start from CPM although the policy is 'continue'")
    ] = False,
    chain_start: Annotated[
        str, typer.Option(help="actr, policy 'continue': the day that starts from CPM; later days need the day before")
    ] = "",
    result: ResultOption = None,
) -> None:
    """Train one level for a data date and publish the version; a finished one with the same fingerprint is re-used."""
    from ecdctr.console import Bars
    from ecdctr.levels.actr import train_actr
    from ecdctr.levels.common import Request
    from ecdctr.levels.cpm import train_cpm
    from ecdctr.levels.tpm import train_tpm

    session: Session = context.obj
    function = {"tpm": train_tpm, "cpm": train_cpm, "actr": train_actr}[_level(level)]
    bars = Bars()
    day, start = _date(date), _date(chain_start) if chain_start else None
    if start and day < start:
        raise ConfigError(f"Data date {day} lies before the chain's start {start}; start the chain earlier.")
    request = Request(
        session.config(variant), session.store, day, experiment, variant, force, restart or day == start, bars
    )
    try:
        with session.store.in_use():
            outcome = function(request)
    finally:
        bars.close()
    manifest = outcome.manifest
    shown = {
        "version": str(manifest.ref), "reused": outcome.reused, "fingerprint": manifest.fingerprint,
        "samples": manifest.rows["samples"], **{k: round(v, 4) for k, v in manifest.metrics.items()},
    }  # fmt: skip
    _show(context, shown, result)


@app.command()
def evaluate(
    context: typer.Context,
    date: Annotated[str, typer.Option("--date", help="evaluation day; the model must not have read it")],
    level: Annotated[str, typer.Option(help="tpm, cpm or actr")] = "actr",
    experiment: ExperimentOption = PRODUCTION,
    version: Annotated[str | None, typer.Option(help="a version; default: the newest before the day")] = None,
    variant: VariantOption = "default",
    result: ResultOption = None,
) -> None:
    """Progressive validation: score a version on a later day; metrics whole and per cohort."""
    from ecdctr.training.evaluate import evaluate

    session: Session = context.obj
    day = _date(date)
    ref = (
        Ref.parse(version) if version else session.store.require(_level(level), day - dt.timedelta(days=1), experiment)
    )
    with session.store.in_use():
        found = evaluate(session.config(variant), session.store, ref, day)
    payload = {"version": str(ref), "date": date, "metrics": found.metrics}
    if session.as_json:
        _show(context, payload, result)
        return
    _write_result(payload, result)
    names = ("impressions", "ctr", "gauc", "auc", "log_loss", "normalized_entropy", "calibration")
    table = Table("cohort", *names, title=f"{ref} on {date}")
    for cohort, metrics in found.metrics.items():
        table.add_row(cohort, *(f"{metrics[n]:,.4g}" if n in metrics else "–" for n in names))
    out.print(table)


@app.command()
def gate(
    context: typer.Context,
    version: Annotated[str, typer.Option(help="the challenger")],
    date: Annotated[str, typer.Option("--date", help="evaluation day")],
    variant: VariantOption = "default",
    result: ResultOption = None,
) -> None:
    """Promote an evaluated version to 'serving' if it passes the gate; a refusal is reported, not an error."""
    from ecdctr.training.evaluations import gate

    session: Session = context.obj
    verdict = gate(session.config(variant), session.store, Ref.parse(version), _date(date))
    _show(context, {"version": version, "promoted": verdict.passed, "reason": verdict.reason}, result)


@app.command()
def report(
    context: typer.Context,
    target: Annotated[Path, typer.Option("--out", help="HTML file to write")] = Path("report.html"),
    experiments: Annotated[
        str, typer.Option(help="comma-separated, 'production' is the full method")
    ] = "ads_only,no_tpm,production",
) -> None:
    """Table and HTML page: GAUC per evaluation day and experiment, calibration, lineage of the serving model."""
    from ecdctr.report.page import collect, print_table, write_page

    session: Session = context.obj
    rows = collect(session.store, [name.strip() for name in experiments.split(",")])
    write_page(session.store, rows, target)
    if session.as_json:
        _show(context, {"report": str(target), "rows": [row._asdict() for row in rows]})
    else:
        print_table(rows, out)
        out.print(f"Report: {target.resolve()}", soft_wrap=True)


@app.command()
def ablation(
    context: typer.Context,
    seeds: Annotated[str, typer.Option(help="comma-separated seeds; each gives its own world and weights")] = "1,2,3",
    rows: Annotated[
        str, typer.Option(help="comma-separated variants; 'full' is the whole method; NAME@7 refreshes CPM weekly")
    ] = "ads_only,tpm_only,no_tpm,full",
    eval_days: Annotated[int, typer.Option(min=1, help="evaluation days, the last ones of the world")] = 4,
    chain_days: Annotated[
        int, typer.Option(min=0, help="days that a row with policy 'continue' has lived before the first evaluation")
    ] = 30,
    preset: Annotated[str, typer.Option(help="tiny, demo or large")] = "demo",
    work: Annotated[
        Path, typer.Option(help="worlds, prepared data and stores of the study; re-used when run again")
    ] = Path("results"),
    target: Annotated[Path | None, typer.Option("--out", help="Markdown file to write")] = None,
    workers: Annotated[int, typer.Option(min=1, help="processes; each trains with its own threads")] = 2,
    repeats: Annotated[
        int, typer.Option(min=0, help="also time each level and the preparation this often, alone on the machine")
    ] = 0,
    demo: Annotated[Path | None, typer.Option(help="timings.json of a demo, to be shown beside")] = None,
    result: ResultOption = None,
) -> None:
    """Rows × seeds on simulated worlds with progressive validation; a killed run goes on where it was."""
    from ecdctr.console import Bars
    from ecdctr.experiments.ablation import Study, run_study
    from ecdctr.experiments.speed import measure
    from ecdctr.report.results import mean_gauc, results_page

    names = tuple(name.strip() for name in rows.split(","))
    study = Study(context.obj.config_path, preset, _seeds(seeds), names, eval_days, work, chain_days)
    bars = Bars()
    try:
        records, users = run_study(study, workers, bars)
        speeds = measure(study, repeats, bars) if repeats else []
    finally:
        bars.close()
    timings = json.loads(demo.read_text()) if demo and demo.exists() else None
    text = results_page(records, users, speeds, preset, timings, f"ecdctr ablation --seeds {seeds} --rows {rows}")
    if target:
        target.parent.mkdir(parents=True, exist_ok=True)
        target.write_text(text)
    if context.obj.as_json or result:
        _show(context, {"report": target and str(target), "gauc": mean_gauc(records)}, result)
    else:
        out.print(text, highlight=False, markup=False, soft_wrap=True)


@app.command()
def forgetting(
    context: typer.Context,
    seeds: Annotated[str, typer.Option(help="comma-separated seeds; each gives its own world and weights")] = "1,2,3",
    rows: Annotated[
        str, typer.Option(help="comma-separated variants; the first is what the others are compared with")
    ] = "continue_no_tpm,continue,full",
    days: Annotated[int, typer.Option(min=3, help="data dates, the last ones of the world")] = 40,
    hold_out_every: Annotated[int, typer.Option(min=2, help="each n-th ads impression is kept for the matrix")] = 5,
    preset: Annotated[str, typer.Option(help="tiny, demo or large")] = "demo",
    work: Annotated[Path, typer.Option(help="worlds, prepared data and stores of the study")] = Path("forgetting"),
    target: Annotated[
        Path, typer.Option("--out", help="HTML file to write; the tables go beside it as Markdown")
    ] = Path("forgetting/forgetting.html"),
    workers: Annotated[int, typer.Option(min=1, help="processes; each trains with its own threads")] = 2,
    result: ResultOption = None,
) -> None:
    """Train variants day by day and evaluate each day's model on held-out ads of all days; a killed run goes on."""
    from ecdctr.console import Bars
    from ecdctr.data.simulate import PRESETS
    from ecdctr.experiments.ablation import Study
    from ecdctr.experiments.forgetting import run_forgetting
    from ecdctr.report.forgetting_page import forgetting_page

    names = tuple(name.strip() for name in rows.split(","))
    study = Study(
        context.obj.config_path, preset, _seeds(seeds), names, days, work, chain_days=0, hold_out_every=hold_out_every
    )
    bars = Bars()
    try:
        users, failed = run_forgetting(study, workers, bars)
    finally:
        bars.close()
    html, markdown = forgetting_page(users, failed, names, PRESETS[preset].recurrence_days, preset)
    target.parent.mkdir(parents=True, exist_ok=True)
    target.write_text(html)
    target.with_suffix(".md").write_text(markdown)
    if context.obj.as_json or result:
        _show(context, {"report": str(target), "failed": failed}, result)
    else:
        out.print(markdown, highlight=False, markup=False, soft_wrap=True)
        out.print(f"Heat maps: {target}")
    if failed:
        raise typer.Exit(1)


@app.command("export")
def export_version(
    context: typer.Context,
    target: Annotated[Path, typer.Option("--out", help="folder to make")],
    version: Annotated[str | None, typer.Option(help="an A-CTR version; default: the serving one")] = None,
    experiment: ExperimentOption = PRODUCTION,
) -> None:
    """Write a version as a bundle that scores without torch and Airflow: ONNX, vocabularies, schema, self-test."""
    try:
        from ecdctr.serving.export import export_bundle
    except ModuleNotFoundError as error:
        raise ConfigError(f"{error.name} is not installed; install ecdctr with the extra 'serving'.") from None

    session: Session = context.obj
    ref = Ref.parse(version) if version else session.store.alias("serving", experiment)
    if ref is None:
        raise ConfigError(f"Nothing serves in experiment '{experiment}'; name a version with --version.")
    with session.store.in_use():
        description = export_bundle(session.config(), session.store, ref, target)
    size = sum(path.stat().st_size for path in target.iterdir())
    _show(context, {"bundle": str(target), "version": description["version"], "bytes": size})


@app.command()
def score(
    bundle: Annotated[Path, typer.Option(help="folder made by ecdctr export")],
    requests: Annotated[Path | None, typer.Option(help="file of JSON lines; default: standard input")] = None,
    threads: Annotated[int, typer.Option(min=1)] = 1,
) -> None:
    """Score requests, one JSON object a line, with a bundle; one line of probabilities comes out for each."""
    try:
        from ecdctr.serving.scorer import Scorer
    except ModuleNotFoundError as error:
        raise ConfigError(f"{error.name} is not installed; install ecdctr with the extra 'serving'.") from None

    scorer = Scorer(bundle, threads)
    with requests.open() if requests else contextlib.nullcontext(sys.stdin) as lines:
        for number, line in enumerate(lines, 1):
            try:
                probabilities = scorer.score(json.loads(line))
            except (EcdctrError, ValueError) as error:
                raise ConfigError(f"{requests or 'standard input'}, line {number}: {error}") from None
            sys.stdout.write(json.dumps([round(float(value), 7) for value in probabilities]) + "\n")


@app.command()
def schema(context: typer.Context) -> None:
    """Print the JSON schema of the configuration: every key, its type, default and meaning."""
    sys.stdout.write(json.dumps(Config.model_json_schema(), indent=1) + "\n")


@app.command()
def doctor(context: typer.Context) -> None:
    """Check versions, disk, GPU, data and store, and say what to mend."""
    from ecdctr.doctor import examine

    findings = examine(context.obj.config_path, context.obj.store_path)
    for finding in findings:
        out.print(f"{'[green]ok  [/]' if finding.fine else '[red]mend[/]'} {finding.text}", soft_wrap=True)
    if not all(finding.fine for finding in findings):
        raise typer.Exit(1)


SourceOption = Annotated[Path, typer.Option("--from", help="folder with the source files")]
RootOption = Annotated[Path | None, typer.Option("--out", help="data root to fill; default: data.root")]


@import_app.command("kuairand")
def import_kuairand(
    context: typer.Context,
    source: SourceOption,
    edition: Annotated[str, typer.Option(help="pure, 1k or 27k")] = "pure",
    with_random: Annotated[bool, typer.Option(help="also the impressions of randomly exposed videos")] = False,
    root: RootOption = None,
) -> None:
    """The official CSV files of KuaiRand: NORMAL videos are natural content, AD videos are ads."""
    from ecdctr.data.kuairand import kuairand_mapping

    _import(context, kuairand_mapping(source, edition, with_random), source, root)


@import_app.command("log")
def import_any_log(
    context: typer.Context,
    mapping: Annotated[Path, typer.Option(help="YAML: files, columns, domain rule, label rule, features")],
    source: Annotated[Path | None, typer.Option("--from", help="source folder; default: the mapping's")] = None,
    root: RootOption = None,
) -> None:
    """Any CSV or Parquet log by a mapping file; see docs/bring-your-own-data.md."""
    from ecdctr.data.readers import load_mapping

    _import(context, load_mapping(mapping), source or mapping.resolve().parent, root)


def _import(context: typer.Context, mapping: Any, source: Path, root: Path | None) -> None:
    from ecdctr.data.readers import import_log

    if root is None:
        root = context.obj.config().data.root
    console = Console(stderr=True)
    done = import_log(mapping, source, root, on_file=lambda what, _: console.print(f"  {what}", highlight=False))
    _show(context, {"root": str(root), **done._asdict()})


@store_app.command("gc")
def store_gc(
    context: typer.Context,
    keep: Annotated[int, typer.Option(min=1, help="newest versions kept of each experiment and level")] = 14,
    delete: Annotated[bool, typer.Option("--delete", help="remove them; without it, only say what would go")] = False,
    result: ResultOption = None,
) -> None:
    """Remove old versions that no alias, lineage, rollback or future snapshot needs."""
    from ecdctr.store.retention import removable, remove

    wanted = context.obj.config().snapshots
    span = wanted.lag_days + wanted.count * wanted.stride_days
    found = removable(context.obj.store, keep, span)
    for version in found if not context.obj.as_json else []:
        out.print(f"{version.ref!s:<60} {version.bytes / 1e6:10.1f} MB", highlight=False)
    freed = remove(context.obj.store, found, f"store gc --keep {keep}") if delete else 0
    total = sum(version.bytes for version in found)
    _show(context, {"versions": len(found), "bytes": total, "removed": delete, "freed_bytes": freed}, result)
    if found and not delete and not context.obj.as_json:
        out.print("Nothing was removed; add --delete to do it.")


@store_app.command("list")
def store_list(context: typer.Context, experiment: ExperimentOption = "") -> None:
    """All versions, with the aliases that point at them."""
    store: Store = context.obj.store
    found = []
    for name in [experiment] if experiment else store.experiments():
        for level in ("tpm", "cpm", "actr"):
            aliases = {alias: store.alias(alias, name, level) for alias in ("candidate", "serving")}
            for ref in store.versions(name, level):
                manifest = store.manifest(ref)
                names = [alias for alias, target in aliases.items() if target == ref]
                found.append((str(ref), manifest.variant, f"{manifest.total_bytes / 1e6:.1f}", ", ".join(names)))
    if context.obj.as_json:
        keys = ("version", "variant", "mb", "aliases")
        _show(context, {"versions": [dict(zip(keys, row, strict=True)) for row in found]})
        return
    table = Table("version", "variant", "MB", "aliases")
    for row in found:
        table.add_row(*row)
    out.print(table)


@store_app.command("show")
def store_show(context: typer.Context, version: str) -> None:
    """A version's manifest."""
    sys.stdout.write(context.obj.store.manifest(Ref.parse(version)).model_dump_json(indent=1) + "\n")


@store_app.command("lineage")
def store_lineage(context: typer.Context, version: str) -> None:
    """A version and everything it descends from."""
    lineage = context.obj.store.lineage(Ref.parse(version))
    _show(
        context,
        {str(ref): f"{m.window_start} to {m.window_end}, {m.rows['samples']:,} samples" for ref, m in lineage.items()},
    )


@store_app.command("verify")
def store_verify(context: typer.Context) -> None:
    """Re-hash every file of every version; exit code 1 if something is wrong."""
    problems = context.obj.store.verify()
    _show(context, {"problems": problems} if problems else {"problems": "none"})
    if problems:
        raise typer.Exit(1)


@store_app.command("promote")
def store_promote(context: typer.Context, version: str, reason: str = "promoted by hand") -> None:
    """Make a version serve, past the gate."""
    record = context.obj.store.set_alias("serving", Ref.parse(version), reason)
    _show(context, {"serving": str(record.ref), "reason": reason})


@store_app.command("rollback")
def store_rollback(context: typer.Context, experiment: ExperimentOption = PRODUCTION, level: str = "actr") -> None:
    """Serve the version that served before."""
    record = context.obj.store.rollback(experiment, _level(level))
    _show(context, {"serving": str(record.ref), "reason": record.reason})


def _date(text: str) -> dt.date:
    try:
        return dt.date.fromisoformat(text)
    except ValueError:
        raise ConfigError(f"'{text}' is not a date; expected YYYY-MM-DD.") from None


def _level(text: str) -> Level:
    if text not in ("tpm", "cpm", "actr"):
        raise ConfigError(f"Unknown level '{text}'; levels are tpm, cpm and actr.")
    return text  # type: ignore[return-value]


def _domain(text: str) -> Domain:
    if text not in DOMAINS:
        raise ConfigError(f"Unknown domain '{text}'; domains are natural and ads.")
    return text


def _seeds(text: str) -> tuple[int, ...]:
    try:
        return tuple(int(seed) for seed in text.split(","))
    except ValueError:
        raise ConfigError(f"--seeds '{text}': expected whole numbers with commas, for example 1,2,3.") from None


def _show(context: typer.Context, payload: dict[str, Any], result: Path | None = None) -> None:
    _write_result(payload, result)
    if context.obj.as_json:
        sys.stdout.write(json.dumps(payload, default=str) + "\n")
        return
    for key, value in payload.items():
        shown = f"{value:,}" if isinstance(value, int) and not isinstance(value, bool) else value
        out.print(f"{key:<20} {shown}", soft_wrap=True, highlight=False)


def _write_result(payload: dict[str, Any], result: Path | None) -> None:
    if result:
        result.parent.mkdir(parents=True, exist_ok=True)
        with tempfile.NamedTemporaryFile("w", dir=result.parent, delete=False) as file:
            json.dump(payload, file)
        os.replace(file.name, result)


def main() -> None:
    """Run the command line; a refusal is one sentence on stderr and exit code 1."""
    try:
        app()
    except EcdctrError as error:
        if "--debug" in sys.argv:
            raise
        print(f"ecdctr: {error}", file=sys.stderr)
        sys.exit(1)


if __name__ == "__main__":
    main()
