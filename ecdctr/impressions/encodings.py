"""Text in any encoding as UTF-8, or one sentence with file, line and byte.

The encoding is said, never guessed; what a file looks like is told where it is refused.
"""

from __future__ import annotations

import codecs
import gzip
import itertools
import os
import re
from collections.abc import Iterator
from contextlib import AbstractContextManager
from pathlib import Path
from typing import Any, NamedTuple

import pyarrow as pa

from ecdctr.errors import ContractError

UTF8 = ("utf-8", "utf-8-sig")
FAMILY = ("utf-", "utf_")  # in every other encoding, text of UTF-8 is words like Ã¼
SHIFTED = ("utf-7", "iso2022", "hz")  # text beyond ASCII written in ASCII's bytes
NO_TEXT = ("unicode-escape", "raw-unicode-escape", "idna", "punycode", "undefined")
MARKS = {  # what a file may begin with; UTF-32 first, since its mark begins like UTF-16's
    codecs.BOM_UTF32_LE: "utf-32-le",
    codecs.BOM_UTF32_BE: "utf-32-be",
    codecs.BOM_UTF8: "utf-8",
    codecs.BOM_UTF16_LE: "utf-16-le",
    codecs.BOM_UTF16_BE: "utf-16-be",
}
ZEROS: dict[
    tuple[bool, ...], str
] = {  # which of four bytes are 0 where the letters are those of ASCII
    (False, True, True, True): "utf-32-le",
    (True, True, True, False): "utf-32-be",
    (False, True, False, True): "utf-16-le",
    (True, False, True, False): "utf-16-be",
}
MAGIC = {  # how files begin that are no CSV; more than letters, with which a header may begin
    rb"PAR1(\x15|...\0)": "Parquet",  # a page's header, or the length of an encrypted one
    rb"PARE...\0": "encrypted Parquet",
    rb"ORC.{0,99}?[\0\x02-\x08\x0e-\x1f]": "ORC",
    rb"Obj\x01.{1,999}?avro\.": "Avro",
    rb"ARROW1\0\0": "Arrow (Feather)",
    rb"\xff{4}..\0\0": "a stream of Arrow",
    rb"SQLite format 3\0": "a database of SQLite",
    rb".{8}DUCK": "a database of DuckDB",
    rb"\x80[\x02-\x05]": "a pickle of Python",
    rb"\x89HDF\r\n": "HDF5",
    rb"\xff\x06\0\0sNaPpY": "a snappy archive",
    rb"\xd0\xcf\x11\xe0": "an Excel workbook",
    rb"\x1f\x8b": "a gzip archive",
    rb"\x28\xb5\x2f\xfd": "a zstd archive",
    rb"\x04\x22\x4d\x18": "an lz4 archive",
    rb"PK\x03\x04": "a zip archive",
    rb"BZh[1-9](1AY&SY|\x17rE8P\x90)": "a bzip2 archive",
    rb"\xfd7zXZ": "an xz archive",
    rb"<\?xml": "XML",
    rb'\s*(\[\s*)?\{\s*"': "JSON",
}
MEND_NAMES = {  # what an import reads once its name says what it is
    "Parquet": "let its name end with .parquet",
    "a gzip archive": "let its name end with .gz",
    "a zstd archive": "let its name end with .zst",
    "encrypted Parquet": "write it without encryption",
    "a zip archive": "unpack it, or save the sheet as CSV if it is Excel's .xlsx",
    "an Excel workbook": "save its sheet as CSV",
} | dict.fromkeys(
    ("a bzip2 archive", "an xz archive", "an lz4 archive", "a snappy archive"),
    "unpack it, or pack it as .gz or .zst",
)
NO_LOG = {  # what stands in a file's place where it was not loaded
    b"<!doctype": "an HTML page, perhaps of an error; load it again",
    b"<html": "an HTML page, perhaps of an error; load it again",
    b"version https://git-lfs": "a pointer of Git LFS; load the file itself (git lfs pull)",
}
BLOCK = 1 << 20  # bytes
NO_TEXT_IN = 1000  # bytes at the start, where what is no text holds a zero
FEW, MOST = 0.1, 0.5  # shares of zeros among bytes
LOAD_AGAIN = "load it from its source again, or write it anew"
NO_LENGTH = bytes(4)
SHOWN = 20  # bytes before and after a bad one in a message


class Bad(NamedTuple):
    """The first byte of a file that its encoding does not have."""

    line: int
    byte: int
    around: bytes  # what of its line stands beside it
    near: bytes


def encoding_of(name: str) -> str:
    """Return an encoding as Python names it; raises ValueError for one that it does not know."""
    try:
        info = codecs.lookup(name)
        is_text = info._is_text_encoding and info.name not in NO_TEXT
    except (LookupError, ValueError):
        is_text = False
    if not is_text:
        raise ValueError(
            "expected an encoding of text, such as utf-8, utf-16, cp1252 (Windows), latin-1 or "
            f"shift_jis, found {name!r:.60}"
        )
    return info.name


def opened(path: Path) -> AbstractContextManager[Any]:
    """Open a file that may be a .gz or .zst archive, for its bytes."""
    if path.suffix.lower() == ".gz":
        return gzip.open(path)
    if path.suffix.lower() == ".zst":
        stream: AbstractContextManager[Any] = pa.input_stream(str(path), compression="zstd")
        return stream
    return path.open("rb")


def blocks(path: Path) -> Iterator[bytes]:
    """Yield a file's content piece by piece."""
    with opened(path) as file:
        while block := file.read(BLOCK):
            yield block


def refuse_other(path: Path, raw: bytes, encoding: str) -> None:
    """Raise ContractError where the first bytes of a file are of no CSV, or of another encoding."""
    if what := no_log(raw):
        raise ContractError(f"{path} is {what}.")
    if what := format_of(raw):
        raise ContractError(f"{path} is {what}; {mend_of_format(what)}.")
    unicode, marked = _unicode_of(raw)
    if unicode == "utf-8" and encoding not in UTF8:
        raise ContractError(
            f"{path} begins with the mark of UTF-8; leave encoding: {encoding} out of the mapping."
        )
    family = unicode[:6]  # utf-16 of utf-16-le
    fitting = (family, unicode) if marked else (unicode,)
    if unicode not in ("", "utf-8") and encoding not in fitting:
        raise ContractError(
            f"{path} is {family.upper()}; say so in the mapping (encoding: {fitting[0]})."
        )
    if raw.isascii() and b"\0" not in raw and not _has_ascii(encoding):
        raise ContractError(
            f"{path} is ASCII, not {encoding.upper()}; leave encoding: {encoding} out of the "
            "mapping."
        )
    if encoding in UTF8 and b"\0" in raw[:NO_TEXT_IN] and not _is_utf8(raw):
        raise ContractError(f"{path} is no text; it holds zeros and bytes that are no UTF-8.")


def _has_ascii(encoding: str) -> bool:
    """Say whether bytes of ASCII can be text of an encoding: not in UTF-16, nor on mainframes."""
    letters = bytes(range(ord(" "), 127))
    return (
        encoding.startswith(SHIFTED)
        or sum(
            a != b
            for a, b in zip(letters.decode(encoding, "replace"), letters.decode(), strict=False)
        )
        < len(letters) // 2
    )


def _is_utf8(raw: bytes) -> bool:
    try:
        codecs.getincrementaldecoder("utf-8")().decode(raw)
    except UnicodeDecodeError:
        return False
    return True


def no_log(raw: bytes) -> str | None:
    """Return what stands in a log's place, by the first bytes, where the file was not loaded."""
    return next((what for start, what in NO_LOG.items() if raw.lower().startswith(start)), None)


def format_of(raw: bytes) -> str | None:
    """Return the format that a file's first bytes are of; None where they tell none."""
    return next((what for magic, what in MAGIC.items() if re.match(magic, raw, re.DOTALL)), None)


def mend_of_format(what: str) -> str:
    """Return what to do with a file whose name does not say its format, as a part of a sentence."""
    return MEND_NAMES.get(what, "convert it to Parquet")


def _unicode_of(raw: bytes) -> tuple[str, bool]:
    """Return the encoding that a file's start can only be, '' for none, and whether a mark says so.

    Without a mark by where zeros stand: in ASCII's letters of UTF-16 each second byte is one.
    """
    for mark, name in MARKS.items():
        if raw.startswith(mark):
            return name, True
    places = [raw[i:400:4] for i in range(4)]
    shares = [place.count(0) / max(len(place), 1) for place in places]
    if any(FEW < share < MOST for share in shares):
        return "", False
    return ZEROS.get(tuple(share >= MOST for share in shares), ""), False


def in_utf8(path: Path, encoding: str, target: Path) -> Path:
    """Return the file itself where it is UTF-8, else a copy of it as UTF-8, the archive `target`.

    A copy also of a gzip archive that is padded with zeros, which DuckDB does not read.
    Raises ContractError with line and byte for what is not of that encoding, and for text of UTF-8
    that another encoding would read as other letters.
    """
    if encoding in UTF8 and not _is_padded(path):
        return path
    decoder = codecs.getincrementaldecoder(encoding)()
    utf8 = _Utf8Alone()
    start = True
    with pa.CompressedOutputStream(pa.OSFile(str(target), "wb"), "zstd") as copy:
        for block in itertools.chain(blocks(path), [b""]):
            try:
                text = decoder.decode(block, final=not block)
                copy.write((text.removeprefix("\ufeff") if start else text).encode())
            except UnicodeError:
                raise refused(path, encoding) from None
            utf8.add(block)
            start = start and not text
    if not encoding.startswith(FAMILY) and utf8.holds and utf8.beyond_ascii:
        raise ContractError(
            f"{path} is UTF-8, as all in it that is not ASCII shows; leave encoding: {encoding} "
            "out of the mapping."
        )
    return target


def _is_padded(path: Path) -> bool:
    """Say whether a gzip archive ends with zeros, as tapes and blocks of a disk leave them.

    Its last four bytes are the content's length, which is 0 of nothing alone.
    """
    if path.suffix.lower() != ".gz" or path.stat().st_size < len(NO_LENGTH):
        return False
    with path.open("rb") as file:
        file.seek(-len(NO_LENGTH), os.SEEK_END)
        return file.read() == NO_LENGTH


class _Utf8Alone:
    """Whether bytes that come piece by piece are UTF-8, and not ASCII alone."""

    def __init__(self) -> None:
        self.holds, self.beyond_ascii = True, False
        self._decoder = codecs.getincrementaldecoder("utf-8")()

    def add(self, block: bytes) -> None:
        self.beyond_ascii |= not block.isascii()
        try:
            self._decoder.decode(block, final=not block)
        except UnicodeDecodeError:
            self.holds = False


def refused(path: Path, encoding: str) -> ContractError:
    """Return what is to be said of a file that is not of its encoding."""
    bad = first_bad(path, encoding)
    if bad is None and encoding in ("utf-16", "utf-32"):
        return ContractError(
            f"{path} does not begin with the mark of {encoding.upper()}; say encoding: "
            f"{encoding}-le or {encoding}-be, or another encoding."
        )
    if bad is None:
        return ContractError(f"{path} is no {encoding.upper()}; say another encoding.")
    where = f"{path}, line {bad.line}: the byte 0x{bad.byte:02x} is no {encoding.upper()} here"
    if encoding not in UTF8:
        return ContractError(f"{where}; say another encoding, or mend the line.")
    letters = bad.near.decode("utf-8", errors="replace")
    wrong = letters.count("\ufffd")
    if sum(map("\x7f".__lt__, letters)) > 2 * wrong:  # more letters beyond ASCII than bad bytes
        return ContractError(f"{where}, and other lines are; mend the line.")
    try:
        western = bad.around.decode("cp1252")
    except UnicodeDecodeError:
        advice = "say which encoding the file is of in the mapping, such as encoding: shift_jis"
    else:
        advice = (
            f"in cp1252 (Windows, western Europe) it reads {western!r}: if that is right, say "
            "encoding: cp1252 in the mapping, else which it is of (cp1251, shift_jis …)"
        )
    return ContractError(f"{where}. {advice[0].upper()}{advice[1:]}; or save the file as UTF-8.")


def first_bad(path: Path, encoding: str) -> Bad | None:
    """Return the first byte of a file that its encoding does not have; None where all is well.

    None also where the mark is missing with which text of the encoding begins.
    """
    decoder = codecs.getincrementaldecoder(encoding)()
    newlines = returns = 0
    for block in itertools.chain(blocks(path), [b""]):
        state = decoder.getstate()
        try:
            text = decoder.decode(block, final=not block)
        except UnicodeDecodeError as error:
            read = len(error.object) - len(block)  # of the blocks before
            decoder.setstate(state)
            text = decoder.decode(block[: max(error.start - read, 0)])
            content, at = error.object, error.start
            start = max(content.rfind(end, 0, at) + 1 for end in (b"\n", b"\r"))
            ends = [content.find(end, at) for end in (b"\n", b"\r")]
            end = min((one for one in ends if one >= 0), default=len(content))
            line = content[max(start, at - SHOWN) : min(end, at + SHOWN)]
            newlines, returns = newlines + text.count("\n"), returns + text.count("\r")
            near = content[:at] + content[at + 1 :]
            return Bad(1 + (newlines or returns), content[at], line, near)
        except UnicodeError:  # a mark that is not there
            return None
        newlines, returns = newlines + text.count("\n"), returns + text.count("\r")
    return None
