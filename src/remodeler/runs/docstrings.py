"""The docstrings below the fields of dataclasses, which Python itself forgets."""

import ast
import inspect
import textwrap
from dataclasses import is_dataclass
from functools import cache


@cache
def field_docstrings(cls: type) -> dict[str, str]:
    """The docstrings below the fields of a class and of those it extends."""
    found: dict[str, str] = {}
    for each in reversed([each for each in cls.__mro__ if is_dataclass(each)]):
        body = ast.parse(textwrap.dedent(inspect.getsource(each))).body[0]
        assert isinstance(body, ast.ClassDef)
        for field, below in zip(body.body, body.body[1:], strict=False):
            if isinstance(field, ast.AnnAssign) and isinstance(field.target, ast.Name) and _is_text(below):
                found[field.target.id] = inspect.cleandoc(below.value.value)  # type: ignore[attr-defined]
    return found


def _is_text(node: ast.stmt) -> bool:
    return isinstance(node, ast.Expr) and isinstance(node.value, ast.Constant) and isinstance(node.value.value, str)
