"""What a name is: a URL, left to a shell, no text at all.

Whoever takes a folder refuses these; whoever takes URLs wants them with two slashes.
"""

from __future__ import annotations

import re

SCHEME = re.compile(
    r"([a-z][a-z0-9+.-]+):/(/?)", re.IGNORECASE
)  # two letters or more: C:/ is a drive

FOR_SHELLS = re.compile(r"~|\$[A-Za-z_{]")
WRITE_OUT = (
    "~ and $NAME, which shells alone replace; write the path out (./~ is a name like others)"
)


def is_for_shells(text: object) -> bool:
    """Say whether a path starts with what a shell did not replace: ~/data, ${DATA}/log.

    Bash leaves --out=~/x and whatever stands in quotes as it is.
    """
    return FOR_SHELLS.match(str(text)) is not None


def no_utf8(text: str) -> str | None:
    """Say that a name is no UTF-8, which DuckDB, Arrow and JSON take none of; None if it is."""
    if text.isascii() or not any("\ud800" <= letter <= "\udfff" for letter in text):
        return None
    return f"The name {text!a} is no UTF-8; rename the file or folder."


def looks_like_url(text: object) -> bool:
    """Say whether a text starts like a URL, also with one slash, to which pathlib shortens two.

    S3:/bucket.
    """
    return SCHEME.match(str(text)) is not None


def lacks_a_slash(text: str) -> bool:
    """Say whether a URL was written with one slash: s3:/bucket."""
    scheme = SCHEME.match(text)
    return scheme is not None and not scheme[2]
