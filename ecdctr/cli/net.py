"""The outer edge of every command.

Whatever happens, one sentence and an exit code that says what kind of end it is.
"""

from __future__ import annotations

import contextlib
import errno
import io
import os
import stat
import sys
import time
import traceback
from pathlib import Path

from typer._click.exceptions import NoArgsIsHelpError
from typer.exceptions import Abort, TyperException
from typer.main import Typer, get_command

from ecdctr.cli.ended import telling_signals
from ecdctr.cli.extras import missing_extra
from ecdctr.cli.threads import check_threads
from ecdctr.console import current_step, forget_odd_sizes
from ecdctr.errors import (
    NO_THREAD,
    STDOUT,
    TRY_AGAIN,
    UNFORESEEN,
    EcdctrError,
    first_line,
    machine_end,
)
from ecdctr.files.urls import no_utf8
from ecdctr.impressions.reading import one_reading

INTERRUPTED, BROKEN_PIPE = 130, 141  # as shells count signals: 128 + SIGINT, 128 + SIGPIPE
SHOWN = 300  # letters of a text that cannot be written
PACKAGE = Path(__file__).parents[1]


def run(app: Typer, arguments: list[str]) -> int:
    """Run a command and return its exit code.

    0 done; 1 refused, in one sentence; 2 the command line itself is wrong; 70 an error that nobody
    foresaw; 75 the machine did not let it finish, the same command may succeed later; 130
    interrupted; 141 nobody reads the output; 143, 129 ended by the system (SIGTERM, SIGHUP).
    """
    _open_closed()
    forget_odd_sizes()
    for stream in (sys.stdout, sys.stderr):
        if isinstance(stream, io.TextIOWrapper):
            stream.reconfigure(errors="backslashreplace")  # a terminal that knows ASCII alone
    try:
        check_threads(_command(arguments))
        with one_reading(), _telling(arguments):
            code = get_command(app).main(arguments, prog_name="ecdctr", standalone_mode=False)
        sys.stdout.flush()
        return code if isinstance(code, int) else 0
    except KeyboardInterrupt:
        return INTERRUPTED
    except BrokenPipeError:
        return _nobody_reads()
    except SystemExit as ended:
        if isinstance(ended.__context__, OSError):  # typer's own answer to a broken pipe
            return _nobody_reads()
        return ended.code if isinstance(ended.code, int) else int(ended.code is not None)
    except NoArgsIsHelpError as error:
        return error.exit_code  # the help was printed, there is no more to say
    except BaseException as error:
        return _told(error, arguments)


def _telling(arguments: list[str]) -> contextlib.AbstractContextManager[None]:
    """Let signals that end the process be told; a server ends in order, by its own handlers."""
    return contextlib.nullcontext() if _command(arguments) == "serve" else telling_signals()


def _open_closed() -> None:
    """Open nothing in place of each standard stream that the caller closed (`2>&-`).

    They are opened in order, so that no file of ours gets the number of one.
    """
    for name, mode in (("stdin", "r"), ("stdout", "w"), ("stderr", "w")):
        if getattr(sys, name) is None:
            setattr(sys, name, Path(os.devnull).open(mode))  # noqa: SIM115  # to the process's end


def _told(error: BaseException, arguments: list[str]) -> int:
    code, sentence = explained(error, arguments)
    if "--debug" in arguments:
        traceback.print_exception(error)
    if os.environ.get("RANK", "0") != "0":  # mostly the first process says the same,
        time.sleep(20)  # and this one is stopped meanwhile
    with contextlib.suppress(OSError):  # the exit code says it where stderr takes no more
        print(f"ecdctr: {sentence}", file=sys.stderr, flush=True)
    return code


def _nobody_reads() -> int:
    nothing = os.open(os.devnull, os.O_WRONLY)
    os.dup2(nothing, 1)  # what is still buffered goes nowhere, without a word
    return BROKEN_PIPE


def explained(error: BaseException, arguments: list[str]) -> tuple[int, str]:
    """Return the exit code and the sentence of an error that ended a command."""
    if isinstance(error, TyperException):
        context = getattr(error, "ctx", None)
        see = f" (see: {context.command_path} --help)" if context else ""
        said = error.format_message().replace("Value error, ", "")  # pydantic's words
        return error.exit_code, f"{said}{see}"
    if isinstance(error, Abort) or _interrupted_query(error):
        return INTERRUPTED, "interrupted."
    if isinstance(error, EcdctrError):
        return 1, str(error)
    if isinstance(error, FileNotFoundError) and not error.filename and _is_nowhere():
        return (
            1,
            "The folder that this was started in is gone; change to another (cd) and run it again.",
        )
    if _mistyped(error, arguments):
        name = getattr(error, "filename", "")
        return 1, f"{getattr(error, 'strerror', error)}: {name}; look at the name."
    if isinstance(error, UnicodeEncodeError) and (problem := no_utf8(_around(error))):
        return 1, problem
    if isinstance(error, MemoryError):
        return (
            TRY_AGAIN,
            "The machine has too little memory for this; nothing was published in part.",
        )
    if extra := missing_extra(error):
        return 1, extra
    if isinstance(error, OSError) and error.filename is None and _is_of_stdout(error):
        error.filename = STDOUT
    return _troubled(error) or (UNFORESEEN, unforeseen(error, arguments))


def _around(error: UnicodeEncodeError) -> str:
    """Return the text that cannot be written, of a long one what is around the place."""
    if len(error.object) <= SHOWN:
        return error.object
    return error.object[max(0, error.start - SHOWN // 2) : error.end + SHOWN // 2]


def _troubled(error: BaseException) -> tuple[int, str] | None:
    """Return the exit code and the sentence of what the machine, or what lies there, hinders."""
    return machine_end(error) or _lack_of_threads(error)


def _lack_of_threads(error: BaseException) -> tuple[int, str] | None:
    """Say that no thread could be started, where an error came of that."""
    came_of: BaseException | None = error
    while came_of is not None and NO_THREAD not in str(came_of):
        came_of = came_of.__context__
    return machine_end(came_of) if came_of else None


def _is_of_stdout(error: OSError) -> bool:
    """Tell whether an error that names no file is of standard output: one more byte meets it, too.

    Never asked of a pipe, which may be full.
    """
    try:
        place = os.fstat(sys.stdout.fileno()).st_mode
        if stat.S_ISREG(place) or stat.S_ISCHR(place):
            os.write(sys.stdout.fileno(), b"\n")
    except OSError as again:
        return error.errno is not None and again.errno == error.errno
    return False


def _is_nowhere() -> bool:
    try:
        Path.cwd()
    except FileNotFoundError:
        return True
    return False


def _interrupted_query(error: BaseException) -> bool:
    """Tell whether somebody pressed Ctrl+C while DuckDB was at work, which says so in its words."""
    by_us = isinstance(error, RuntimeError) and str(error) == "Query interrupted"
    return by_us or type(error).__name__ == "InterruptException"


def _mistyped(error: BaseException, arguments: list[str]) -> bool:
    """Tell whether the file that is not there is one that the command line names.

    Likewise one that is of another kind, and names, of whatever place, that no file can have: too
    long, or below a file.
    """
    if getattr(error, "errno", None) in (errno.ENAMETOOLONG, errno.ENOTDIR):
        return True
    name = str(getattr(error, "filename", None) or "")
    values = [argument.rpartition("=")[2].rstrip("/") for argument in arguments]
    return (
        isinstance(error, FileNotFoundError | IsADirectoryError) and bool(name) and name in values
    )


def unforeseen(error: BaseException, arguments: list[str]) -> str:
    """Return what can be said of any error.

    Its class, the step, the file, the place in the code, and how to see more.
    """
    step = f", at the step '{current_step()}'" if current_step() else ""
    name = getattr(error, "filename", None)
    file = f", with the file {name}" if name else ""
    frames = [
        frame for frame in traceback.extract_tb(error.__traceback__) if _is_ours(frame.filename)
    ]
    at = (
        f" in {Path(frames[-1].filename).relative_to(PACKAGE.parent)}, line {frames[-1].lineno}"
        if frames
        else ""
    )
    return (
        f"'ecdctr {_command(arguments)}' ended{step}{file} with an error that nobody foresaw: "
        f"{type(error).__name__}: {first_line(error)[:300]}{at}. Run 'ecdctr --debug "
        f"{_command(arguments)} …' for the traceback, and report it."
    )


def _is_ours(filename: str) -> bool:
    return Path(filename).is_relative_to(PACKAGE) and Path(filename) != Path(__file__)


def _command(arguments: list[str]) -> str:
    """Return the words of a command line that name the command."""
    words: list[str] = []
    ahead = iter(arguments)
    for word in ahead:
        if word in ("--config", "--store"):
            next(ahead, None)
        elif word.startswith("-"):
            if words:
                break
        elif words and not (words[0] in ("store", "import", "matrix") and len(words) == 1):
            break
        else:
            words.append(word)
    return " ".join(words)
