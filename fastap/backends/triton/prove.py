"""Kernels that prove themselves: what is compiled first solves a battery, and the CPU says whether it is right.

A call that launches a kernel for the first time on a device, which compiles or loads it and so takes long anyway, is
followed by one like it: the same kernels on :mod:`fastap.backends.battery`, 16 to 50 rankings of up to three lengths,
against the engine of the CPU. If they differ, the call and all of its kind from then on go through the CPU. The
reduction, which changes the gradient in place, is compared before. A call whose kernels are known pays for a look at a
few containers.

Nothing is compared, and nothing taken for proven, while a CUDA graph is captured; nor are the kernels for batches of
2**31 scores and more, which are compiled for addresses that no small battery has.
"""

from __future__ import annotations

from collections.abc import Callable, Iterator
from contextlib import contextmanager
from dataclasses import replace
from functools import partial
from math import nan
from typing import Any, NamedTuple, cast

import torch
from torch import Tensor

from fastap.backends import about, native, reference
from fastap.backends.battery import EPSILON, IGNORED, KINDS, WRONG, Battery, battery, difference
from fastap.backends.triton import bound
from fastap.backends.triton.bound import PROVEN, forget, unproven
from fastap.backends.triton.inputs import Given, Inputs, on_device
from fastap.backends.triton.launch import Launch, RaggedLaunch, ShortLaunch, TiledLaunch
from fastap.backends.triton.plan import Place, Plan, place_of
from fastap.reduce import reduce
from fastap.types import Batch, Losses, Objective
from fastap.warning import warn_once


class Call(NamedTuple):
    """A function of the engines, called for such inputs."""

    name: str
    inputs: Inputs
    launch: Launch
    options: tuple[Any, ...]  # an objective, a type, whether a gradient is wanted


PlanOf = Callable[..., Plan]  # of losses, a type, whether it is a mean, and at most so many programs
Solve = Callable[[Call, Given], Any]


class Verdict(NamedTuple):
    """What came of a comparison."""

    rankings: int
    wrong: str | None  # in words; None if nothing is


# Kinds of calls that were wrong, and what was.
_FAULTY: dict[str, str] = {}
_MOST_SCORES = 2**31 - 1


def proven(solve: Solve, batch: Batch, call: Call, given: Given) -> Any:
    """``solve(call, given)``, or what the CPU says of the batch if kernels of such a call are wrong."""
    if _FAULTY and kind_of(call) in _FAULTY:
        return _on_the_cpu(batch, call, given)
    try:
        result = solve(call, given)
    except BaseException:
        forget(unproven.take())  # for another call
        raise
    if not unproven.kernels:
        return result
    if call.inputs.rankings * call.inputs.items > _MOST_SCORES:
        forget(unproven.take())
        return result
    # No lambdas: their variables would cost the calls whose kernels are known 1 us.
    if is_right(call.inputs.device, partial(kind_of, call), partial(verdict, solve, call)):
        return result
    return _on_the_cpu(batch, call, given)


def proven_reduction(plan_of: PlanOf, losses: Losses, dtype: torch.dtype, mean: bool) -> tuple[Tensor, Tensor | None]:
    """What that plan says, or PyTorch's own reduction, on the device, if its kernel is wrong.

    The gradient is changed in place: a new kernel is compared before it comes near it.
    """
    if not (_FAULTY and _reduction(losses, dtype, mean) in _FAULTY):
        plan = plan_of(losses, dtype, mean)
        is_known = plan.is_proven or not bound.proves_kernels()
        if is_known or is_right(
            losses.loss.device,
            partial(_reduction, losses, dtype, mean),
            partial(judge_reduction, plan_of, losses, dtype, mean),
        ):
            total = run_reduction(plan, losses)
            if unproven.kernels:  # as a graph is captured
                forget(unproven.take())
            return total, None
    return reduce(losses, dtype, mean=mean)


def run_reduction(plan: Plan, losses: Losses) -> Tensor:
    """The total; the gradient is multiplied in place."""
    total: Tensor
    with on_device(losses.loss.device):
        (total,) = plan.run(
            (losses.loss, losses.takes_part, losses.loss if losses.gradient is None else losses.gradient)
        )
    return total


def _reduction(losses: Losses, dtype: torch.dtype, mean: bool) -> str:
    """What such a call is called."""
    kind = "mean" if mean else "sum"
    return f"{kind} of losses {losses.loss.dtype} as {dtype} on {losses.loss.device}".replace("torch.", "")


def judge_reduction(plan_of: PlanOf, losses: Losses, dtype: torch.dtype, mean: bool) -> Verdict:
    """Of the kernel that reduces such losses."""
    sizes = 1, 1024, 2500
    for rankings in sizes:
        number = torch.arange(rankings, device="cpu")
        gradient = (
            None if losses.gradient is None else torch.arange(3 * rankings, device="cpu").to(losses.gradient.dtype)
        )
        each = Losses((number % 33).to(losses.loss.dtype) / 32, gradient, number % 3 > 0)
        placed = [
            None if values is None or like is None else _placed(values, place_of(0, like), like.device)
            for values, like in zip(each, losses, strict=True)
        ]
        there = Losses(*cast(Any, placed))
        # By so few programs that each has several tiles.
        total = run_reduction(plan_of(there, dtype, mean, 2), there)
        right, share = reduce(each, dtype, mean=mean)
        given = [total, there.gradient]
        wanted = [right, gradient if gradient is None or share is None else gradient * share]
        for one, other in zip(given, wanted, strict=True):
            if one is None or other is None:
                continue
            wrong = ~torch.isclose(one.cpu(), other, rtol=1e-6, atol=0)
            if wrong.any():
                first = f"{float(one.cpu()[wrong][0])} in place of {float(other[wrong][0])}"
                return Verdict(sum(sizes), f"{first}, of {rankings} losses")
    return Verdict(sum(sizes), None)


def is_right(device: torch.device, kind: Callable[[], str], judge: Callable[[], Verdict]) -> bool:
    """Whether nothing is wrong, so far as can be told now; if something is, it is remembered and warned of."""
    if _is_capturing(device):
        forget(unproven.take())  # for another call
        return True
    try:
        with _waiting(device):
            found = judge().wrong
    except torch.OutOfMemoryError:
        forget(unproven.take())  # for another call, that leaves room
        return True
    except BaseException:
        forget(unproven.take())
        raise
    kernels = unproven.take()
    if found is None:
        PROVEN.update(kernels.values())
        return True
    forget(kernels)
    call = kind()
    _FAULTY[call] = found
    warn_once(
        f"Triton's kernels are wrong on this GPU: {call}. In this process such calls go through the CPU, exact but "
        f"slow, and wait for the device. Please send this message, and what `python -m fastap --check` prints, to "
        f"{about.where_to_report()}: {found}; {about.gpu(device)}; {about.versions()}"
    )
    return False


def verdict(solve: Solve, call: Call) -> Verdict:
    """Of the kernels of that call."""
    inputs = call.inputs
    # Parts of a work space begin at multiples of 16 bytes where they do so in the call, for which kernels are compiled.
    kinds = KINDS - (inputs.rankings * inputs.items % 4 != 0)
    solved, found = [], None
    for lengths in _lengths(call):
        each = battery(lengths, has_ignore=inputs.has_ignore, kinds=kinds)
        alike, given = _alike(inputs, each)
        options = tuple(_option_for(option, call.launch) for option in call.options)
        solved.append((each, options, solve(Call(call.name, alike, _few(call.launch, each), options), given)))
    for each, options, result in solved:  # of which the first waits for the device
        weight = () if inputs.weight is None else (each.weight,)
        right = getattr(engine(), call.name)(each.batch(inputs.scores.dtype), *options, *weight)
        is_one = isinstance(right, Tensor)
        right = _spoilt(right, each) if is_one else tuple(_spoilt(values, each) for values in right)
        found = difference(result, right, each.offsets)
        if found is not None:
            break
    return Verdict(sum(each.lengths.shape[0] for each, *_ in solved), found)


def engine() -> Any:
    """The engine of the CPU, which is right."""
    return native if native.IS_BUILT else reference


def kind_of(call: Call) -> str:
    """What such a call is called: one name for all that run the same kernels, and for a few more."""
    name, inputs, launch, options = call
    words = [name]
    for option in options:
        if isinstance(option, Objective):
            words.append(f"{option.loss} {option.update} {option.method}")
        elif isinstance(option, torch.dtype):
            words.append(f"as {option}")
    if inputs.weight is not None:
        words.append("weighted")
    if isinstance(launch, ShortLaunch):
        words.append(f"rankings of up to {launch.sort.items} items")
    else:
        words.append("ragged rankings" if isinstance(launch, RaggedLaunch) else "long rankings")
        words.append(f"by {launch.tiles.num_warps} warps")
    if isinstance(launch, TiledLaunch) and launch.waves is not None:
        words.append("few")
    words.append(f"scores {inputs.scores.dtype}, targets {inputs.targets.dtype}")
    if inputs.has_ignore:
        words.append("with ignore_index")
    return f"{', '.join(words)} on {inputs.device}".replace("torch.", "")


def _lengths(call: Call) -> list[tuple[int, ...]]:
    """The lengths of the rankings of a battery, a launch each; at the edges of what the kernels hold at a time.

    Of long rankings, whose kernels may be compiled for a length of 1 and for multiples of 16, such lengths as theirs.
    """
    launch, items = call.launch, call.inputs.items
    if isinstance(launch, RaggedLaunch):
        return [(0, 1, 33, 600, 0)]
    if isinstance(launch, ShortLaunch):
        return [(1,), (launch.sort.items // 4 + 1,), (launch.sort.items,)]
    if items == 1:
        return [(1,)]
    odd = items % 16 != 0
    if launch.waves is not None and any(isinstance(each, Objective) and each.method == "dp" for each in call.options):
        return [(2 * launch.waves.columns + 16 + odd,)]
    return [*([(2,)] if odd else []), (launch.items - odd,), (2 * launch.items + 16 - 3 * odd,)]


def _few(launch: Launch, each: Battery) -> Launch:
    """The same kernels, by few programs, so that these share rankings: of three tiles one has two, another has one."""
    if isinstance(launch, RaggedLaunch):
        return replace(launch, programs=min(launch.programs, each.lengths.shape[0] // 2))
    if isinstance(launch, TiledLaunch):
        return replace(launch, most_programs=min(launch.most_programs, 2), sharing=3 * each.lengths.shape[0] // 2)
    return launch


def _option_for(option: Any, launch: Launch) -> Any:
    if isinstance(option, Objective):
        return option._replace(epsilon=EPSILON)
    # Whether a gradient is wanted: long rankings alone have a kernel for it, the others' find it in any case.
    return True if option is False and not isinstance(launch, TiledLaunch) else option


def _alike(inputs: Inputs, each: Battery) -> tuple[Inputs, Given]:
    """The battery in memory such that kernels are compiled for it as for these inputs."""
    ignored = inputs.ignore_index if inputs.has_ignore else 2
    targets = each.targets.masked_fill(each.targets == WRONG, 3 if ignored == 2 else 2)
    targets = targets.masked_fill(each.targets == IGNORED, ignored).to(inputs.targets.dtype)
    scores, lengths = each.scores.to(inputs.scores.dtype), each.lengths
    rankings, items, inner, strides = lengths.shape[0], int(lengths[0]), inputs.inner, inputs.strides
    if inputs.offsets is not None:
        items = scores.shape[0]
    else:
        inner = 1 if inner == 1 else _number_like(inner, 2 + rankings % 2)  # of 15 rankings or 16
        shape = rankings // inner, inner, items
        scores, *of_scores = _laid(scores.view(shape), strides[:3])
        targets, *of_targets = _laid(targets.view(shape), strides[3:])
        strides = cast(Any, (*of_scores, *of_targets))
    memories = [
        None if place is None else _placed(values, place, inputs.device)
        for values, place in (
            (scores, inputs.scores),
            (targets, inputs.targets),
            (each.offsets, inputs.offsets),
            (each.weight, inputs.weight),
        )
    ]
    alike = inputs._replace(rankings=rankings, items=items, targeted=items, inner=inner, strides=strides)
    return alike, cast(Given, tuple(memories))


def _laid(values: Tensor, strides: tuple[int, ...]) -> list[Any]:
    """Memory with these values, and strides there that are of the same kind and in the same order as those given."""
    found, extent = [0, 0, 0], 1
    for axis in sorted(range(3), key=lambda axis: (values.shape[axis] > 1, strides[axis] or _MOST_SCORES)):
        found[axis] = _number_like(strides[axis], extent)
        if values.shape[axis] > 1:
            extent = found[axis] * values.shape[axis]
    memory = torch.zeros(extent, dtype=values.dtype, device="cpu")
    memory.as_strided(values.shape, found).copy_(values)
    return [memory, *found]


def _number_like(number: int, least: int) -> int:
    """A small one from that one on for which a kernel is compiled as for this: 1, a multiple of 16, or neither."""
    if number % 16 == 0:
        return -(-least // 16) * 16
    if number == 1 and least == 1:
        return 1
    return least + 1 if least == 1 or least % 16 == 0 else least


def _placed(values: Tensor, like: Place, device: torch.device) -> Tensor:
    """These values in memory that is aligned as that is."""
    start = int(not like.is_aligned)
    memory = torch.empty(values.numel() + start, dtype=values.dtype, device=device)[start:]
    return memory.copy_(values.flatten())


def _spoilt(values: Tensor | None, each: Battery) -> Tensor | None:
    """As kernels, which cannot refuse it, mark a ranking with a wrong target: it takes part, and is NaN."""
    if values is None:
        return None
    wrong = each.is_wrong
    if values.numel() != wrong.shape[0]:
        wrong = wrong.repeat_interleave(each.lengths)
    return values.masked_fill(wrong.view(values.shape), nan if values.is_floating_point() else True)


def _on_the_cpu(batch: Batch, call: Call, given: Given) -> Any:
    """The same of copies, and the results on the device."""
    device = call.inputs.device
    if _is_capturing(device):
        raise RuntimeError(
            "this call cannot be captured in a CUDA graph: its kernels were wrong on this GPU, as a warning said, so "
            "that it goes through the CPU; leave it outside"
        )
    copy = Batch(*cast(Any, (each.cpu() if isinstance(each, Tensor) else each for each in batch)))
    weight = () if given[3] is None else (given[3].view(batch.scores.shape).cpu(),)
    results = getattr(engine(), call.name)(copy, *call.options, *weight)
    if isinstance(results, Tensor):
        return results.to(device)
    return type(results)(*(None if each is None else each.to(device) for each in results))


def _is_capturing(device: torch.device) -> bool:
    return device.type == "cuda" and torch.cuda.is_current_stream_capturing()


@contextmanager
def _waiting(device: torch.device) -> Iterator[None]:
    """Inside, nobody is told of waiting for the device."""
    if device.type != "cuda":
        yield
        return
    before = torch.cuda.get_sync_debug_mode()
    torch.cuda.set_sync_debug_mode(0)
    try:
        yield
    finally:
        torch.cuda.set_sync_debug_mode(before)
