"""A report read as HTML, for tests of what is in it."""

from __future__ import annotations

from html.parser import HTMLParser

_VOID = {"meta", "img", "br"}
# Names of corpora, systems and clips that must remain text.
HOSTILE = """<script>alert("&'$\\frac{")</script>"><img src=x onerror='y'>"""


class ParsedPage(HTMLParser):
    """Tags, attributes, URLs and text of a page; checks that its elements nest."""

    def __init__(self, html: str) -> None:
        super().__init__()
        self.tags: list[str] = []
        self.attributes: set[str] = set()
        self.sources: list[str] = []
        self.text = ""
        self._open: list[str] = []
        self.feed(html)
        self.close()
        assert self._open == []

    def handle_starttag(self, tag: str, attrs: list[tuple[str, str | None]]) -> None:
        self.tags.append(tag)
        self.attributes |= {name for name, _ in attrs}
        self.sources += [value or "" for name, value in attrs if name in ("src", "href")]
        if tag not in _VOID:
            self._open.append(tag)

    def handle_endtag(self, tag: str) -> None:
        assert self._open.pop() == tag

    def handle_data(self, data: str) -> None:
        self.text += data


def check_escaped(html: str) -> None:
    """Assert that a page with `HOSTILE` names shows them as text and contains nothing active or external."""
    page = ParsedPage(html)
    assert HOSTILE in page.text
    assert not {"script", "iframe", "link", "object", "form", "a"} & set(page.tags)
    assert not [name for name in page.attributes if name.startswith("on")]
    assert all(source.startswith("data:") for source in page.sources)
