"""Kernels that prove themselves: what is compiled first solves a battery, and the CPU says whether it is right.

A call that launches a kernel for the first time on a device, which compiles or loads it and so takes long anyway, is
followed by one like it: the same kernels on :mod:`fastap.backends.battery`, 16 to 50 rankings of up to three lengths,
against the engine of the CPU. If they differ, the call and all of its kind from then on go through the CPU. A call
whose kernels are known pays for a look at two containers.

Nothing is compared, and nothing taken for proven, while a CUDA graph is captured; nor are the kernels for batches of
2**31 scores and more, which are compiled for addresses that no small battery has.
"""

from __future__ import annotations

from collections.abc import Callable, Iterator
from contextlib import contextmanager
from dataclasses import replace
from functools import partial
from math import nan
from typing import Any, NamedTuple, TypeVar, cast

import torch
from torch import Tensor

from fastap.backends import about, native, reference
from fastap.backends.battery import EPSILON, IGNORED, KINDS, WRONG, Battery, battery, difference
from fastap.backends.triton.bound import PROVEN, forget, unproven
from fastap.backends.triton.inputs import Inputs
from fastap.backends.triton.launch import Launch, RaggedLaunch, ShortLaunch, TiledLaunch
from fastap.reduce import reduce
from fastap.types import Batch, Losses, Objective
from fastap.warning import warn_once

T = TypeVar("T")


class Verdict(NamedTuple):
    """What came of a comparison."""

    rankings: int
    wrong: str | None  # in words; None if nothing is


# Kinds of calls that were wrong, and what was.
_FAULTY: dict[str, str] = {}
_MOST_SCORES = 2**31 - 1


def proven(run: Callable[..., T], batch: Batch, inputs: Inputs, launch: Launch, *options: Any) -> T:
    """``run(inputs, launch, *options)``, or what the CPU says of the batch if kernels of such a call are wrong.

    ``run`` is called as the function of the engines that it stands for, with an underscore before.
    """
    if _FAULTY and kind_of(run, inputs, launch, options) in _FAULTY:
        return _on_the_cpu(run, batch, options)
    try:
        result = run(inputs, launch, *options)
    except BaseException:
        forget(unproven.take())  # for another call
        raise
    if not unproven.kernels:
        return result
    if inputs.rankings * inputs.items > _MOST_SCORES:
        forget(unproven.take())
        return result
    call = run, inputs, launch, options
    # No lambdas: their variables would cost the calls whose kernels are known 1 us.
    if is_right(inputs.device, partial(kind_of, *call), partial(verdict, *call)):
        return result
    return _on_the_cpu(run, batch, options)


def proven_reduction(
    run: Callable[..., tuple[Tensor, Tensor | None]], losses: Losses, dtype: torch.dtype, mean: bool
) -> tuple[Tensor, Tensor | None]:
    """``run(losses, dtype, mean)``, or PyTorch's own reduction, on the device, if its kernel is wrong."""
    if not (_FAULTY and _reduction(losses, dtype, mean) in _FAULTY):
        result = run(losses, dtype, mean)
        if not unproven.kernels or is_right(
            losses.loss.device,
            partial(_reduction, losses, dtype, mean),
            partial(judge_reduction, run, losses, dtype, mean),
        ):
            return result
    return reduce(losses, dtype, mean=mean)


def _reduction(losses: Losses, dtype: torch.dtype, mean: bool) -> str:
    """What such a call is called."""
    kind = "mean" if mean else "sum"
    return f"{kind} of losses {losses.loss.dtype} as {dtype} on {losses.loss.device}".replace("torch.", "")


def judge_reduction(
    run: Callable[..., tuple[Tensor, Tensor | None]], losses: Losses, dtype: torch.dtype, mean: bool
) -> Verdict:
    """Of the kernel that reduces such losses."""
    sizes = 1, 1024, 2500
    for rankings in sizes:
        number = torch.arange(rankings, device="cpu")
        each = Losses((number % 33).to(losses.loss.dtype) / 32, None, number % 3 > 0)
        there = Losses(_placed(each.loss, losses.loss), None, _placed(each.takes_part, losses.takes_part))
        for one, other in zip(run(there, dtype, mean), reduce(each, dtype, mean=mean), strict=True):
            if one is not None and other is not None and not torch.allclose(one.cpu(), other, rtol=1e-6, atol=0):
                return Verdict(sum(sizes), f"{one.tolist()} in place of {other.tolist()} of {rankings} losses")
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


def verdict(run: Callable[..., Any], inputs: Inputs, launch: Launch, options: tuple[Any, ...]) -> Verdict:
    """Of the kernels of that call."""
    # Parts of a work space begin at multiples of 16 bytes where they do so in the call, for which kernels are compiled.
    kinds = KINDS - (inputs.rankings * inputs.items % 4 != 0)
    solved, found = [], None
    for lengths in _lengths(inputs, launch, options):
        each = battery(lengths, has_ignore=inputs.has_ignore, kinds=kinds)
        alike = [_option_for(option, each, launch) for option in options]
        there = [_placed(new, old) if isinstance(old, Tensor) else new for new, old in zip(alike, options, strict=True)]
        solved.append((each, alike, run(_alike(inputs, each), _few(launch, each), *there)))
    for each, alike, given in solved:  # of which the first waits for the device
        right = getattr(engine(), _name(run))(each.batch(inputs.scores.dtype), *alike)
        is_one = isinstance(right, Tensor)
        right = _spoilt(right, each) if is_one else tuple(_spoilt(values, each) for values in right)
        found = difference(given, right, each.offsets)
        if found is not None:
            break
    return Verdict(sum(each.lengths.shape[0] for each, *_ in solved), found)


def engine() -> Any:
    """The engine of the CPU, which is right."""
    return native if native.IS_BUILT else reference


def kind_of(run: Callable[..., Any], inputs: Inputs, launch: Launch, options: tuple[Any, ...]) -> str:
    """What such a call is called: one name for all that run the same kernels, and for a few more."""
    words = [_name(run)]
    for option in options:
        if isinstance(option, Objective):
            words.append(f"{option.loss} {option.update} {option.method}")
        elif isinstance(option, torch.dtype):
            words.append(f"as {option}")
        elif isinstance(option, Tensor):
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


def _name(run: Callable[..., Any]) -> str:
    return run.__name__.removeprefix("_")


def _lengths(inputs: Inputs, launch: Launch, options: tuple[Any, ...]) -> list[tuple[int, ...]]:
    """The lengths of the rankings of a battery, a launch each; at the edges of what the kernels hold at a time.

    Of long rankings, whose kernels may be compiled for a length of 1 and for multiples of 16, such lengths as theirs.
    """
    if isinstance(launch, RaggedLaunch):
        return [(0, 1, 33, 600, 0)]
    if isinstance(launch, ShortLaunch):
        return [(1,), (launch.sort.items // 4 + 1,), (launch.sort.items,)]
    if inputs.items == 1:
        return [(1,)]
    odd = inputs.items % 16 != 0
    if launch.waves is not None and any(isinstance(each, Objective) and each.method == "dp" for each in options):
        return [(2 * launch.waves.columns + 16 + odd,)]
    return [*([(2,)] if odd else []), (launch.items - odd,), (2 * launch.items + 16 - 3 * odd,)]


def _few(launch: Launch, each: Battery) -> Launch:
    """The same kernels, by few programs, so that these share rankings: of three tiles one has two, another has one."""
    if isinstance(launch, RaggedLaunch):
        return replace(launch, programs=min(launch.programs, each.lengths.shape[0] // 2))
    if isinstance(launch, TiledLaunch):
        return replace(launch, most_programs=min(launch.most_programs, 2), sharing=3 * each.lengths.shape[0] // 2)
    return launch


def _option_for(option: Any, each: Battery, launch: Launch) -> Any:
    if isinstance(option, Objective):
        return option._replace(epsilon=EPSILON)
    if isinstance(option, Tensor):
        return each.weight
    # Whether a gradient is wanted: long rankings alone have a kernel for it, the others' find it in any case.
    return True if option is False and not isinstance(launch, TiledLaunch) else option


def _alike(inputs: Inputs, each: Battery) -> Inputs:
    """The battery in memory such that kernels are compiled for it as for these inputs."""
    ignored = inputs.ignore_index if inputs.has_ignore else 2
    targets = each.targets.masked_fill(each.targets == WRONG, 3 if ignored == 2 else 2)
    targets = targets.masked_fill(each.targets == IGNORED, ignored).to(inputs.targets.dtype)
    scores, lengths = each.scores.to(inputs.scores.dtype), each.lengths
    rankings, items = lengths.shape[0], int(lengths[0])
    if inputs.offsets is not None:
        return inputs._replace(
            scores=_placed(scores, inputs.scores),
            targets=_placed(targets, inputs.targets),
            offsets=_placed(each.offsets, inputs.offsets),
            rankings=rankings,
            items=scores.shape[0],
            shape=(scores.shape[0],),
        )
    inner = 1 if inputs.inner == 1 else _number_like(inputs.inner, 2 + rankings % 2)  # of 15 rankings or 16
    shape = rankings // inner, inner, items
    scores, *of_scores = _laid(scores.view(shape), inputs.strides[:3])
    targets, *of_targets = _laid(targets.view(shape), inputs.strides[3:])
    return inputs._replace(
        scores=_placed(scores, inputs.scores),
        targets=_placed(targets, inputs.targets),
        rankings=rankings,
        items=items,
        shape=(rankings, items),
        inner=inner,
        strides=cast(Any, (*of_scores, *of_targets)),
    )


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


def _placed(values: Tensor, like: Tensor) -> Tensor:
    """These values on the device of a tensor, their memory aligned as its is."""
    start = int(like.data_ptr() % 16 != 0)
    memory = torch.empty(values.numel() + start, dtype=values.dtype, device=like.device)[start:]
    return memory.copy_(values)


def _spoilt(values: Tensor | None, each: Battery) -> Tensor | None:
    """As kernels, which cannot refuse it, mark a ranking with a wrong target: it takes part, and is NaN."""
    if values is None:
        return None
    wrong = each.is_wrong
    if values.numel() != wrong.shape[0]:
        wrong = wrong.repeat_interleave(each.lengths)
    return values.masked_fill(wrong.view(values.shape), nan if values.is_floating_point() else True)


def _on_the_cpu(run: Callable[..., T], batch: Batch, options: tuple[Any, ...]) -> T:
    """The same of copies, and the results on the device."""
    device = batch.scores.device
    if _is_capturing(device):
        raise RuntimeError(
            "this call cannot be captured in a CUDA graph: its kernels were wrong on this GPU, as a warning said, so "
            "that it goes through the CPU; leave it outside"
        )
    copies = [tuple(each.cpu() if isinstance(each, Tensor) else each for each in all_) for all_ in (batch, options)]
    results = getattr(engine(), _name(run))(Batch(*cast(Any, copies[0])), *copies[1])
    if isinstance(results, Tensor):
        return cast(T, results.to(device))
    return cast(T, type(results)(*(None if each is None else each.to(device) for each in results)))


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
