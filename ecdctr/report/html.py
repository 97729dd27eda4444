"""A Markdown page as one HTML file, its pictures inside, to be sent around."""

from __future__ import annotations

import base64
import re
from pathlib import Path

from markdown_it import MarkdownIt

from ecdctr.report.templates import environment


def rendered(markdown: str) -> str:
    """Turn Markdown into the body of a page; HTML inside it is shown as text."""
    return str(MarkdownIt("commonmark", {"html": False}).enable("table").render(markdown))


def as_html(markdown: str, folder: Path) -> str:
    """Return the page; pictures that it names are read from `folder`.

    HTML inside the Markdown is shown as text.
    """

    def inlined(image: re.Match[str]) -> str:
        picture = base64.b64encode((folder / image[1]).read_bytes()).decode("ascii")
        return f'src="data:image/png;base64,{picture}"'

    body = re.sub(r'src="([^":/]+\.png)"', inlined, rendered(markdown))
    title = markdown.partition("\n")[0].lstrip("# ")
    templates = environment("ecdctr.report")
    return templates.get_template("markdown.html").render(title=title, body=body)
