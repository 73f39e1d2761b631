"""One version number, every package listed, and every public name there and explained."""

from __future__ import annotations

import importlib
import importlib.metadata
import inspect
import subprocess
import sys
from pathlib import Path
from typing import Any

import pytest

import fastap

if sys.version_info >= (3, 11):
    import tomllib
else:
    import tomli as tomllib  # comes with pytest there

ROOT = Path(__file__).parents[1]
PROJECT: dict[str, Any] = tomllib.loads((ROOT / "pyproject.toml").read_text(encoding="utf-8"))

LOSSES = {"direct_ap_loss", "ap_hinge_loss", "ap_perceptron_loss"}
LOSSES |= {"direct_loss", "direct_cost_loss", "cost_hinge_loss", "cost_perceptron_loss"}
MODULES = {
    f"{kind}Loss" for kind in ("DirectAP", "APHinge", "APPerceptron", "DirectCost", "CostHinge", "CostPerceptron")
}
PUBLIC = {*LOSSES, *MODULES, "average_precision", "loss_augmented_ranking"}
# What else may be given by its place.
BY_PLACE = {"direct_loss": "y_direct", "direct_cost_loss": "cost", "cost_hinge_loss": "cost"}


def test_one_version() -> None:
    version = PROJECT["project"]["version"]
    assert fastap.__version__ == version
    assert importlib.metadata.version("fastap") == version
    assert f"[{version}]" in (ROOT / "CHANGELOG.md").read_text(encoding="utf-8")


def test_kernels_install_as_part_of_the_package() -> None:
    kernels = importlib.import_module("fastap.kernels")
    assert Path(kernels.__file__).parent == ROOT / "kernels"


def test_every_package_is_listed() -> None:
    on_disk = {
        ".".join((name, *file.parent.relative_to(ROOT / folder).parts))
        for folder, name in (("fastap", "fastap"), ("kernels", "fastap.kernels"))
        for file in (ROOT / folder).rglob("__init__.py")
    }
    assert set(PROJECT["tool"]["setuptools"]["packages"]) == on_disk
    with_modules = {file.parent for folder in ("fastap", "kernels") for file in (ROOT / folder).rglob("*.py")}
    assert all((folder / "__init__.py").exists() for folder in with_modules)


def test_types_are_shipped() -> None:
    assert (ROOT / "fastap" / "py.typed").exists()
    assert "py.typed" in PROJECT["tool"]["setuptools"]["package-data"]["fastap"]


def test_public_names() -> None:
    assert set(fastap.__all__) >= PUBLIC
    assert fastap.__all__ == sorted(fastap.__all__)
    assert len(set(fastap.__all__)) == len(fastap.__all__)


@pytest.mark.parametrize("name", sorted({*PUBLIC, *fastap.__all__}))
def test_public_names_are_explained(name: str) -> None:
    assert len(inspect.getdoc(getattr(fastap, name)) or "") >= 20
    assert vars(getattr(fastap, name)).get("__doc__") or inspect.isfunction(getattr(fastap, name))


@pytest.mark.parametrize("name", sorted(name for name in PUBLIC if name.islower()))
def test_options_come_after_the_arguments(name: str) -> None:
    parameters = list(inspect.signature(getattr(fastap, name)).parameters.values())
    n_arguments = 3 if name in BY_PLACE else 2
    kinds = [parameter.kind for parameter in parameters]
    assert kinds[:n_arguments] == [inspect.Parameter.POSITIONAL_OR_KEYWORD] * n_arguments
    assert set(kinds[n_arguments:]) == {inspect.Parameter.KEYWORD_ONLY}
    assert parameters[2].name == BY_PLACE.get(name, parameters[2].name)


def test_a_folder_that_hides_an_editable_install_is_told_of(tmp_path: Path) -> None:
    """The words that Python then says stand in docs/index.md."""
    (tmp_path / "fastap").mkdir()
    done = subprocess.run(
        [sys.executable, "-c", "import fastap; fastap.direct_ap_loss"],
        cwd=tmp_path,
        capture_output=True,
        text=True,
        check=False,
    )
    if done.returncode == 0:
        pytest.skip("not installed editable")
    said = done.stderr.strip().splitlines()[-1].removeprefix("AttributeError: ")
    page = (ROOT / "docs" / "index.md").read_text(encoding="utf-8")
    assert f"`{said}`" in page
    assert "pip install -e ." in page
