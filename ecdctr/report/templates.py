"""The one Jinja environment: templates of a room, on top of those that all rooms share."""

from __future__ import annotations

from jinja2 import ChoiceLoader, Environment, PackageLoader, StrictUndefined

SHARED = "ecdctr.report"


def environment(package: str) -> Environment:
    """Read templates of a package, and from here `file.html`: what every page is, its stylesheet.

    What is put into a page is escaped, and a name that is not there is an error.
    """
    loaders = [PackageLoader(name, ".") for name in dict.fromkeys((package, SHARED))]
    return Environment(loader=ChoiceLoader(loaders), autoescape=True, undefined=StrictUndefined)
