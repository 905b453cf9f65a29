"""HTML pages of the package: rendered from a Jinja template with the common head and style sheet."""

from collections.abc import Callable, Mapping
from pathlib import Path
from typing import Any

from jinja2 import Environment, FileSystemLoader, StrictUndefined
from markupsafe import Markup

TEMPLATES = Path(__file__).parent / "templates"  # with head.html and page.css


def render_page(template: Path, title: str, filters: Mapping[str, Callable[..., Any]], **variables: Any) -> str:
    """Return the page of a template, which begins with `{% include "head.html" %}`."""
    # autoescape: the texts of a data set must not become markup. StrictUndefined: a misspelt name is an error.
    environment = Environment(
        loader=FileSystemLoader([template.parent, TEMPLATES]), autoescape=True, undefined=StrictUndefined,
        trim_blocks=True, lstrip_blocks=True,
    )  # fmt: skip
    environment.filters |= filters
    css = Markup((TEMPLATES / "page.css").read_text(encoding="utf-8"))
    return environment.get_template(template.name).render(title=title, css=css, **variables)
