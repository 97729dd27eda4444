"""What a name is: a URL, left to a shell, no text at all, a folder that lies in another.

Whoever takes a folder refuses these; whoever takes URLs wants them with two slashes.
"""

from __future__ import annotations

import re
from pathlib import Path

SCHEME = re.compile(
    r"([a-z][a-z0-9+.-]+):/(/?)", re.IGNORECASE
)  # two letters or more: C:/ is a drive

FOR_SHELLS = re.compile(r"~|\$[A-Za-z_{]")
WRITE_OUT = (
    "~ and $NAME, which shells alone replace; write the path out (./~ is a name like others)"
)

PASSWORD = re.compile(r"(?<=://)[^/@\s]*:[^/@\s]*@")
LOCAL = ("file", "local")
SAME = {"gcs": "gs", "s3a": "s3"}  # fsspec's and Hadoop's words for a place
WITHOUT_HOST = ("hdfs", "memory")
USUAL = (*LOCAL, "s3", "gs", "az", "abfs", "hdfs", "webhdfs", "sftp", "ssh", "ftp", "smb", "memory")
NO_PLACES = (  # of fsspec's: views of what lies elsewhere, and what has no folders of files
    "dir", "reference", "zip", "tar", "libarchive", "filecache", "blockcache", "simplecache",
    "cached", "async_wrapper", "generic", "data", "git", "github", "gist", "jupyter", "jlab", "adl",
)  # fmt: skip


def usual_scheme(url: str) -> str:
    """Return a URL with its scheme as it is called here; any other text as it is."""
    scheme, mark, rest = url.partition("://")
    scheme = scheme.lower()  # which RFC 3986 leaves open
    return f"{SAME.get(scheme, scheme)}{mark}{rest}" if mark else url


def problem_of_url(url: str) -> str | None:
    """Say why a URL is no place to read or write, with what to do; None if it may be one.

    What it says holds no secret of the URL.
    """
    scheme, _, rest = url.partition("://")
    if scheme.lower() in LOCAL:
        return None if rest.startswith("/") else f"{shown_url(url)} {_NO_FOLDER}"
    if PASSWORD.search(url):
        return (
            f"{shown_url(url)} holds a password, which files and messages would show; give it by "
            "the environment (AWS_…, GOOGLE_…, AZURE_…, FSSPEC_…)"
        )
    host, _, path = rest.partition("/")
    if "=" in path.partition("?")[2]:
        return (
            f"{shown_url(url)} holds a query, which belongs to one request; name the folder alone, "
            "and give credentials by the environment"
        )
    if not host and scheme not in WITHOUT_HOST:
        return f"{url} names no bucket; write it after the two slashes, like s3://bucket/folder"
    parts = path.rstrip("/").split("/") if path.strip("/") and "::" not in url else []
    if {"", ".", ".."}.intersection(parts):
        return f"{url} has a part that is empty, '.' or '..'; write the place itself"
    return None


def problem_of_scheme(url: str) -> str | None:
    """Say that nothing can be read at URLs of this kind, with those where it can; None if it may.

    The usual ones are known without fsspec, which takes a while to load and knows more.
    """
    scheme = url.partition("://")[0]
    if scheme in USUAL:
        return None
    if scheme not in NO_PLACES:
        import fsspec

        if scheme in fsspec.available_protocols():
            return None
    return (
        "expected a folder, or a URL of s3://, gs://, az://, abfs://, hdfs://, webhdfs://, "
        "sftp://, ftp:// or smb://, or of another place that fsspec knows"
    )


_NO_FOLDER = (
    "names a machine or a relative path; write file:///folder with three slashes, or the folder "
    "alone"
)


def shown_url(text: str) -> str:
    """Return a text with URLs in it, without the passwords and queries of these."""
    return re.sub(r"(://[^\s'\"?]*\?)[^\s'\"]*=[^\s'\"]*", r"\1…", PASSWORD.sub("…@", text))


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


def shared_place(folder: Path, other: Path | str) -> str | None:
    """Say how a folder is no place of its own beside another: is it, holds it, lies in it.

    None where both are apart, or the other is a URL of another machine. Both are absolute.
    """
    if isinstance(other, str):
        scheme, _, rest = other.partition("://")
        if scheme not in LOCAL:
            return None
        other = Path(rest)
    if folder == other:
        return "is"
    if folder.is_relative_to(other):
        return "lies in"
    return "holds" if other.is_relative_to(folder) else None
