"""The GPU gate: tests on the GPU, and only if they are green the times, with what they were to reach.

``python -m bench.gpu --out DIR`` takes at most 8 minutes and needs pytest, NumPy, PyTorch and Triton, nothing else;
this checkout need not be installed. It prints a table last and writes ``gpu-<device>-torch-<version>-<commit>.json`` to
the folder. The exit status is 0 after green tests, 1 after red ones, 2 without a GPU.
"""

from __future__ import annotations

import argparse
import json
import sys
import tempfile
import time
from datetime import datetime, timezone
from pathlib import Path
from typing import Any

import torch
import triton

from bench.environment import commit, cpu, stem, versions
from bench.gpu_targets import judge, table, table_of_times
from bench.gpu_tests import is_green, run_share, run_tests, sanitize, sanitize_case
from bench.gpu_times import CASES, count_launches, time_case

# Seconds of the whole, and of its parts at most; what is left is for the times.
TOTAL = 470.0
TESTING = 280.0
SANITIZING = 60.0


def file_name(results: dict[str, Any]) -> str:
    return stem("gpu", results) + ".json"


def save(results: dict[str, Any], out: Path) -> Path:
    out.mkdir(parents=True, exist_ok=True)
    path = out / file_name(results)
    path.write_text(json.dumps(results, indent=1) + "\n", encoding="utf-8")
    return path


def run(out: Path, *, skip_tests: bool, of_commit: str | None) -> int:
    start = time.monotonic()
    device = torch.device("cuda")
    about = torch.cuda.get_device_properties(device)
    results: dict[str, Any] = {
        "device": about.name,
        "memory": about.total_memory,
        "capability": ".".join(map(str, torch.cuda.get_device_capability(device))),
        "cpu": cpu(),
        "versions": {**versions(), "triton": triton.__version__, "cuda": torch.version.cuda},
        "commit": of_commit or commit(),
        "date": datetime.now(timezone.utc).isoformat(timespec="seconds"),
        "tests": {"skipped": "by --skip-tests"},
        "sanitizer": {},
        "times": [],
    }
    print(", ".join(f"{key} {results[key]}" for key in ("device", "versions", "commit", "date")), flush=True)
    if not skip_tests:
        with tempfile.TemporaryDirectory() as folder:
            results["tests"] = run_tests(start + TESTING, Path(folder))
            print("tests: " + json.dumps(results["tests"], indent=1), flush=True)
            if is_green(results):
                results["sanitizer"] = sanitize(time.monotonic() + SANITIZING, Path(folder))
                print("sanitizer: " + json.dumps(results["sanitizer"]), flush=True)
    if not is_green(results):
        print(f"red: no times were taken. {save(results, out)}")
        return 1
    results["launches"] = count_launches(device)
    for case in CASES:
        results["times"].append(time_case(case, device, start + TOTAL))
        save(results, out)
    verdicts = judge(results)
    results["targets"] = [each._asdict() for each in verdicts]
    results["seconds"] = time.monotonic() - start
    path = save(results, out)
    print(table_of_times(results), table(list(verdicts), ("what", "target", "measured", "verdict")), sep="\n\n")
    print(f"\n{results['device']}, tests {'skipped' if skip_tests else 'green'}, {results['seconds']:.0f} s, {path}")
    return 0


def main() -> int:
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    parser.add_argument("--out", type=Path, help="folder of the JSON")
    parser.add_argument("--skip-tests", action="store_true", help="take times at once")
    parser.add_argument("--commit", help="what the JSON says where this is a copy without its history")
    parser.add_argument("--sanitize-case", action="store_true", help="run every kernel once, for compute-sanitizer")
    parser.add_argument("--share", nargs=3, metavar=("I/N", "MARKS", "XML"), help="run one share of the GPU tests")
    options = parser.parse_args()
    if options.share:
        number, of = map(int, options.share[0].split("/"))
        return run_share(number, of, *options.share[1:])
    if not torch.cuda.is_available():
        print("bench.gpu needs a CUDA device, and PyTorch sees none here.", file=sys.stderr)
        return 2
    if options.sanitize_case:
        return sanitize_case()
    if options.out is None:
        parser.error("--out DIR is needed")
    return run(options.out, skip_tests=options.skip_tests, of_commit=options.commit)


if __name__ == "__main__":
    sys.exit(main())
