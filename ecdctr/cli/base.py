"""What all commands share: the application, global options, the session, parsing and output."""

from __future__ import annotations

import datetime as dt
import json
import sys
from dataclasses import dataclass
from pathlib import Path
from typing import Annotated, Any

import typer
from rich.console import Console

from ecdctr.config import DOMAINS, Config, Domain, Level, load_config
from ecdctr.errors import ConfigError
from ecdctr.files import durable
from ecdctr.store.storage import absolute
from ecdctr.store.store import Store

app = typer.Typer(
    no_args_is_help=True,
    add_completion=False,
    pretty_exceptions_enable=False,
    help="E-CDCTR: tri-level transfer for cross-domain click-through-rate prediction.",
)
store_app = typer.Typer(
    no_args_is_help=True, help="Look at versions, verify, promote, roll back, remove old ones."
)
app.add_typer(store_app, name="store")
import_app = typer.Typer(
    no_args_is_help=True, help="Turn logs of other shapes into impressions of the contract."
)
app.add_typer(import_app, name="import")
matrix_app = typer.Typer(
    no_args_is_help=True, help="Forgetting matrices of versions that Airflow's backfills made."
)
app.add_typer(matrix_app, name="matrix")
out = Console()


@dataclass
class Session:
    """What the global options say."""

    config_path: Path
    store_path: Path | str
    as_json: bool

    def config(self, variant: str = "default") -> Config:
        """The configuration with a variant applied."""
        return load_config(self.config_path).with_variant(variant)

    @property
    def store(self) -> Store:
        """The artifact store."""
        return Store(self.store_path)


DateOption = Annotated[
    str, typer.Option("--date", help="data date, YYYY-MM-DD: the last day that is read")
]
ExperimentOption = Annotated[
    str, typer.Option(help="namespace of versions; resolves fall back to production")
]
VariantOption = Annotated[
    str, typer.Option(help="named overlay from 'variants:' in the configuration")
]
ResultOption = Annotated[
    Path | None, typer.Option("--result", help="also write the result as JSON to this file")
]


@app.callback()
def _global(
    context: typer.Context,
    config: Annotated[Path, typer.Option(envvar="ECDCTR_CONFIG", help="configuration file")] = Path(
        "configs/demo.yaml"
    ),
    store: Annotated[
        str,
        typer.Option(
            envvar="ECDCTR_STORE", help="root of the artifact store: a folder, or a URL like s3://…"
        ),
    ] = "demo/store",
    as_json: Annotated[bool, typer.Option("--json", help="print results as JSON")] = False,
    debug: Annotated[bool, typer.Option(help="show tracebacks")] = False,
) -> None:
    context.obj = Session(config, absolute(store), as_json)


def parse_date(text: str) -> dt.date:
    try:
        return dt.date.fromisoformat(text)
    except ValueError:
        raise ConfigError(f"'{text}' is not a date; expected YYYY-MM-DD.") from None


def parse_level(text: str) -> Level:
    if text not in ("tpm", "cpm", "actr"):
        raise ConfigError(f"Unknown level '{text}'; levels are tpm, cpm and actr.")
    return text  # type: ignore[return-value]


def parse_domain(text: str) -> Domain:
    if text not in DOMAINS:
        raise ConfigError(f"Unknown domain '{text}'; domains are natural and ads.")
    return text


def parse_number(option: str, text: str) -> int | None:
    """A whole number, None for an empty option (as a DAG's template gives it)."""
    if not text:
        return None
    try:
        return int(text)
    except ValueError:
        raise ConfigError(f"{option} '{text}': expected a whole number.") from None


def parse_seeds(text: str) -> tuple[int, ...]:
    try:
        return tuple(int(seed) for seed in text.split(","))
    except ValueError:
        raise ConfigError(
            f"--seeds '{text}': expected whole numbers with commas, for example 1,2,3."
        ) from None


def show(context: typer.Context, payload: dict[str, Any], result: Path | None = None) -> None:
    write_result(payload, result)
    if context.obj.as_json:
        sys.stdout.write(json.dumps(payload, default=str) + "\n")
        return
    for key, value in payload.items():
        shown = f"{value:,}" if isinstance(value, int) and not isinstance(value, bool) else value
        out.print(f"{key:<20} {shown}", soft_wrap=True, highlight=False)


def write_result(payload: dict[str, Any], result: Path | None) -> None:
    if result:
        durable.make_dir(result.parent)
        with durable.replacing(result) as temporary:
            temporary.write_text(json.dumps(payload, default=str))
