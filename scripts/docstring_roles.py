"""Show Sphinx's roles as code on the site: ``:func:`remodeler.load``` becomes a plain name (an extension of griffe)."""

import re
from typing import Any

import griffe

OPEN = re.compile(r"\[(?=:)")
"""``hf:NAME[:CONFIG][:SPLIT]`` is no link."""
ROLE = re.compile(r":(?:mod|class|func|meth|data|attr|exc):`~?([^`]+)`")


class Roles(griffe.Extension):
    """Rewrite docstrings as they are read; the code keeps its own."""

    def on_object(self, *, obj: griffe.Object, **_: Any) -> None:
        """Replace the roles in the docstring of a module, class, function or attribute."""
        if obj.docstring:
            obj.docstring.value = OPEN.sub(r"\[", ROLE.sub(r"`\1`", obj.docstring.value))
