"""What is installed here and what it runs on, in words; and whom to tell of what is wrong."""

from __future__ import annotations

import platform
from importlib.metadata import PackageNotFoundError, metadata, version

import torch


def versions() -> str:
    """Of this package and what its results hang on."""
    names = {"fastap": "fastap", "PyTorch": "torch", "Triton": "triton", "NumPy": "numpy"}
    found = [f"{name} {number}" for name, package in names.items() if (number := _version(package))]
    toolkit = f"ROCm {torch.version.hip}" if torch.version.hip else f"CUDA {torch.version.cuda}"
    if torch.version.hip or torch.version.cuda:
        found.append(toolkit)
    return ", ".join([*found, f"Python {platform.python_version()}", f"{platform.system()} {platform.machine()}"])


def gpu(device: torch.device) -> str:
    """``NVIDIA H100 80GB HBM3 (9.0)``; of an emulated one, whose tensors are the CPU's, nothing is known."""
    if device.type != "cuda":
        return f"the device of tensors on {device}"
    about = torch.cuda.get_device_properties(device)
    return f"{about.name} ({about.major}.{about.minor})"


def where_to_report() -> str:
    """The address of the issue tracker, if the package states one."""
    links = (each.split(", ", 1) for each in metadata("fastap").get_all("Project-URL") or ())
    return next((address for name, address in links if name == "Issues"), "the authors of fastap")


def _version(package: str) -> str | None:
    try:
        return version(package)
    except PackageNotFoundError:
        return None
