"""Docstrings as Markdown for the API pages: roles become links, literal blocks and simple tables their equivalents."""

from __future__ import annotations

import re
from typing import Any

import griffe

ROLE = re.compile(r":(?:func|class|meth|mod):`~?([\w.]+)`")
RULE = re.compile(r"=+(?:  +=+)+")


class AsMarkdown(griffe.Extension):
    """What ``mkdocs.yml`` names as the extension."""

    def on_instance(self, *, obj: griffe.Object, **_: Any) -> None:
        """Called once for every object that is read."""
        if obj.docstring and not obj.is_alias:
            obj.docstring.value = as_markdown(obj.docstring.value, obj)


def as_markdown(text: str, obj: griffe.Object) -> str:
    """The docstring of ``obj``, of which a name without dots is looked up in its module."""

    def link(role: re.Match[str]) -> str:
        name = role[1]
        path = name if "." in name else f"{obj.module.path}.{name}"
        # Functions are documented where they are imported from, not where they are defined.
        path = re.sub(r"^fastap\.(functional|direct|modules|retrieval)\.", "fastap.", path)
        return f"[`{name}`][{path}]"

    lines: list[str] = []
    columns: list[slice] = []
    rules = 0  # a table has three: above and below its head, and at its end
    for line in ROLE.sub(link, text).splitlines():
        if RULE.fullmatch(line.strip()):
            rules = (rules + 1) % 3
            starts = [found.start() for found in re.finditer("=+", line)]
            columns = [slice(*bounds) for bounds in zip(starts, [*starts[1:], None], strict=True)]
            if rules == 2:
                lines.append("|" + " --- |" * len(columns))
        elif rules:
            lines.append("| " + " | ".join(line[column].strip() for column in columns) + " |")
        elif line.strip() != "::":
            lines.append(re.sub(r"::$", ":", line))
    return "\n".join(lines)
