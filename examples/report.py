"""Tables of the studies."""

from __future__ import annotations
from statistics import fmean, stdev
from scipy.stats import t as student
from tabulate import tabulate


def interval(values):
    n = len(values)
    half = student.ppf(0.975, n - 1) * stdev(values) / n**0.5 if n > 1 else float("nan")
    return fmean(values), half


def table(results, part="test"):
    rows = []
    for m in results.methods():
        row = [m]
        for s in results.settings():
            v = results.values(s, m, part)
            row.append("{:.3f} ± {:.3f}".format(*interval(v)) if v else "")
        rows.append(row)
    return tabulate(rows, ["", *map(str, results.settings())], tablefmt="github")


label_noise = synthetic_teacher = synthetic_noise = detection_batches = table
