"""Templates to HTML: every value is escaped; ``|safe`` stands only on figures that `plots.py` drew."""

from collections.abc import Sequence
from functools import cache
from pathlib import Path

from jinja2 import Environment, FileSystemLoader, StrictUndefined, TemplateError
from markupsafe import Markup

from remodeler.reporting.figures import Values
from remodeler.reporting.results import Section

PACKAGE = Path(__file__).parents[1]
PAGE_ERRORS = (TemplateError, ValueError, TypeError, LookupError, AttributeError, RuntimeError)
"""What results, jinja2 and matplotlib say of values that they can't show."""


@cache
def _environment() -> Environment:
    """Templates by their paths inside the package, so that a verb's lie beside its results."""
    return Environment(loader=FileSystemLoader(PACKAGE), autoescape=True, undefined=StrictUndefined, trim_blocks=True)


def render_template(template: str, values: Values) -> str:
    """Fill a template, given by its path inside the package, with values by their names in it."""
    return _environment().get_template(template).render(values)


def render_sections(sections: Sequence[Section]) -> list[Markup]:
    """Render sections to HTML, which a page takes as it is."""
    return [Markup(render_template(each.template, each.values)) for each in sections]
