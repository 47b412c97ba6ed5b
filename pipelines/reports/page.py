"""HTML reports from Jinja2 templates: one self-contained file each, light and dark, without scripts.

MLflow shows reports in a sandboxed frame, so a report must not need another file or JavaScript.
"""

from __future__ import annotations

import base64
import functools
import hashlib
from dataclasses import dataclass
from pathlib import Path
from typing import Any

from jinja2 import Environment, FileSystemLoader, StrictUndefined, meta

from pipelines.media.spectrograms import PANELS_GAP, PANELS_LEFT, PANELS_RIGHT

# Of a drawing that is also a file of its own.
SVG_NAMESPACE = "http://www.w3.org/2000/svg"
_TEMPLATES = Path(__file__).parent / "templates"


@dataclass(frozen=True, kw_only=True)
class ReportFigure:
    """An SVG figure of a report; `alt` is its text alternative."""

    svg: bytes
    alt: str
    title: str = ""
    caption: str = ""

    @property
    def src(self) -> str:
        """The figure as a data URI."""
        return data_uri("image/svg+xml", self.svg)


def fill_template(name: str, **context: Any) -> str:
    """The HTML of a template; all values of `context` are text and are escaped."""
    return _environment().get_template(name).render(context)


def template_hash(name: str) -> str:
    """Hexadecimal SHA-256 of a template and of all templates that it extends, imports or includes."""
    environment, sources, waiting = _environment(), dict[str, str](), [name]
    while waiting:
        name = waiting.pop()
        if name not in sources:
            sources[name] = (_TEMPLATES / name).read_text(encoding="utf-8")
            waiting += filter(None, meta.find_referenced_templates(environment.parse(sources[name])))
    return hashlib.sha256(repr(sorted(sources.items())).encode()).hexdigest()


def data_uri(media_type: str, content: bytes) -> str:
    """Bytes as a `data:` URI."""
    return f"data:{media_type};base64,{base64.b64encode(content).decode()}"


@functools.cache
def _environment() -> Environment:
    environment = Environment(
        loader=FileSystemLoader(_TEMPLATES),
        autoescape=True,
        undefined=StrictUndefined,
        trim_blocks=True,
        lstrip_blocks=True,
    )
    # The stylesheet aligns audio players with the spectrogram panels below them.
    environment.globals["panels"] = {
        "left": f"{PANELS_LEFT:.2%}",
        "right": f"{1 - PANELS_RIGHT:.2%}",
        "gap": f"{PANELS_GAP:.2%}",
    }
    return environment
