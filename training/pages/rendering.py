"""Templates to pages. Knows no report: it gives a template its values, and escapes each of them."""

from __future__ import annotations

import jinja2

_ENVIRONMENT = jinja2.Environment(
    loader=jinja2.PackageLoader("hotswap.training.pages"),
    autoescape=True,
    undefined=jinja2.StrictUndefined,
)


def render(template: str, **values: object) -> str:
    """The text of the page that a file of `templates/` makes of `values`."""
    return _ENVIRONMENT.get_template(template).render(values)
