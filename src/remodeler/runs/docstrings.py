"""The docstrings below the fields of dataclasses, which Python itself forgets."""

import ast
import inspect
import sys
from collections.abc import Iterator
from dataclasses import is_dataclass
from functools import cache
from itertools import pairwise


@cache
def field_docstrings(cls: type) -> dict[str, str]:
    """The docstrings below the fields of a class and of those it extends."""
    found: dict[str, str] = {}
    for each in reversed([each for each in cls.__mro__ if is_dataclass(each)]):
        body = _classes(each.__module__)[each.__qualname__].body
        for field, below in pairwise(body):
            if isinstance(field, ast.AnnAssign) and isinstance(field.target, ast.Name) and _is_text(below):
                found[field.target.id] = inspect.cleandoc(below.value.value)  # type: ignore[attr-defined]
    return found


@cache
def _classes(module: str) -> dict[str, ast.ClassDef]:
    # A module is parsed once: inspect.getsource would parse it again for each of its classes.
    return dict(_nested(ast.parse(inspect.getsource(sys.modules[module])).body, ""))


def _nested(body: list[ast.stmt], prefix: str) -> Iterator[tuple[str, ast.ClassDef]]:
    for node in body:
        if isinstance(node, ast.ClassDef):
            yield f"{prefix}{node.name}", node
            yield from _nested(node.body, f"{prefix}{node.name}.")
        elif isinstance(node, ast.FunctionDef):
            yield from _nested(node.body, f"{prefix}{node.name}.<locals>.")


def _is_text(node: ast.stmt) -> bool:
    return isinstance(node, ast.Expr) and isinstance(node.value, ast.Constant) and isinstance(node.value.value, str)
