"""Which extra of ecdctr brings a package that is not installed."""

from __future__ import annotations

import importlib.metadata
import re

PACKAGE = "ecdctr"
DISTRIBUTIONS = {"sklearn": "scikit-learn"}  # where a module is not called as what brings it


def missing_extra(error: BaseException) -> str | None:
    """Return what to install where a module of an extra is missing; None of any other error."""
    if not isinstance(error, ModuleNotFoundError) or not error.name:
        return None
    module = error.name.split(".")[0]
    distribution = _canonical(DISTRIBUTIONS.get(module, module))
    for requirement in importlib.metadata.requires(PACKAGE) or []:
        declared = re.fullmatch(r"([\w.-]+).*?extra == [\"']([\w-]+)[\"'].*", requirement)
        if declared and _canonical(declared[1]) == distribution:
            extra = declared[2]
            return (
                f"{module} is not installed; it comes with the extra '{extra}': "
                f"pip install '{PACKAGE}[{extra}]'"
            )
    return None


def _canonical(name: str) -> str:
    return re.sub(r"[-_.]+", "-", name).lower()
