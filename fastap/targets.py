"""What a target may be, and a weight: 0, 1, a class, one to be ignored, or wrong.

A wrong value is an error where values may be looked at: on the CPU, outside compilers. Elsewhere that would stall the
stream, and a wrong value makes NaN.
"""

from __future__ import annotations

import math
from collections.abc import Iterable

import torch
from torch import Tensor, nn

# Narrower floats and whatever is quantized or packed would need a meaning of their own: some of them have no zero.
FLOATING = (torch.float16, torch.bfloat16, torch.float32, torch.float64)
INTEGER = (
    *(torch.int8, torch.int16, torch.int32, torch.int64),
    *(torch.uint8, torch.uint16, torch.uint32, torch.uint64),
)
UNSIGNED = (torch.uint16, torch.uint32, torch.uint64)  # of which PyTorch has few operations
REAL = (*INTEGER, *FLOATING)
NUMBERS = (torch.bool, *REAL)
PLAIN = (Tensor, nn.Parameter)  # what has values; subclasses may hold something else


def have_values(tensors: Iterable[object]) -> bool:
    """Whether all of these that are tensors have values, and nothing is looking on that must see an operator.

    That is a compiler, a trace of ``torch.jit``, a mode such as that of fake tensors, or a transform of ``torch.func``.
    """
    if (
        torch.compiler.is_compiling()
        or torch._C._get_tracing_state() is not None
        or torch._C._len_torch_dispatch_stack()
        or torch._C._are_functorch_transforms_active()
    ):
        return False
    return not any(isinstance(each, Tensor) and (type(each) not in PLAIN or each.is_meta) for each in tensors)


def can_look(tensor: Tensor) -> bool:
    """Whether values can be looked at without stalling a stream or a trace."""
    return tensor.is_cpu and have_values((tensor,))


def can_hold(dtype: torch.dtype, number: int) -> bool:
    """Whether the type has this number; if not, a comparison would round or wrap it to another."""
    if dtype.is_floating_point:
        return bool(torch.tensor(number, dtype=dtype, device="cpu").item() == number)
    if dtype == torch.bool:
        return number in (0, 1)
    return torch.iinfo(dtype).min <= number <= torch.iinfo(dtype).max


def wrong_targets(targets: Tensor, taken: Tensor, ignore_index: int | None) -> Tensor | None:
    """An error for a target that is not 0, 1 or ``ignore_index``; ``taken`` marks the zeros and ones.

    On an accelerator the error would stall the stream: there the result marks the rankings (lines) with such a target.
    """
    allowed = allowed_targets(targets, taken, ignore_index)
    if not targets.is_cpu:
        return ~allowed.all(-1)
    if not bool(allowed.all()):
        raise wrong_target("targets", "0 or 1", ignore_index, targets[~allowed][0].item())
    return None


def allowed_targets(targets: Tensor, taken: Tensor, ignore_index: int | None) -> Tensor:
    """Which targets are 0, 1 or ``ignore_index``; ``taken`` marks the zeros and ones."""
    if ignore_index is not None and can_hold(targets.dtype, ignore_index):
        return taken | (targets == ignore_index)
    return taken


def wrong_target(name: str, wanted: str, ignore_index: int | None, given: float) -> ValueError:
    """The error for a target of that value."""
    if ignore_index is not None:
        wanted = f"{wanted.replace(' or', ',')} or ignore_index = {ignore_index}"
    instead = ""
    variable, *_ = name.split()
    if math.isnan(given):  # as tables have it where nothing was measured
        known = -1 if ignore_index in (None, 0, 1) else ignore_index
        instead = f"; where nothing is known, give {variable}.nan_to_num({known}) and ignore_index={known}"
    elif given == -1 and ignore_index is None and wanted == "0 or 1":
        instead = f"; of +1 and -1 give {variable} > 0, and for items that are to be ignored ignore_index=-1"
    return ValueError(f"{name} must be {wanted}, got {given}{instead}")


def without_ignored_class(targets: Tensor, ignore_index: int | None) -> tuple[Tensor, int | None]:
    """The same with another number in place of an ``ignore_index`` of 0 or 1: what is left is of one class."""
    if ignore_index not in (0, 1):
        return targets, ignore_index
    taken = (targets == 0) | (targets == 1)
    if can_look(targets):
        wrong_targets(targets, taken, ignore_index)
    classes = torch.where(targets == ignore_index, -1, 1 - ignore_index)
    return torch.where(taken, classes, 2).to(torch.int8), -1  # 2 is wrong


def classes_of(targets: Tensor, ignore_index: int | None) -> tuple[Tensor, Tensor | None]:
    """Class labels as int64, and which of them are to be ignored."""
    # The largest numbers of uint64 turn negative, which no class is; nor is what it cannot hold to be ignored.
    unsigned, targets = targets.dtype == torch.uint64, targets.long()
    if ignore_index is None or (unsigned and ignore_index < 0):
        return targets, None
    return targets, targets == ignore_index


def wrong_classes(targets: Tensor, ignored: Tensor | None, classes: int, name: str = "targets") -> Tensor | None:
    """An error for a target that is neither a class nor ignored; where it would stall or cannot be, a mask of them."""
    wrong = (targets < 0) | (targets >= classes)
    if ignored is not None:
        wrong = wrong & ~ignored
    if not can_look(targets):
        return wrong
    if bool(wrong.any()):
        wanted = f"in [0, {classes - 1}]" + ("" if ignored is None else " or ignore_index")
        raise ValueError(f"{name} must be {wanted}, got {targets[wrong][0].item()}")
    return None


def are_weights(weight: Tensor) -> bool:
    """Whether none is negative, infinite or NaN, by one pass over them."""
    if weight.dtype in UNSIGNED or weight.numel() == 0:
        return True
    least, most = weight.aminmax()
    return bool(least >= 0) and bool(most.isfinite())


def right_weights(name: str, weight: Tensor, dtype: torch.dtype = torch.float64, *, looks: bool) -> Tensor:
    """The weights, float64: not negative, and finite in the type of what they are multiplied with.

    A wrong one is an error if values may be looked at, else NaN.
    """
    weight = weight.detach().to(torch.float64)
    right = (weight >= 0) & (weight <= torch.finfo(dtype).max)
    if looks and not bool(right.all()):
        raise ValueError(f"{name} must be finite in {dtype} and not negative, got {weight[~right][0].item()}")
    return weight if looks else torch.where(right, weight, torch.nan)
