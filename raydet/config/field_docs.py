"""The strings under the fields, read from the source: Python itself keeps none of them. For help only."""

import ast
import sys
from itertools import pairwise

from raydet.config.field_types import hints, section_of


def field_docs(section: type) -> dict[str, str]:
    """Return dotted key -> the text under it, on one line, for all fields below a section, and for sections their own.

    From a zip too; without a source file (compiled modules alone) the result is empty.
    """
    body = _class_bodies(section.__module__).get(section.__name__, [])
    docs = {
        field.target.id: text
        for field, after in pairwise(body)
        if isinstance(field, ast.AnnAssign) and isinstance(field.target, ast.Name) and (text := _text(after))
    }
    for name, hint in hints(section).items():
        inner = section_of(hint)
        if inner is not None:
            body = _class_bodies(inner.__module__).get(inner.__name__, [])
            docs[name] = _text(body[0]) if body else ""
            docs |= {f"{name}.{field}": text for field, text in field_docs(inner).items()}
    return docs


def _class_bodies(module: str) -> dict[str, list[ast.stmt]]:
    loader = sys.modules[module].__spec__.loader  # type: ignore[union-attr]
    source = getattr(loader, "get_source", lambda name: None)(module) or ""
    return {node.name: node.body for node in ast.parse(source).body if isinstance(node, ast.ClassDef)}


def _text(node: ast.stmt) -> str:
    """Return the words of a statement that is only a string."""
    text = node.value.value if isinstance(node, ast.Expr) and isinstance(node.value, ast.Constant) else ""
    return " ".join(text.split()) if isinstance(text, str) else ""
