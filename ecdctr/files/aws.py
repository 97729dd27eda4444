"""What the environment says of S3, looked at before it is used.

The client that does the work takes an endpoint without http://, or a key that ends in a line's end,
and then ends the process in its own words.
"""

from __future__ import annotations

import os
import re
from collections.abc import Mapping
from urllib.parse import urlsplit

from ecdctr.files.urls import PASSWORD, shown_url

ENDPOINTS = ("AWS_ENDPOINT_URL_S3", "AWS_ENDPOINT_URL", "AWS_ENDPOINT")
REGIONS = ("AWS_REGION", "AWS_DEFAULT_REGION")
ALLOW_HTTP = "AWS_ALLOW_HTTP"
TRUE = ("1", "true", "on", "yes", "y")  # as the client reads them, in any case
TRUTHS = (*TRUE, "0", "false", "off", "no", "n")
SECRETS = ("AWS_ACCESS_KEY_ID", "AWS_SECRET_ACCESS_KEY", "AWS_SESSION_TOKEN")
OF_THE_MACHINE = ("169.254.169.254", "169.254.170.2", "metadata.google.internal")
PROXIES = ("HTTP_PROXY", "http_proxy", "HTTPS_PROXY", "https_proxy", "ALL_PROXY", "all_proxy")
SWITCHES = (
    ALLOW_HTTP,
    "AWS_ALLOW_INVALID_CERTIFICATES",
    "AWS_DISABLE_TAGGING",
    "AWS_REQUEST_PAYER",
    "AWS_S3_EXPRESS",
    "AWS_SKIP_SIGNATURE",
    "AWS_UNSIGNED_PAYLOAD",
    "AWS_VIRTUAL_HOSTED_STYLE_REQUEST",
)


def problem_of_environment(environment: Mapping[str, str] = os.environ) -> str | None:
    """Say which variable of AWS cannot be used, and what to write; None if all can be.

    What it says holds no secret.
    """
    if problem := _of_endpoints(environment):
        return problem
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


def _of_endpoints(environment: Mapping[str, str]) -> str | None:
    """Say which endpoint, or switch of the client, cannot be used."""
    for name, text in environment.items():
        if name in SWITCHES and text.lower() not in TRUTHS:
            return f"{name} is '{text}', expected true or false; set it so, or unset it"
    for name in (name for name in ENDPOINTS if name in environment):
        text = environment[name]
        if PASSWORD.search(text):
            return (
                f"{name} is '{shown_url(text)}', which holds a password, and messages would show "
                "it; give credentials by AWS_ACCESS_KEY_ID and AWS_SECRET_ACCESS_KEY"
            )
        if not _is_endpoint(text):
            return (
                f"{name} is '{text}', expected a URL such as https://s3.example.com or "
                "http://127.0.0.1:9000; set it so, or unset it for S3 itself"
            )
        allowed = environment.get(ALLOW_HTTP, "no").lower() in TRUE
        if text.lower().startswith("http:") and not allowed:
            return (
                f"{name} is '{text}', which is not encrypted; set {ALLOW_HTTP}=true if that is "
                "meant, else write https://"
            )
    return None


def with_variable(said: str, environment: Mapping[str, str] = os.environ) -> str:
    """Return what a client says of a store, with the variable that it speaks of, or what to do."""
    quoted = re.search(r'Config error: .*?"([^"]*)"|Invalid encryption type: ([^.]*)\.', said)
    if quoted:
        value = quoted[1] if quoted[1] is not None else quoted[2]
        names = sorted(
            name
            for name, text in environment.items()
            if name.startswith(("AWS_", "GOOGLE_", "AZURE_")) and text == value
        )
        return f"{said} (in {' or '.join(names)}); set it anew, or unset it" if names else said
    if host := next((host for host in OF_THE_MACHINE if host in said), None):
        return (
            f"{said}; the environment holds no credentials, so the client asked the machine for "
            f"its own, at {host}; set {_credentials(said)}"
        )
    if "Invalid Zone suffix" in said:
        return f"{said} (as AWS_S3_EXPRESS asks for); unset it, or name a bucket of S3 Express"
    if "error sending request" in said:
        proxies = [name for name in PROXIES if environment.get(name)]
        set_here = f" ({' and '.join(proxies)} set)" if proxies else ""
        return (
            f"{said}; look whether the endpoint's address is right and answers from here{set_here}"
        )
    return said


def _credentials(said: str) -> str:
    """Return the variables that hold credentials for the place that a client speaks of."""
    for place, names in (
        ("GCS", "GOOGLE_SERVICE_ACCOUNT or GOOGLE_APPLICATION_CREDENTIALS"),
        ("Azure", "AZURE_STORAGE_ACCOUNT_NAME and AZURE_STORAGE_ACCOUNT_KEY"),
    ):
        if place in said:
            return names
    return "AWS_ACCESS_KEY_ID and AWS_SECRET_ACCESS_KEY"


def _is_endpoint(text: str) -> bool:
    if not re.fullmatch(r"https?://[^\s/?#]+[^\s?#]*", text, re.IGNORECASE):
        return False
    try:
        parts = urlsplit(text)
        return bool(parts.hostname) and parts.port != 0
    except ValueError:  # a port that is none, a bracket that is not closed
        return False
