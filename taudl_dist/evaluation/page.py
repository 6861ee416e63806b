"""One HTML file that needs no other and no network: its style, its sections, its pictures."""

from __future__ import annotations

import base64
import html
import json
from collections.abc import Mapping, Sequence
from typing import Any

STYLE = """
body { font: 15px/1.5 system-ui, sans-serif; color: #222; max-width: 1060px; margin: 2.5em auto; padding: 0 1.5em }
h1 { font-size: 1.6em; margin-bottom: 0 }
h2 { font-size: 1.15em; margin: 2.2em 0 .6em }
p { color: #555; margin: .3em 0 .8em; max-width: 46em }
img { max-width: 100%; height: auto }
table { border-collapse: collapse }
td, th { padding: .25em 1.2em .25em 0; text-align: left; vertical-align: top; font-weight: inherit }
.results td, .results th { text-align: right; padding: .3em 1em; border-bottom: 1px solid #ddd }
.results td:first-child, .results th:first-child { text-align: left; padding-left: 0 }
.results tbody tr:first-child { font-weight: 600 }
.plain tbody tr:first-child { font-weight: inherit }
.plain { margin-bottom: 1.2em }
.plain td.text { text-align: left; color: #555 }
.facts th { color: #777; white-space: nowrap }
.facts td { overflow-wrap: anywhere }
.side { display: flex; flex-wrap: wrap; gap: 1em }
.side img { flex: 1 1 22em; min-width: 0; max-width: 34em }
"""


def page(title: str, sections: Sequence[str], *, style: str = "") -> str:
    """The whole file; `style` is added to STYLE."""
    title = html.escape(title)
    return (
        f'<!doctype html>\n<html lang="en"><head><meta charset="utf-8"><title>{title}</title>'
        f'<meta name="viewport" content="width=device-width"><style>{STYLE}{style}</style></head>\n'
        f"<body><h1>{title}</h1>\n{''.join(sections)}</body></html>\n"
    )


def section(title: str, content: str, note: str = "") -> str:
    """A heading, a note below it, and content that is HTML already."""
    return f"<h2>{html.escape(title)}</h2>\n{f'<p>{note}</p>' if note else ''}\n{content}\n"


def pictures(images: Mapping[str, bytes]) -> str:
    """PNG files by their name, side by side."""
    tags = [picture(png, name) for name, png in images.items()]
    return f'<div class="side">{"".join(tags)}</div>' if len(tags) > 1 else tags[0]


def picture(image: bytes, name: str) -> str:
    """A PNG or JPEG file inside the page."""
    kind = "png" if image[:4] == b"\x89PNG" else "jpeg"
    return f'<img alt="{html.escape(name)}" src="data:image/{kind};base64,{base64.b64encode(image).decode()}">'


def facts_table(known: Mapping[str, Any]) -> str:
    """A row for each name and its value."""
    rows = "".join(f"<tr><th>{html.escape(name)}</th><td>{_value(value)}</td></tr>\n" for name, value in known.items())
    return f'<table class="facts">{rows}</table>'


def _value(value: Any) -> str:
    text = html.escape(value if isinstance(value, str) else json.dumps(value))
    return f"<pre>{text}</pre>" if "\n" in text else text
