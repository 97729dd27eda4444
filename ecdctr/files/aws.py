"""What the environment says of S3, looked at before it is used.

The client that does the work takes an endpoint without http://, or a key that ends in a line's end,
and then ends the process in its own words.
"""

from __future__ import annotations

import os
import re
from collections.abc import Mapping
from urllib.parse import urlsplit

ENDPOINTS = ("AWS_ENDPOINT_URL_S3", "AWS_ENDPOINT_URL", "AWS_ENDPOINT")
REGIONS = ("AWS_REGION", "AWS_DEFAULT_REGION")
SECRETS = ("AWS_ACCESS_KEY_ID", "AWS_SECRET_ACCESS_KEY", "AWS_SESSION_TOKEN")


def problem_of_environment(environment: Mapping[str, str] = os.environ) -> str | None:
    """Say which variable of AWS cannot be used, and what to write; None if all can be.

    What it says holds no secret.
    """
    for name in ENDPOINTS:
        if name in environment and not _is_endpoint(environment[name]):
            return (
                f"{name} is '{environment[name]}', expected a URL such as https://s3.example.com "
                "or http://127.0.0.1:9000; set it so, or unset it for S3 itself"
            )
    for name in REGIONS:
        if not re.fullmatch(r"[A-Za-z0-9_-]+", environment.get(name, "us-east-1")):
            return f"{name} is {environment[name]!r}, expected a name such as us-east-1"
    for name in SECRETS:
        if not re.fullmatch(r"[!-~]*", environment.get(name, "")):
            return (
                f"{name} holds a space, the end of a line or another sign that no key has; set it "
                "anew (printf instead of echo writes no end of line)"
            )
    return None


def _is_endpoint(text: str) -> bool:
    if not re.fullmatch(r"https?://[^\s/?#]+[^\s?#]*", text, re.IGNORECASE):
        return False
    try:
        parts = urlsplit(text)
        return bool(parts.hostname) and parts.port != 0
    except ValueError:  # a port that is none, a bracket that is not closed
        return False
