"""What the page says of other libraries and of the methods of papers."""

from __future__ import annotations

from collections.abc import Sequence

from bench import plots, stored
from bench.markdown import Page, one_line, timed
from bench.stored import Result, Row, memory, times_of

_PAIRED = (
    "A ratio is the median, over rounds in which both were timed on the same scores, of the peer's time divided by the "
    "other's. *The slower update* is the one to which a peer's ratio is the smaller."
)
_QUOTIENTS = (
    "A ratio is the quotient of two medians of the same process. *The slower update* is the one to which a peer's "
    "ratio is the smaller."
)
_FEW = f"The number of calls stands beside a ratio that rests on fewer than {stored.FEW}: it is a rough one."


def add(page: Page, device: str, peers: Result) -> None:
    rows = peers.rows
    sizes = stored.sizes(rows)
    cap = peers.data["cap"]
    page.add("### Other libraries and papers")
    page.add(
        "Each peer at each size ran in a process of its own, which could take "
        f"{cap['seconds']:g} s and {memory(cap['bytes'])} and also timed `torch.sort` and this library on the same "
        "scores. Losses are timed forward and backward and compared with both updates of `direct_ap_loss`, metrics "
        "with `average_precision`."
    )
    page.add(f"{_PAIRED if stored.is_paired(rows) else _QUOTIENTS} {_FEW}")
    title = f"How many times as long as fastap others take on {device}"
    page.picture("peers", device, "Time of peers against this library's", lambda: plots.peers(rows, title))
    for gives, says in (
        ("gradient", "Losses: how many times as long as the slower of this library's two updates they take."),
        ("metric", "Metrics without a gradient: how many times as long as `average_precision` they take."),
    ):
        names = stored.names(rows, gives)
        body = []
        for name in names:
            of_peer = [row for row in rows if row["peer"] == name and row["gives"] == gives]
            by_size = {(row["P"], row["N"]): row for row in of_peer}
            cells = [_times_or_status(by_size.get(size)) for size in sizes]
            body.append([name, of_peer[0]["source"], *cells])
        if body:
            page.table(says, body, ["peer", "source", *(f"{p:,} + {n:,}" for p, n in sizes)], 2)
    add_checks(page, rows)
    for size in sizes:
        _add_size(page, stored.of_size(rows, size), size)


def add_checks(page: Page, rows: Sequence[Row]) -> None:
    """What was asserted of each peer before its time counted, and what it does otherwise than this library."""
    body = []
    for name in dict.fromkeys(row["peer"] for row in rows):
        of_peer = [row for row in rows if row["peer"] == name]
        checked, note = (
            "; ".join(dict.fromkeys(row[key] for row in of_peer if row.get(key))) for key in ("checked", "note")
        )
        body.append([name, checked or "nothing: it never got so far", note])
    says = (
        "What was asserted of each peer on a small problem, in the process that timed it, and what about its work is "
        "not the same; there this library's updates were compared with the reference."
    )
    page.table(says, body, ["peer", "asserted", "what is different"], 3)


def _times_or_status(row: Row | None) -> str:
    if row is None:
        return "not tried"
    found = stored.ratio_to_ours(row)
    if found is not None:
        calls = stored.few_calls(row)
        return times_of(found) + (f" ({calls})" if calls else "")
    return "not compared" if row["status"] == "ok" else row["status"]


def _add_size(page: Page, rows: Sequence[Row], size: tuple[int, int]) -> None:
    ours = stored.ours_at(rows, size)
    body = []
    ordered = sorted(rows, key=lambda row: (row["gives"] != "gradient", (row.get("seconds") or {}).get("median", 1e9)))
    for row in ordered:
        ratios = [stored.ratio(row, other) for other in ("sort", *stored.WORKS)]
        taken = row.get("seconds") if row["status"] == "ok" else None
        body.append(
            [
                row["peer"],
                row["gives"],
                timed(taken["median"], None) if taken else row["status"],
                str(taken["calls"]) if taken and "calls" in taken else "",
                *("" if each is None else times_of(each) for each in ratios),
                memory(row["bytes"]) if row.get("bytes") else "",
            ]
        )
    mine = [f"`{name}` {timed(ours[name], None)}" for name in ("sort", *stored.WORKS) if ours[name] is not None]
    says = (
        f"P = {size[0]:,}, N = {size[1]:,}: each peer's time, the calls that it is the median of, how many times as "
        "long as `torch.sort`, the positive and the negative update, and the metric it takes, and its peak memory "
        f"(medians over the processes: {', '.join(mine)})."
    )
    heads = ["peer", "gives", "time", "calls", "to sort", "to positive", "to negative", "to metric", "memory"]
    page.table(says, body, heads, 2)
    silent = [f"- {row['peer']}: {one_line(stored.in_words(row))}" for row in ordered if row["status"] != "ok"]
    if silent:
        page.add("Those without a time:", "\n".join(silent))
