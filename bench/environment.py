"""Where figures come from: commit, processor, versions; and a checkout that serves without being installed."""

from __future__ import annotations

import atexit
import importlib.metadata
import importlib.util
import platform
import re
import shutil
import subprocess
import sys
import tempfile
from datetime import datetime, timezone
from pathlib import Path
from typing import Any

import numpy as np
import torch

ROOT = Path(__file__).parent.parent
RESULTS = ROOT / "bench" / "results"


def commit() -> str:
    """The commit checked out, ``-dirty`` if files of it have been changed."""
    command = ["git", "describe", "--always", "--dirty", "--exclude=*"]
    try:
        found = subprocess.run(command, capture_output=True, text=True, check=False, cwd=ROOT)
    except OSError:
        return "unknown"
    return found.stdout.strip() or "unknown"


def cpu() -> str:
    about = Path("/proc/cpuinfo")
    found = re.search(r"model name\s*: (.*)", about.read_text() if about.exists() else "")
    return found[1] if found else platform.processor()


def versions() -> dict[str, str]:
    return {
        "python": platform.python_version(),
        "torch": torch.__version__,
        "numpy": np.__version__,
        "fastap": importlib.metadata.version("fastap"),
    }


def about(device: torch.device | str = "cpu") -> dict[str, Any]:
    """What every stored result says of where it comes from."""
    device = torch.device(device)
    on_gpu = device.type == "cuda"
    return {
        "device": torch.cuda.get_device_properties(device).name if on_gpu else cpu(),
        "type": device.type,
        "cpu": cpu(),
        "threads": torch.get_num_threads(),
        "versions": {**versions(), **({"cuda": torch.version.cuda} if on_gpu else {})},
        "commit": commit(),
        "date": datetime.now(timezone.utc).isoformat(timespec="seconds"),
    }


def versions_of(about: dict[str, Any]) -> str:
    return ", ".join(f"{name} {version}" for name, version in about["versions"].items() if version)


def machine(about: dict[str, Any]) -> str:
    """``AMD EPYC, 2 threads, python 3.11.7, ..., commit 82c82a0, 2025-01-31``."""
    count = about.get("threads") if about["type"] == "cpu" else None
    threads = f", {count} thread{'s' * (count != 1)}" if count else ""
    return f"{about['device']}{threads}, {versions_of(about)}, commit {about['commit']}, {about['date'][:10]}"


def stem(kind: str, where: dict[str, Any]) -> str:
    """``<kind>-<device>-torch-<version>-<commit>``, with a hyphen for what file names do not take."""
    parts = (kind, where["device"], "torch", where["versions"]["torch"], where["commit"])
    return re.sub(r"[^A-Za-z0-9._-]+", "-", "-".join(parts))


def is_installed() -> bool:
    """Whether pip knows this package; what a build leaves behind in a checkout, ``fastap.egg-info``, has no record."""
    found = importlib.metadata.distributions(name="fastap")
    return any(each.read_text("RECORD") is not None for each in found)


def stand_in_for_installation() -> None:
    """What ``pip install -e .`` adds, for this process: ``fastap.kernels`` and the version of ``fastap``.

    Machines with a GPU may have PyTorch but no way to install anything.
    """
    version = re.search(r'^version = "(.*)"', (ROOT / "pyproject.toml").read_text(encoding="utf-8"), re.M)
    assert version is not None
    folder = Path(tempfile.mkdtemp(prefix="fastap-"))
    atexit.register(shutil.rmtree, folder, ignore_errors=True)
    about = folder / f"fastap-{version[1]}.dist-info" / "METADATA"
    about.parent.mkdir()
    about.write_text(f"Metadata-Version: 2.1\nName: fastap\nVersion: {version[1]}\n", encoding="utf-8")
    sys.path.append(str(folder))
    kernels = ROOT / "kernels"
    spec = importlib.util.spec_from_file_location(
        "fastap.kernels", kernels / "__init__.py", submodule_search_locations=[str(kernels)]
    )
    assert spec is not None
    assert spec.loader is not None
    module = importlib.util.module_from_spec(spec)
    sys.modules[spec.name] = module
    spec.loader.exec_module(module)
