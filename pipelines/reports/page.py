"""What every page for people shares: one HTML file with all in it and no scripts, for light and for dark.

MLflow shows pages in a sandboxed frame, so nothing in one may depend on another file or on JavaScript.
"""

from __future__ import annotations

import base64
from collections.abc import Iterable, Mapping, Sequence
from html import escape

_STYLE = """
:root { color-scheme: light dark; --ink: #1a1a1a; --paper: #fff; --quiet: #555; --line: #999; }
@media (prefers-color-scheme: dark) {
  :root { --ink: #e4e4e4; --paper: #16181c; --quiet: #a8a8a8; --line: #666; }
}
body { font: 15px/1.45 system-ui, sans-serif; color: var(--ink); background: var(--paper);
       max-width: 1200px; margin: 0 auto; padding: 16px 24px 64px; }
h1 { font-size: 24px; margin: 8px 0 2px; overflow-wrap: anywhere; }
h2 { font-size: 19px; margin: 44px 0 4px; border-top: 2px solid var(--ink); padding-top: 12px; }
h3 { font-size: 15px; margin: 26px 0 6px; overflow-wrap: anywhere; }
p, ul { margin: 6px 0; }
.quiet, figcaption { color: var(--quiet); font-size: 13px; font-weight: 400; overflow-wrap: anywhere; }
.scroll { overflow-x: auto; margin: 12px 0; }
table { border-collapse: collapse; font-variant-numeric: tabular-nums; }
th, td { padding: 4px 9px; text-align: right; vertical-align: top; white-space: nowrap; }
th { font-weight: 600; }
thead th { border-bottom: 1px solid var(--ink); }
th[scope=row], .words th, .words td { text-align: left; white-space: normal; overflow-wrap: break-word; }
th[scope=row] { font-weight: 400; min-width: 7em; }
th:first-child { padding-left: 0; text-align: left; }
tbody tr:last-child > * { border-bottom: 1px solid var(--line); }
figure { margin: 14px 0; }
.players + figure { margin-top: 2px; }
img { display: block; width: 100%; height: auto; }
pre { overflow-x: auto; font-size: 13px; border: 1px solid var(--line); padding: 8px 12px; }
audio { width: 100%; height: 36px; display: block; }
"""


def page(title: str, body: str, *, style: str = "") -> str:
    """A whole page; `title` is text, `body` is HTML."""
    return (
        '<!doctype html>\n<html lang="en"><head><meta charset="utf-8">'
        '<meta name="viewport" content="width=device-width">'
        f"<title>{escape(title)}</title><style>{_STYLE}{style}</style></head>\n<body>\n"
        f"<h1>{escape(title)}</h1>\n{body}</body></html>\n"
    )


def picture(content: bytes, alt: str, *, caption: str = "", kind: str = "svg+xml") -> str:
    """A picture with what it says in words; `alt` and `caption` are text."""
    image = f'<img alt="{escape(alt)}" src="{data_uri(f"image/{kind}", content)}">'
    return f"<figure>{image}{f'<figcaption>{escape(caption)}</figcaption>' if caption else ''}</figure>\n"


def table(heads: Sequence[str], rows: Iterable[Sequence[str]], *, words: bool = False) -> str:
    """A table of text, the first column naming the rows; `words` sets all of it to the left."""
    head = "".join(f'<th scope="col">{escape(text)}</th>' for text in heads)
    body = "".join(_row(first, rest) for first, *rest in rows)
    css = ' class="words"' if words else ""
    return (
        f'<div class="scroll"><table{css}><thead><tr>{head}</tr></thead>\n'
        f"<tbody>{body}</tbody></table></div>\n"
    )


def _row(name: str, texts: Sequence[str]) -> str:
    cells = "".join(f"<td>{escape(text)}</td>" for text in texts)
    return f'<tr><th scope="row">{escape(name)}</th>{cells}</tr>\n'


def details(known: Mapping[str, str]) -> str:
    """Label and text, a line each, in small print."""
    lines = "<br>".join(f"{escape(label)}: {escape(text)}" for label, text in known.items())
    return f'<p class="quiet">{lines}</p>\n'


def data_uri(kind: str, content: bytes) -> str:
    """Bytes as an address that holds them."""
    return f"data:{kind};base64,{base64.b64encode(content).decode()}"
