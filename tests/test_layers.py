"""Arrows go down only: a module imports from the layers below its own, and a package's modules from their own package.

docs/house.md shows the layers. A layer's rooms do not know of one another.
"""

from __future__ import annotations

import ast
from pathlib import Path

import pytest

ROOT = Path(__file__).resolve().parent.parent
# From the top down. What stands in one line does not import from each other.
LAYERS = (
    ("fastap.__main__",),
    ("fastap",),
    ("fastap.metric_learning",),
    ("fastap.retrieval", "fastap.metrics"),
    ("fastap.modules",),
    ("fastap.multiclass",),
    ("fastap.functional", "fastap.structured"),
    ("fastap.measures",),
    ("fastap.operators",),
    ("fastap.distributed",),
    ("fastap.noise",),
    ("fastap.backends",),
    ("fastap.reduce", "fastap.ragged"),
    ("fastap.arguments",),
    ("fastap.targets", "fastap.warning"),
    ("fastap.types",),
    ("fastap.kernels",),
)
ROOMS = {room: height for height, rooms in enumerate(reversed(LAYERS)) for room in rooms}


def modules() -> list[Path]:
    return sorted([*ROOT.glob("fastap/**/*.py"), *ROOT.glob("kernels/*.py")])


def name_of(file: Path) -> str:
    parts = file.relative_to(ROOT).with_suffix("").parts
    parts = ("fastap", *parts) if parts[0] == "kernels" else parts
    return ".".join(parts[:-1] if parts[-1] == "__init__" else parts)


def imported(file: Path) -> set[str]:
    """The modules of the library that the file imports, anywhere in it."""
    names = {name_of(each) for each in modules()}
    found = set()
    for node in ast.walk(ast.parse(file.read_text(encoding="utf-8"))):
        if isinstance(node, ast.Import):
            found |= {each.name for each in node.names}
        elif isinstance(node, ast.ImportFrom):
            package = name_of(file) if file.name == "__init__.py" else name_of(file).rpartition(".")[0]
            start = ".".join(package.split(".")[: len(package.split(".")) - node.level + 1]) if node.level else ""
            module = ".".join(part for part in (start, node.module) if part)
            for each in node.names:
                found.add(f"{module}.{each.name}" if f"{module}.{each.name}" in names else module)
    return found & names


def room_of(module: str) -> str:
    return max((room for room in ROOMS if module == room or module.startswith(f"{room}.")), key=len)


@pytest.mark.parametrize("file", modules(), ids=name_of)
def test_arrows_go_down(file: Path) -> None:
    module = name_of(file)
    room = room_of(module)
    assert module in ROOMS or room != "fastap", f"{module} has no layer: add it to LAYERS"
    for other in imported(file):
        below = room_of(other)
        inside = below == room != "fastap"
        assert inside or ROOMS[below] < ROOMS[room], f"{module} imports {other}, which is not below it"


def test_modules_of_a_room_make_no_circle() -> None:
    arrows = {name_of(file): imported(file) - {name_of(file)} for file in modules()}
    left = dict(arrows)
    while left:
        free = [module for module, others in left.items() if not others & set(left)]
        assert free, f"these import each other in a circle: {sorted(left)}"
        for module in free:
            del left[module]
