"""What looks like a URL.

Whoever takes a folder refuses it, whoever takes both wants it with two slashes.
"""

from __future__ import annotations

import re

SCHEME = re.compile(
    r"([a-z][a-z0-9+.-]+):/(/?)", re.IGNORECASE
)  # two letters or more: C:/ is a drive


def looks_like_url(text: object) -> bool:
    """Say whether a text starts like a URL, also with one slash, to which pathlib shortens two.

    S3:/bucket.
    """
    return SCHEME.match(str(text)) is not None


def lacks_a_slash(text: str) -> bool:
    """Say whether a URL was written with one slash: s3:/bucket."""
    scheme = SCHEME.match(text)
    return scheme is not None and not scheme[2]
