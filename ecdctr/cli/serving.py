"""Commands that leave the project: export, score, serve."""

from __future__ import annotations

import contextlib
import errno
import fcntl
import json
import os
import signal
import socket
import sys
from collections.abc import Iterable, Iterator
from dataclasses import dataclass
from pathlib import Path
from typing import IO, TYPE_CHECKING, Annotated, Literal

import typer

from ecdctr.cli.base import (
    FILE,
    FOLDER,
    ExperimentOption,
    app,
    session_of,
    show,
)
from ecdctr.cli.options import grouped
from ecdctr.config import PRODUCTION
from ecdctr.console import Bars, log
from ecdctr.errors import ConfigError
from ecdctr.store.aliases import CANDIDATE, SERVING
from ecdctr.store.manifest import Ref

MAX_THREADS = 1024

if TYPE_CHECKING:
    from ecdctr.serving.scorer import Scorer

PrecisionOption = Annotated[
    Literal["float32", "float16", "int8"],
    typer.Option(help="of the vectors of ids; int8 has a scale per row"),
]
VerifyOption = Annotated[
    bool, typer.Option("--verify", help="first compare large tables with the export byte by byte")
]


@app.command("export")
def export_version(
    context: typer.Context,
    target: Annotated[Path, typer.Option("--out", help="folder to make", **FOLDER)],
    version: Annotated[
        str | None, typer.Option(help="an A-CTR version; default: the serving one")
    ] = None,
    experiment: ExperimentOption = PRODUCTION,
    precision: PrecisionOption = "float32",
    against: Annotated[
        Path | None,
        typer.Option(help="write what changed since this bundle alone, for ecdctr patch"),
    ] = None,
) -> None:
    """Write a version as a bundle that scores without torch and Airflow.

    ONNX, tables, schema, self-test.
    """
    from ecdctr.serving.export import export_bundle, export_changes

    session = session_of(context)
    session.outside("--out", target)
    named = None if version is None else Ref.parse(version)  # an empty text names none
    ref = named or session.store.alias(SERVING, experiment)
    if ref is None:
        raise ConfigError(
            f"Nothing serves in experiment '{experiment}'; name a version with --version."
        )
    with session.store.in_use(reads_only=True):
        if against:
            description = export_changes(session.store, ref, target, against, precision)
        else:
            description = export_bundle(session.store, ref, target, precision)
    size = sum(path.stat().st_size for path in target.rglob("*") if path.is_file())
    rounding = float(f"{description['tables']['rounding']:.1e}")
    told = {"bundle": str(target), "version": description["version"], "bytes": size}
    show(context, told | {"precision": precision, "largest_change_by_rounding": rounding})


@app.command("patch")
def patch_bundle(
    context: typer.Context,
    bundle: Annotated[Path, typer.Option(help="the bundle that the changes are against")],
    changes: Annotated[Path, typer.Option(help="folder made by ecdctr export --against")],
    target: Annotated[Path, typer.Option("--out", help="folder to make", **FOLDER)],
) -> None:
    """Put a bundle together from what changed and the bundle of before, without torch."""
    from ecdctr.serving.patch import apply_patch

    session_of(context).outside("--out", target)
    description = apply_patch(changes, bundle, target)
    show(context, {"bundle": str(target), "version": description["version"]})


@app.command()
def score(
    context: typer.Context,
    bundle: Annotated[Path, typer.Option(help="folder made by ecdctr export")],
    requests: Annotated[
        Path | None, typer.Option(help="file of JSON lines; default: standard input")
    ] = None,
    examples: Annotated[
        Path | None,
        typer.Option(
            exists=True, dir_okay=False, help="Parquet file that ecdctr prepare made, instead"
        ),
    ] = None,
    target: Annotated[
        Path | None, typer.Option("--out", help="Parquet file to write, with --examples", **FILE)
    ] = None,
    threads: Annotated[int, typer.Option(min=1, max=MAX_THREADS)] = 1,
    verify: VerifyOption = False,
) -> None:
    """Score requests (lines of JSON) or examples (Parquet) with a bundle.

    A line of probabilities is written for each request.
    """
    from ecdctr.serving.scorer import Scorer

    if (examples is None) != (target is None) or (examples and requests):
        raise ConfigError(
            "Give --examples together with --out, or --requests, or requests on standard input."
        )
    if examples and not examples.is_file():
        raise ConfigError(f"--examples {examples}: expected a file of Parquet, found a pipe.")
    scorer = Scorer(bundle, threads, verify=verify)
    if examples and target:
        from ecdctr.serving.batch import rows_of, score_parquet

        bars = Bars(version=scorer.version)
        bars.start("score", rows_of(examples))
        try:
            rows = score_parquet(scorer, examples, target, bars.advance)
        finally:
            bars.close()
        show(context, {"out": str(target), "rows": rows, "version": scorer.version})
        return
    with _request_lines(requests) as lines:
        _score_lines(scorer, lines, str(requests or "standard input"))


@contextlib.contextmanager
def _request_lines(path: Path | None) -> Iterator[Iterable[bytes]]:
    """Yield lines of a file, of a pipe such as a shell's <(…), or of standard input.

    Raises ConfigError when the file cannot be read.
    """
    if path is None:
        if _is_for_writing(sys.stdin):
            raise ConfigError("Standard input cannot be read; give it a file, or name --requests.")
        yield sys.stdin.buffer
        return
    if path.is_dir() or not path.exists():
        raise ConfigError(
            f"--requests {path}: expected a file of JSON lines, found "
            f"{'a folder' if path.is_dir() else 'nothing of that name'}."
        )
    with path.open("rb") as file:
        yield file


def _is_for_writing(stream: IO[str]) -> bool:
    """Tell whether a stream was opened for writing alone (`0>file`), which Python does not see."""
    try:
        flags = fcntl.fcntl(stream.fileno(), fcntl.F_GETFL)
    except (OSError, ValueError):  # none of the system's, as in tests
        return False
    return flags & os.O_ACCMODE == os.O_WRONLY


def _score_lines(scorer: Scorer, lines: Iterable[bytes], source: str) -> None:
    """Write a line of probabilities for each request.

    Raises ConfigError with the number of a line that is none.
    """
    from ecdctr.serving.json_text import NoJson, parse_json
    from ecdctr.serving.rules import RequestError

    empty = 0  # the number of an empty line, which only the end may have
    for number, line in enumerate(lines, 1):
        if not line.strip():
            empty = empty or number
            continue
        if empty:
            raise ConfigError(f"{source}, line {empty}: expected a request, found an empty line.")
        try:
            probabilities = scorer.score(parse_json(line.rstrip(b"\r\n")))
        except RequestError as error:
            hint = "; each line is one whole request" if isinstance(error, NoJson) else ""
            said = str(error).rstrip(".")
            raise ConfigError(f"{source}, line {number}: {said}{hint}.") from None
        sys.stdout.write(json.dumps([round(float(value), 7) for value in probabilities]) + "\n")


def _address(text: str) -> str:
    if not text.strip():
        raise typer.BadParameter("expected an address, such as 127.0.0.1, or 0.0.0.0 for all.")
    return text


@dataclass(frozen=True)
class FollowOptions:
    """What of the store is followed."""

    bundles: Annotated[Path, typer.Option(help="where exported versions are kept", **FOLDER)] = (
        Path("demo/bundles")
    )
    experiment: ExperimentOption = PRODUCTION
    shadow: Annotated[
        bool, typer.Option(help="also score with the newest candidate, and tell the difference")
    ] = False
    poll_seconds: Annotated[
        float, typer.Option(min=0.05, max=86_400, help="how often to look for a promoted version")
    ] = 5.0
    precision: PrecisionOption = "float32"


@app.command()
@grouped
def serve(
    context: typer.Context,
    options: FollowOptions,
    *,
    bundle: Annotated[
        Path | None, typer.Option(help="score with this bundle; default: follow the store")
    ] = None,
    host: Annotated[
        str,
        typer.Option(
            help="address to listen on, also of IPv6; there is no login",
            parser=_address,
            metavar="ADDRESS",
        ),
    ] = "127.0.0.1",
    port: Annotated[int, typer.Option(min=0, max=65535)] = 8100,
    threads: Annotated[
        int, typer.Option(min=1, max=MAX_THREADS, help="of one pass through the network")
    ] = 1,
    max_candidates: Annotated[int, typer.Option(min=1, help="of one request")] = 1000,
    verify: VerifyOption = False,
) -> None:
    """Score over HTTP with the serving version.

    A newly promoted one takes over without a restart.
    """
    import uvicorn

    from ecdctr.serving.follow import Follower
    from ecdctr.serving.routes import build_app, settings_of
    from ecdctr.serving.scorer import Scorer
    from ecdctr.serving.service import SERVES, SHADOW, Limits, Service

    service = Service(Limits(candidates=max_candidates))
    followers = []
    if bundle:
        if options.shadow:
            raise ConfigError("--shadow follows the store's candidate; leave --bundle out.")
        service.swap(SERVES, Scorer(bundle, threads, verify=verify))
    else:
        session = session_of(context)
        session.outside("--bundles", options.bundles)
        session.config()  # a version can only be exported with a configuration that is valid
        roles = [(SERVES, SERVING), *([(SHADOW, CANDIDATE)] if options.shadow else [])]
        for role, alias in roles:
            where = (session.store, options.experiment, options.bundles, session.config_path)
            how = (options.precision, threads, options.poll_seconds)
            followers.append(Follower(role, alias, *where, *how))
    settings = settings_of(build_app(service, list(followers)))
    with _listening(host, port) as listener:
        log(f"listening on http://{_shown(host)}:{listener.getsockname()[1]}")
        _end_at_hangup()
        uvicorn.Server(settings).run(sockets=[listener])


def _end_at_hangup() -> None:
    """Let a terminal that is closed end the server as SIGTERM does: with the answers under way."""
    if signal.getsignal(signal.SIGHUP) is not signal.SIG_IGN:  # what nohup asks for
        signal.signal(signal.SIGHUP, lambda *_: signal.raise_signal(signal.SIGTERM))


@contextlib.contextmanager
def _listening(host: str, port: int) -> Iterator[socket.socket]:
    """Yield a socket that listens.

    Raises ConfigError that says which of --host and --port to change.
    """
    family = socket.AF_INET6 if ":" in host else socket.AF_INET
    with socket.socket(family) as listener:
        listener.setsockopt(socket.SOL_SOCKET, socket.SO_REUSEADDR, 1)
        try:
            listener.bind((host, port))
        except (socket.gaierror, UnicodeError) as error:
            raise ConfigError(_not_here(host, error)) from None
        except OSError as error:
            if error.errno == errno.EADDRNOTAVAIL:
                raise ConfigError(_not_here(host, error)) from None
            raise ConfigError(
                f"Cannot listen on {_shown(host)}:{port} ({error.strerror}); choose another --port."
            ) from None
        listener.listen(2048)
        yield listener


def _not_here(host: str, error: Exception) -> str:
    reason = getattr(error, "strerror", None) or error
    return (
        f"--host '{host}' is no address of this machine ({reason}); name one, such as "
        "127.0.0.1, or 0.0.0.0 for all."
    )


def _shown(host: str) -> str:
    return f"[{host}]" if ":" in host else host
