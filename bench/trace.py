"""What a Chrome trace and an execution trace of PyTorch say of a call: pure functions of their JSON.

Every call stands in the trace as an annotation :data:`CALL`, which ends when the work is done, with another,
:data:`HOST`, inside it, which ends when the call returns. On a GPU the rows are kernels, copies and fills. On a CPU
they are operators, each with its time less that of the operators it calls, and one row more for what is in none.
"""

from __future__ import annotations

import re
from collections import defaultdict
from collections.abc import Callable, Iterable, Sequence
from dataclasses import dataclass, field
from typing import Any

import numpy as np

Event = dict[str, Any]

CALL, HOST = "fastap call", "fastap host"
# The engine in C and kernels in Triton's interpreter are no operators: they are annotated by this and their name.
LAUNCH = "launch: "
OUTSIDE = "outside operators (Python, NumPy)"

_ON_DEVICE = ("kernel", "gpu_memcpy", "gpu_memset")
_LAUNCHES = ("cuda_runtime", "cuda_driver", "hip_runtime")
_STAGES = {
    "search": r"search_rankings|aten::searchsorted",
    "sort": r"encode_(items|ragged)|count_classes|count_digits|scan_tiles|scatter|.*[Ss]ort.*|.*fill_reverse_indices.*",
    "prefix sums": r"sum_tiles|split_classes|cut_rankings|aten::cumsum_?|.*DeviceScan.*|.*tensor_kernel_scan.*",
    "repair": r"find_extremes|mark_tiles|settle_tiles|finish_rankings",
    "dynamic program": r"solve_whole|advance_wave|trace_checkpoints|solve_segments",
    "gradient": r"sum_rows|sum_rankings|write_items|reduce_losses|weigh_(rankings|ragged)",
    "all stages": r"short_rankings|ragged_rankings",
}
# In place, and yet no number is touched.
_FREE = re.compile(
    r"aten::(as_strided_|detach_|resize_|set_|squeeze_|t_|transpose_|unsqueeze_|empty\w*|new_empty\w*|_local_scalar_dense)"
)
# Of what they take from, or put into, they touch what the index says.
_TAKES = re.compile(r"aten::(index_select|index|gather|take|take_along_dim|masked_select)")
_PUTS = re.compile(r"aten::(index_(put|copy|fill|add|reduce)_?|_index_put_impl_|scatter(_add|_reduce)?_?|put_)")


@dataclass
class Row:
    """A kernel, or an operator, in one call or a mean one."""

    launches: float = 0.0
    seconds: float = 0.0
    bytes: float | None = None
    # Of a kernel: which operators launched it, and how often one did.
    sources: dict[str, float] = field(default_factory=lambda: defaultdict(float))


@dataclass
class Step:
    """One call, or a mean one; seconds."""

    rows: dict[str, Row]
    wall: float  # from its start to the end of its last kernel
    busy: float  # in which at least one row was at work
    gaps: float  # between the first kernel and the last, with none at work; on a CPU what is outside operators
    host: float  # until the call returned


@dataclass
class OperatorBytes:
    """What all instances of an operator moved."""

    total: float = 0.0
    instances: int = 0
    moving: int = 0  # less those that leave the work to other operators, or have none


def stage_of(name: str) -> str | None:
    """The part of the algorithm, where the name of a kernel or operator says it."""
    return next((stage for stage, names in _STAGES.items() if re.fullmatch(names, name, re.DOTALL)), None)


def union(intervals: Iterable[tuple[float, float]]) -> float:
    """The length of what is in at least one interval."""
    covered, until = 0.0, -np.inf
    for start, end in sorted(intervals):
        if end > until:
            covered += end - max(start, until)
            until = end
    return float(covered)


def steps(events: Sequence[Event], *, on_gpu: bool) -> list[Step]:
    """Every annotated call of a Chrome trace, in order."""
    spans = [event for event in events if event.get("ph") == "X" and "dur" in event]
    calls = sorted(
        (event for event in spans if event["name"] == CALL and event.get("cat") == "user_annotation"),
        key=lambda event: event["ts"],
    )
    hosts = [event for event in spans if event["name"] == HOST and event.get("cat") == "user_annotation"]
    done = kernels_of(spans, calls) if on_gpu else operators_of(spans, calls)
    found = []
    for call, (rows, intervals) in zip(calls, done, strict=True):
        host = sum(event["dur"] for event in hosts if _number_of([call], event["ts"]) == 0)
        busy = sum(union(on) for on in intervals.values())
        if on_gpu:
            end = max((end for on in intervals.values() for _, end in on), default=call["ts"])
            wall = max(end - call["ts"], host)
            spread = sum(max(e for _, e in on) - min(s for s, _ in on) for on in intervals.values())
            gaps = spread - busy
        else:
            wall, gaps = call["dur"], max(call["dur"] - busy, 0.0)
            rows[OUTSIDE] = Row(0, gaps / 1e6)
        found.append(Step(rows, *(each / 1e6 for each in (wall, busy, gaps, host))))
    return found


Done = tuple[dict[str, Row], dict[Any, list[tuple[float, float]]]]  # rows, and when each device or thread was at work


def kernels_of(spans: Sequence[Event], calls: Sequence[Event]) -> list[Done]:
    """What each call put on the devices, whenever it ran there."""
    launched = {_argument(event, "correlation"): event["ts"] for event in spans if event.get("cat") in _LAUNCHES}
    operators = {_argument(event, "External id"): event["name"] for event in spans if event.get("cat") == "cpu_op"}
    done: list[Done] = [(defaultdict(Row), defaultdict(list)) for _ in calls]
    seen: list[set[tuple[str, str, Any]]] = [set() for _ in calls]
    for event in spans:
        if event.get("cat") not in _ON_DEVICE:
            continue
        moment: float = launched.get(_argument(event, "correlation"), event["ts"])
        number = _number_of(calls, moment)
        if number is None:
            continue
        rows, intervals = done[number]
        row = rows[event["name"]]
        row.launches += 1
        row.seconds += event["dur"] / 1e6
        if "bytes" in event.get("args", {}):
            # A copy on one device reads and writes there; any other touches it once.
            passes = 2 if "DtoD" in event["name"] else 1
            row.bytes = (row.bytes or 0.0) + passes * float(event["args"]["bytes"])
        intervals[_argument(event, "device")].append((event["ts"], event["ts"] + event["dur"]))
        external = _argument(event, "External id")
        source = operators.get(external)
        if source is not None and (event["name"], source, external) not in seen[number]:
            seen[number].add((event["name"], source, external))
            row.sources[source] += 1
    return done


def operators_of(spans: Sequence[Event], calls: Sequence[Event]) -> list[Done]:
    """The operators of each call, less wrappers such as autograd's, whose own time counts to what calls them."""
    done: list[Done] = [(defaultdict(Row), defaultdict(list)) for _ in calls]
    inside: dict[tuple[int, Any], list[Event]] = defaultdict(list)
    for event in spans:
        if not _is_operator(event):
            continue
        number = _number_of(calls, event["ts"])
        if number is not None:
            inside[number, event.get("tid")].append(event)
    for (number, thread), events in inside.items():
        rows, intervals = done[number]
        stack: list[tuple[float, Row]] = []
        for event in sorted(events, key=lambda event: (event["ts"], -event["dur"])):
            start, end = event["ts"], event["ts"] + event["dur"]
            while stack and stack[-1][0] <= start:
                stack.pop()
            row = rows[event["name"].removeprefix(LAUNCH)]
            row.launches += 1
            row.seconds += event["dur"] / 1e6
            if stack:
                stack[-1][1].seconds -= (min(end, stack[-1][0]) - start) / 1e6
            intervals[thread].append((start, end))
            stack.append((end, row))
    return done


def mean_step(found: Sequence[Step]) -> Step:
    """The mean of the calls between the quartiles of wall time: rows add up, and interrupted calls do not count."""
    ordered = sorted(found, key=lambda step: step.wall)
    cut = len(ordered) // 4
    kept = ordered[cut : len(ordered) - cut]
    rows: dict[str, Row] = {}
    for name in dict.fromkeys(name for step in kept for name in step.rows):
        each = [step.rows[name] for step in kept if name in step.rows]
        known = [row.bytes for row in each if row.bytes is not None]
        sources: dict[str, float] = defaultdict(float)
        for row in each:
            for source, times in row.sources.items():
                sources[source] += times / len(kept)
        rows[name] = Row(
            sum(row.launches for row in each) / len(kept),
            sum(row.seconds for row in each) / len(kept),
            sum(known) / len(kept) if known else None,
            sources,
        )
    return Step(
        rows,
        *(
            float(np.mean([getattr(step, name) for step in kept])) if kept else 0.0
            for name in ("wall", "busy", "gaps", "host")
        ),
    )


def bytes_of_operators(nodes: Sequence[Event], has_kernel: Callable[[str], bool]) -> dict[str, OperatorBytes]:
    """What operators move, from the nodes of PyTorch's execution trace: every input and output once.

    That is a nominal number: an operator may read a tensor twice, or a part of it. Nothing is counted for views and
    allocations, nor for operators that leave the work to others: those have no kernel of their own by
    ``has_kernel(name and overload)`` and call operators that count.
    """
    moved = {node["id"]: 0.0 if _is_free(node) else _tensor_bytes(node) for node in nodes}
    parents = {node["id"]: node["ctrl_deps"] for node in nodes}
    leave: set[int] = set()  # these call operators that count
    for node in nodes:
        above = parents[node["id"]]
        while moved[node["id"]] and above in moved and above not in leave:
            leave.add(above)
            above = parents[above]
    found: dict[str, OperatorBytes] = defaultdict(OperatorBytes)
    for node in nodes:
        if not node["name"].startswith("aten::"):
            continue
        each = found[node["name"]]
        each.instances += 1
        if moved[node["id"]] and (node["id"] not in leave or has_kernel(_schema(node).split("(")[0])):
            each.moving += 1
            each.total += moved[node["id"]]
    return dict(found)


def add_bytes(
    rows: dict[str, Row], operators: dict[str, OperatorBytes], launches: dict[str, OperatorBytes], *, on_gpu: bool
) -> None:
    """Fill in the bytes of every row where they are known.

    Of ``launches`` by their tensors. Of other kernels by the operators that launch them, if these launch
    nothing else: how a sort of several kernels divides its bytes is not known.
    """
    kernels: dict[str, set[str]] = defaultdict(set)
    for name, row in rows.items():
        for source in row.sources:
            kernels[source].add(name)
    for name, row in rows.items():
        if row.bytes is not None or name == OUTSIDE:
            continue
        if name in launches:
            row.bytes = row.launches * launches[name].total / launches[name].instances
        elif on_gpu:
            alone = bool(row.sources) and all(
                kernels[source] == {name} and source in operators and operators[source].moving for source in row.sources
            )
            if alone:
                row.bytes = sum(
                    times * operators[source].total / operators[source].moving for source, times in row.sources.items()
                )
        elif name in operators and operators[name].total:
            row.bytes = row.launches * operators[name].total / operators[name].instances


def peak_bytes(events: Sequence[Event]) -> int:
    """The most that tensors of the CPU held at once beyond what was there, of a trace with memory events."""
    return max(
        (
            event["args"]["Total Allocated"]
            for event in events
            if event.get("name") == "[memory]" and event["args"].get("Device Type") == 0
        ),
        default=0,
    )


def _argument(event: Event, name: str) -> Any:
    return event.get("args", {}).get(name)


def _is_operator(event: Event) -> bool:
    name, kind = event["name"], event.get("cat")
    return (kind == "cpu_op" and name.startswith("aten::")) or (kind == "user_annotation" and name.startswith(LAUNCH))


def _number_of(calls: Sequence[Event], moment: float) -> int | None:
    """In which of the calls that moment is; calls are in order and do not overlap."""
    number = int(np.searchsorted([call["ts"] for call in calls], moment, side="right")) - 1
    return number if number >= 0 and moment <= calls[number]["ts"] + calls[number]["dur"] else None


def _schema(node: Event) -> str:
    return next((str(each["value"]) for each in node.get("attrs", ()) if each["name"] == "op_schema"), "")


def _is_free(node: Event) -> bool:
    """Views, allocations, and what is no operator."""
    name = node["name"]
    if not name.startswith("aten::") or _FREE.fullmatch(name):
        return True
    # ``-> Tensor(a)`` is a view, ``-> Tensor(a!)`` was written to.
    return re.search(r"-> \(?Tensor\(\w+\)", _schema(node)) is not None


def _tensor_bytes(node: Event) -> float:
    """Of every tensor among inputs and outputs, each once; what is expanded is there once."""
    taken = [each for side in ("inputs", "outputs") for each in _tensors(node[side])]
    most = np.inf
    if _TAKES.fullmatch(node["name"]):
        most = max((numbers for _, numbers, _ in _tensors(node["outputs"])), default=0.0)
    elif _PUTS.fullmatch(node["name"]):
        most = max((numbers for _, numbers, _ in _tensors(node["inputs"])[1:]), default=0.0)
    return sum({key: min(numbers, most) * size for key, numbers, size in taken}.values())


def _tensors(side: Event) -> list[tuple[tuple[Any, ...], float, int]]:
    """Storage, offset and shape, numbers, and bytes of each, of the tensors on one side of an operator."""
    found: list[tuple[tuple[Any, ...], float, int]] = []

    def collect(value: Any, shape: Any, stride: Any, kind: str) -> None:
        if kind.startswith("Tensor("):
            numbers = float(np.prod([size for size, step in zip(shape, stride, strict=True) if step != 0]))
            found.append(((value[1], value[2], tuple(shape)), numbers, value[4]))
        elif kind.startswith("GenericList[Tensor"):
            kinds = kind.removeprefix("GenericList[").removesuffix("]").split(",")
            for each in zip(value, shape, stride, kinds, strict=False):  # long lists are cut off
                collect(*each)

    for each in zip(side["values"], side["shapes"], side["strides"], side["types"], strict=True):
        collect(*each)
    return found
