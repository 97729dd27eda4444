"""What all commands share: the application, global options, the session, parsing and output."""

from __future__ import annotations

import datetime as dt
import json
import math
import os
import shlex
import sys
from dataclasses import dataclass
from pathlib import Path
from typing import Annotated, Any

import typer
from typer._click.core import ParameterSource

from ecdctr import __version__
from ecdctr.cli.given_once import Application
from ecdctr.config import Config, Level, load_config, refuse_shared
from ecdctr.config.section import MAX_SEED
from ecdctr.config.terms import DEFAULT
from ecdctr.console import JSON_LINES, log_to_stderr, terminal
from ecdctr.errors import ConfigError, set_variable
from ecdctr.files import durable
from ecdctr.files.urls import WRITE_OUT, is_for_shells, looks_like_url, shared_place
from ecdctr.store.places import check_name
from ecdctr.store.storage import absolute
from ecdctr.store.store import Store

YEARS = range(1970, 2200)

app = Application(
    no_args_is_help=True,
    add_completion=False,
    pretty_exceptions_enable=False,
    help="E-CDCTR: tri-level transfer for cross-domain click-through-rate prediction.",
)
store_app = Application(
    no_args_is_help=True, help="Look at versions, verify, promote, roll back, remove old ones."
)
app.add_typer(store_app, name="store")
import_app = Application(
    no_args_is_help=True, help="Turn logs of other shapes into impressions of the contract."
)
app.add_typer(import_app, name="import")
matrix_app = Application(
    no_args_is_help=True, help="Forgetting matrices of versions that Airflow's backfills made."
)
app.add_typer(matrix_app, name="matrix")
out = terminal()


@dataclass
class Session:
    """What the global options say."""

    config_path: Path
    store_path: Path | str
    as_json: bool
    names_config: bool = True  # whether an option or the environment says which

    def config(self, variant: str = DEFAULT) -> Config:
        """Return the configuration with a variant applied.

        Raises ConfigError where it prepares examples in the store.
        """
        config = load_config(self.config_path).with_variant(variant)
        refuse_shared(config, f"the store {self.store_path}", self.store_path)
        return config

    def outside(self, option: str, folder: Path) -> Path:
        """Return a folder to write; raises ConfigError where it is the store, or lies in it.

        What lies there beside the store's own is taken for an experiment.
        """
        how = shared_place(folder.resolve(), self.store_path)
        if how and how != "holds":
            raise ConfigError(
                f"{option} {folder} {how} the store {self.store_path}, where nothing but the "
                "store's own may lie; name another folder."
            )
        return folder

    def repeating(self, command: str) -> str:
        """Return a command line that begins with `ecdctr`, with the configuration named."""
        name, _, rest = command.partition(" ")
        return f"{name} --config {shlex.quote(str(self.config_path))} {rest}"

    @property
    def store(self) -> Store:
        """The artifact store."""
        return Store(self.store_path)


def parse_date(text: str) -> dt.date:
    """Return a day of the years 1970 to 2199; raises typer.BadParameter for anything else."""
    try:
        # typer's own formats would take a year of any size, and name the format without a mend
        date = dt.datetime.strptime(text, "%Y-%m-%d").date()  # a day has no zone
    except ValueError:
        raise typer.BadParameter(f"'{text}' is not a date; expected YYYY-MM-DD.") from None
    if date.year not in YEARS:
        raise typer.BadParameter(f"{text} is not a day between {YEARS[0]} and {YEARS[-1]}.")
    return date


def parse_optional_date(text: str) -> dt.date | None:
    """Return the same, None for an empty option, as a DAG's template gives it."""
    return parse_date(text) if text else None


def parse_number(text: str) -> int | None:
    """Return a whole number that is not below 0, None for an empty option.

    Raises typer.BadParameter.
    """
    if not text:
        return None
    if not (text.isascii() and text.isdigit() and int(text) < 2**63):
        raise typer.BadParameter(f"'{text}': expected a whole number, not below 0.")
    return int(text)


class Seeds(tuple[int, ...]):
    """Seeds of a study; as text with commas between, as the command line takes them."""

    def __str__(self) -> str:
        return ",".join(map(str, self))


def parse_seeds(value: str | Seeds) -> Seeds:
    """Parse whole numbers with commas between; raises typer.BadParameter."""
    parts = str(value).split(",")
    if all(part.isascii() and part.isdigit() and int(part) <= MAX_SEED for part in parts):
        return Seeds(map(int, parts))
    raise typer.BadParameter(
        f"'{value}': expected whole numbers up to {MAX_SEED} with commas, for example 1,2,3."
    )


def parse_name(text: str) -> str:
    """Return a name of an experiment or a study; raises StoreError before any work."""
    check_name(text)
    return text


def file_to_write(text: str | Path) -> Path:
    """Return a file that can be written when the work is done.

    Raises typer.BadParameter where a folder stands there, or what a file would take the place of,
    such as a pipe or a device.
    """
    path = _below_folders(_written_out(text))
    if path.is_dir():
        raise typer.BadParameter(f"{path} is a folder; name a file in it.")
    if path.exists() and not path.is_file():
        raise typer.BadParameter(f"{path} is a pipe or a device; name a file.")
    return path


def folder_to_write(text: str | Path) -> Path:
    """Return a folder that can be made when the work is done.

    Raises typer.BadParameter where a file stands there.
    """
    path = _written_out(text)
    if looks_like_url(text):
        raise typer.BadParameter(f"{text} is a URL; name a local folder and upload it from there.")
    _below_folders(path / "x")
    return path


def _written_out(text: str | Path) -> Path:
    if not str(text).strip():
        raise typer.BadParameter("expected a name, found none; look whether a variable is empty.")
    if is_for_shells(text):
        raise typer.BadParameter(f"{text} starts with {WRITE_OUT}.")
    path = Path(text)
    # `new/../b` is b; whoever makes the folders above it would make new, too
    return Path(os.path.realpath(path)) if ".." in path.parts else path


def _below_folders(path: Path) -> Path:
    try:
        path.exists()  # raises for a name that is too long
        above = next((place for place in path.parents if os.path.lexists(place)), path)
    except OSError as error:
        raise typer.BadParameter(f"{path}: {error.strerror}; name another.") from None
    if not above.is_dir():
        what = "a file" if above.exists() else "a link to nothing"
        raise typer.BadParameter(f"{above} is {what}, expected a folder; name another.")
    return path


FILE = {"parser": file_to_write, "metavar": "FILE"}
FOLDER = {"parser": folder_to_write, "metavar": "FOLDER"}
DAY = {"parser": parse_date, "metavar": "YYYY-MM-DD"}
DateOption = Annotated[
    dt.date, typer.Option("--date", help="data date: the last day that is read", **DAY)
]
EvaluationDateOption = Annotated[
    dt.date, typer.Option("--date", help="evaluation day; the model must not have read it", **DAY)
]
WorldOption = Annotated[
    str,
    typer.Option(
        help=(
            "the simulated world: daily, demo, forgetting, large, purchases, tiny, visits, or a "
            "YAML file of its settings"
        )
    ),
]
SetOption = Annotated[
    list[str] | None,
    typer.Option("--set", metavar="KEY=VALUE", help="another setting of the world; repeatable"),
]
LevelOption = Annotated[Level, typer.Option(help="the level")]
ExperimentOption = Annotated[
    str,
    typer.Option(
        help="namespace of versions; resolves fall back to production",
        parser=parse_name,
        metavar="NAME",
    ),
]
VariantOption = Annotated[
    str, typer.Option(help="named overlay from 'variants:' in the configuration")
]
ResultOption = Annotated[
    Path | None, typer.Option("--result", help="also write the result as JSON to this file", **FILE)
]


def say_version(asked: bool) -> None:
    """Print the version and end, where it is asked for."""
    if asked:
        sys.stdout.write(f"ecdctr {__version__}\n")
        raise typer.Exit


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
    debug: Annotated[bool, typer.Option(help="show tracebacks")] = False,  # noqa: ARG001  # net.py
    version: Annotated[  # noqa: ARG001  # its callback
        bool,
        typer.Option("--version", help="print the version", callback=say_version, is_eager=True),
    ] = False,
) -> None:
    for option in ("config", "store"):
        if context.get_parameter_source(option) == ParameterSource.DEFAULT:
            set_variable(f"ECDCTR_{option.upper()}")
    form = set_variable(JSON_LINES)
    if form not in (None, "json"):
        raise ConfigError(f"{JSON_LINES} is '{form}', expected json; write that, or unset it.")
    named = context.get_parameter_source("config") != ParameterSource.DEFAULT
    context.obj = Session(config, absolute(store), as_json, named)
    log_to_stderr()


def session_of(context: typer.Context) -> Session:
    """Return what the global options say; raises RuntimeError before they are read."""
    session = context.find_object(Session)
    if session is None:
        raise RuntimeError("the global options were not read")
    return session


def show(context: typer.Context, payload: dict[str, Any], result: Path | None = None) -> None:
    """Print a command's result, as JSON with --json, and write it into `result` if there is one."""
    write_result(payload, result)
    if session_of(context).as_json:
        sys.stdout.write(as_json(payload) + "\n")
        return
    for key, value in payload.items():
        shown = f"{value:,}" if isinstance(value, int) and not isinstance(value, bool) else value
        out.print(f"{key:<20} {shown}", soft_wrap=True)


def write_result(payload: dict[str, Any], result: Path | None) -> None:
    """Write a command's result as JSON into a file, whole or not at all."""
    if result:
        durable.replace_text(result, as_json(payload))


def as_json(payload: dict[str, Any]) -> str:
    """Return JSON that every parser reads.

    A number that is none, such as a mean of nothing, is null.
    """
    return json.dumps(finite(payload), default=str, allow_nan=False)


def finite(value: Any) -> Any:
    """Replace every number that is none by None."""
    if isinstance(value, dict):
        return {key: finite(one) for key, one in value.items()}
    if isinstance(value, list | tuple):
        return [finite(one) for one in value]
    return None if isinstance(value, float) and not math.isfinite(value) else value


def target_root(context: typer.Context, root: Path | None) -> Path:
    """Return where impressions are written: --out or data.root."""
    if root:
        return session_of(context).outside("--out", root)
    return session_of(context).outside("data.root", folder_to_write(_local_root(context)))


def _local_root(context: typer.Context) -> Path:
    root = session_of(context).config().data.root
    if not isinstance(root, Path):
        raise ConfigError(
            f"data.root is the URL {root}; name a local folder with --out and upload it from there."
        )
    return root
