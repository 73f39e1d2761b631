"""Arguments checked once, on the way in: every error names the argument, what was given and what is wanted."""

from __future__ import annotations

import numbers
import sys
from collections.abc import Sequence
from typing import Any, cast

import torch
import torch.distributed as dist
from torch import Generator, Tensor, device, dtype, float64
from torch.masked import MaskedTensor

from fastap.targets import FLOATING, INTEGER, NUMBERS, PLAIN, REAL, are_weights, can_look, have_values, right_weights
from fastap.types import MEASURES, METHODS, REDUCTIONS, SHARDED, UPDATES, AnyMeasure, Dim, Measure, Method, Update

# Below lie the subnormal numbers, whose inverse is infinite.
_SMALLEST = sys.float_info.min


_MOST_ITEMS = 2**31 - 1  # of a ranking
# What measures are given that come without their number: BEDROC what its authors have.
_PARAMETERS: dict[Any, Any] = {"bedroc": 20.0, "partial_auc": None}


def check_tensor(
    name: str,
    given: object,
    dtypes: Sequence[torch.dtype],
    wanted: str,
    *,
    optional: bool = False,
    returned: bool = False,
    looks: bool = True,
) -> None:
    """A dense tensor of one of these types, ``wanted`` in words; of ``returned`` ones the name is the function's.

    ``looks`` says whether to make sure, where that can be, that it has memory.
    """
    be, have = ("return", "return") if returned else ("be", "have")
    if not isinstance(given, Tensor):
        instead = " or None" if optional else ""
        how = _as_tensor(name, given, dtypes)
        raise TypeError(f"{name} must {be} a torch.Tensor{instead}, got {type(given).__name__}{how}")
    if given.dtype not in dtypes:
        raise TypeError(f"{name} must {have} {wanted}, got {given.dtype}{_as_scores(name, given.dtype)}")
    check_dense(name, given, returned=returned)
    if looks and can_look(given):
        check_memory(name, given)


def _as_tensor(name: str, given: Any, dtypes: Sequence[torch.dtype] = ()) -> str:
    """How what was given in place of a tensor becomes one."""
    if not isinstance(given, (list, tuple)) and not hasattr(given, "__array__"):
        return ""
    first = given
    while isinstance(first, (list, tuple)) and first:
        first = first[0]
    if (isinstance(given, (list, tuple)) and len({_length(each) for each in given}) > 1) or isinstance(first, Tensor):
        return (
            f"; if each is of one ranking, give torch.cat of their tensors and offsets=, or torch.nested.nested_tensor"
            f"({name}, layout=torch.jagged)"
        )
    if isinstance(first, str) or getattr(getattr(first, "dtype", None), "kind", "") in ("S", "T", "U"):
        array = f"numpy.asarray({name})" if isinstance(given, (list, tuple)) else name
        if torch.bool in dtypes:
            return f'; of words, of which "yes" is the positive one, give torch.as_tensor({array} == "yes")'
        return f"; of words give torch.as_tensor(numpy.unique({name}, return_inverse=True)[1])"
    return f"; give torch.as_tensor({name})" if name.isidentifier() else "; give torch.as_tensor of it"


def _as_scores(name: str, given: torch.dtype) -> str:
    """What is wanted where decisions, classes or targets were given in place of scores."""
    if name not in ("scores", "preds", "logits") or given not in (torch.bool, *INTEGER):
        return ""
    return (
        "; scores are wanted, as a model gives them, not decisions such as scores > 0 or classes of argmax, nor the "
        f"targets, which come second; of integers that are scores give {name}.double()"
    )


def _as_labels(scores: Tensor, targets: Tensor) -> str:
    """How class labels become targets, one an item and a class, where they were given in place of them."""
    if scores.dim() < 2 or targets.shape != scores.shape[:1] + scores.shape[2:] or targets.dtype not in INTEGER:
        return ""
    moved = "" if scores.dim() == 2 else ".movedim(-1, 1)"
    return (
        f"; of class labels give torch.nn.functional.one_hot(targets.long(), {scores.shape[1]}){moved}, which ranks "
        "the batch for each class with dim=0, or train by fastap.multiclass_ap_loss(scores, targets)"
    )


def _length(given: object) -> int:
    return len(given) if isinstance(given, (list, tuple)) else -1


def check_memory(name: str, given: Tensor) -> None:
    """A tensor of the CPU that has memory for all its values: without it code in C would crash.

    It has none after ``untyped_storage().resize_(0)``, and zeros of autograd's own (``torch._efficientzerotensor``)
    never had any.
    """
    if given.is_contiguous():
        last = given.numel() - 1
    else:
        last = sum(stride * (size - 1) for size, stride in zip(given.shape, given.stride(), strict=True))
    end = (given.storage_offset() + last + 1) * given.element_size()
    if not (given.data_ptr() and end <= given.untyped_storage().nbytes()) and given.numel():
        raise ValueError(f"{name} must have memory for all its values, got a tensor whose memory was freed")


def check_dense(name: str, given: Tensor, *, returned: bool = False) -> None:
    """All values in one piece, and here."""
    if type(given) in PLAIN and given.layout == torch.strided and not given.is_nested:
        return
    be = "return" if returned else "be"
    if hasattr(given, "full_tensor"):  # a DTensor, whose values lie on several ranks
        part = "its" if returned else f"{name}."
        raise TypeError(
            f"{name} must {be} a dense tensor, got a DTensor; give its part, {part}to_local(), and process_group=, "
            f"or all of it, {part}full_tensor()"
        )
    if isinstance(given, MaskedTensor):
        raise TypeError(f"{name} must {be} a dense tensor, got a masked one; ignore_index= leaves items out")
    if given.is_nested or given.layout != torch.strided:
        kind = "a nested one" if given.is_nested else f"one of layout {given.layout}"
        raise TypeError(f"{name} must {be} a dense tensor, got {kind}")


def check_tensors(scores: Tensor, targets: Tensor, dim: Dim) -> tuple[int, ...]:
    """Types, shapes and ``dim``; returns the axes, ascending from the front. Reads no values, so it can be traced."""
    check_tensor("scores", scores, FLOATING, "a floating dtype of 16 to 64 bits", looks=False)
    if isinstance(targets, Tensor) and targets.is_nested:
        raise TypeError("targets must be a dense tensor, as scores is, got a nested one")
    check_tensor("targets", targets, NUMBERS, "a bool, integer or floating (of 16 to 64 bits) dtype", looks=False)
    if scores.dim() == 0:
        raise ValueError("scores must have at least one dimension, got a 0-dimensional tensor")
    if scores.shape != targets.shape:
        raise ValueError(
            f"targets must have the shape of scores, {tuple(scores.shape)}, got {tuple(targets.shape)}; "
            f"broadcasting is not done{_as_labels(scores, targets)}"
        )
    if scores.device != targets.device:
        raise ValueError(f"targets must be on the device of scores, {scores.device}, got {targets.device}")
    if scores.is_cpu and have_values((scores, targets)):
        check_memory("scores", scores)
        check_memory("targets", targets)
    return axes_of(dim, scores)


def axes_of(dim: Dim, scores: Tensor) -> tuple[int, ...]:
    """The axes along which items are ranked, ascending from the front."""
    dim, n = check_dim(dim), scores.dim()
    if dim is None:
        if n == 1:
            return (0,)
        raise ValueError(
            f"dim must be given for scores of shape {tuple(scores.shape)}: dim=0 ranks the batch for each label, of "
            "scores (batch, labels), and a column (items, 1); dim=-1 ranks each row, of scores (queries, gallery)"
        )
    for each in (dim,) if isinstance(dim, int) else dim:
        if not -n <= each < n:
            raise ValueError(f"dim must be in [{-n}, {n - 1}] for scores of {n} dimensions, got {each}")
    if isinstance(dim, int):
        return (dim % n,)
    axes = tuple(sorted(each % n for each in dim))
    if len(set(axes)) < len(axes):
        raise ValueError(f"dim must name each axis once, got {dim}")
    return axes


def check_lengths(rankings: int, items: int) -> None:
    """Not several rankings of a single item each: those are a column that was meant as one ranking."""
    if items == rankings > 1:
        raise ValueError(
            f"scores must have more than one item in some ranking, got {rankings} rankings of one item each, "
            "whose loss is 0; a column of scores, (items, 1), is one ranking with dim=0, or as scores.squeeze(1) and "
            "targets.squeeze(1)"
        )


def check_nested(
    scores: Tensor,
    targets: Tensor,
    dim: Dim,
    groups: Tensor | None,
    offsets: Tensor | None,
    names: tuple[str, str] = ("scores", "targets"),
) -> None:
    """Nested tensors of jagged layout with one axis that differs, the one that is ranked."""
    if not (isinstance(targets, Tensor) and targets.is_nested):
        raise TypeError(f"{names[1]} must be a nested tensor, as {names[0]} is, got {type(targets).__name__}")
    for name, given in zip(names, (scores, targets), strict=True):
        if given.layout != torch.jagged:
            raise ValueError(f"{name} must have the layout torch.jagged if nested, got {given.layout}")
        if given.dim() != 2:
            raise ValueError(f"{name} must have the shape (rankings, items) if nested, got {given.dim()} dimensions")
    if scores.shape[0] != targets.shape[0]:
        raise ValueError(
            f"{names[1]} must have as many rankings as {names[0]}, {scores.shape[0]}, got {targets.shape[0]}"
        )
    if groups is not None or offsets is not None:
        raise ValueError("groups and offsets must be None where scores are nested, which have their own offsets")
    if check_dim(dim) not in (None, 1, -1):
        raise ValueError(f"dim must be 1 or -1 where scores are nested, got {dim}")


def check_ragged(scores: Tensor, groups: Tensor | None, offsets: Tensor | None) -> None:
    """Types and shapes of ``groups`` or ``offsets``, of which there is at most one."""
    if groups is None and offsets is None:
        return
    if groups is not None and offsets is not None:
        raise ValueError("groups and offsets must not be given together")
    name, given = ("groups", groups) if groups is not None else ("offsets", offsets)
    assert given is not None
    check_tensor(name, given, INTEGER, "an integer dtype", optional=True)
    if scores.dim() != 1:
        raise ValueError(f"scores must be one-dimensional with {name}, got shape {tuple(scores.shape)}")
    if name == "groups" and given.shape != scores.shape:
        raise ValueError(f"groups must have the shape of scores, {tuple(scores.shape)}, got {tuple(given.shape)}")
    if name == "offsets" and (given.dim() != 1 or given.shape[0] == 0):
        raise ValueError(f"offsets must have the shape (rankings + 1,), got {tuple(given.shape)}")
    if given.device != scores.device:
        raise ValueError(f"{name} must be on the device of scores, {scores.device}, got {given.device}")


def check_weight(weight: Tensor, scores: Tensor, dim: int, groups: Tensor | None, offsets: Tensor | None) -> None:
    """Type and shape of one weight a ranking; how many groups there are shows later."""
    check_weights("weight", weight, "scores", scores)
    if groups is not None:
        if weight.dim() != 1:
            raise ValueError(f"weight must have one dimension with groups, got shape {tuple(weight.shape)}")
        return
    shape = scores.shape[:dim] + scores.shape[dim + 1 :] if offsets is None else offsets[1:].shape
    fits = weight.dim() <= len(shape) and all(
        given in (1, wanted) for given, wanted in zip(reversed(weight.shape), reversed(shape), strict=False)
    )
    if not fits or (offsets is not None and weight.shape != shape):
        wanted = "broadcast to the shape of scores without dim" if offsets is None else "have the shape (rankings,)"
        raise ValueError(f"weight must {wanted}, {tuple(shape)}, got {tuple(weight.shape)}")


def check_sample_weight(weight: Tensor, scores: Tensor) -> Tensor:
    """Weights of items: shaped like the scores, and finite and not negative where asking costs nothing."""
    check_weights("sample_weight", weight, "scores", scores)
    if weight.shape != scores.shape:
        raise ValueError(
            f"sample_weight must have the shape of scores, {tuple(scores.shape)}, got {tuple(weight.shape)}"
        )
    if can_look(weight) and not are_weights(weight):
        right_weights("sample_weight", weight, looks=True)
    return weight


def check_weights(name: str, weight: Tensor, of_name: str, of: Tensor) -> None:
    """Type and device of weights of whatever kind; their shape is for the caller to check."""
    check_tensor(name, weight, REAL, "a floating or integer dtype", optional=True)
    if weight.requires_grad:
        raise ValueError(f"{name} must not require a gradient, for it gets none; give {name}.detach()")
    if weight.device != of.device:
        raise ValueError(f"{name} must be on the device of {of_name}, {of.device}, got {weight.device}")


def check_class_tensors(logits: Tensor, targets: Tensor, name: str = "targets") -> int:
    """Types and shapes as in ``torch.nn.functional.cross_entropy``; returns the dimension of the classes."""
    check_tensor("logits", logits, FLOATING, "a floating dtype of 16 to 64 bits")
    if isinstance(targets, Tensor) and targets.is_floating_point():
        raise TypeError(
            f"{name} must have an integer dtype, got {targets.dtype}; give {name}.long(), and "
            f"{name}.nan_to_num(-100).long() with ignore_index=-100 where some are NaN"
        )
    check_tensor(name, targets, INTEGER, "an integer dtype")
    if logits.dim() == 0:
        raise ValueError("logits must have at least one dimension, got a 0-dimensional tensor")
    dim = min(logits.dim() - 1, 1)
    if logits.shape[dim] == 0:
        raise ValueError(f"logits must have at least one class along dimension {dim}, got shape {tuple(logits.shape)}")
    wanted = logits.shape[:dim] + logits.shape[dim + 1 :]
    if targets.shape != wanted:
        raise ValueError(
            f"{name} must have the shape of logits without its classes, {tuple(wanted)}, got {tuple(targets.shape)}; "
            "broadcasting is not done"
        )
    if logits.device != targets.device:
        raise ValueError(f"{name} must be on the device of logits, {logits.device}, got {targets.device}")
    return dim


def check_class_to_ignore(ignore_index: int | None, name: str = "ignore_index") -> int | None:
    """An int, which may be a class, or None."""
    if ignore_index is None:
        return None
    number = check_int(name, ignore_index, "an int or None")
    if not -(2**63) <= number < 2**63:
        raise ValueError(f"{name} must fit 64 bits, got {number}")
    return number


def check_class_weight(weight: Tensor) -> None:
    """One number a class, not negative, which gets no gradient."""
    check_tensor("weight", weight, REAL, "a floating or integer dtype", optional=True)
    if weight.dim() != 1:
        raise ValueError(f"weight must have the shape (classes,), got {tuple(weight.shape)}")
    if weight.requires_grad:
        raise ValueError("weight must not require a gradient, for it gets none; give weight.detach()")
    right_weights("weight", weight, looks=can_look(weight))


def check_cost_table(cost: Tensor) -> None:
    """A square matrix of real numbers, which get no gradient."""
    check_tensor("cost", cost, REAL, "a floating or integer dtype", optional=True)
    if cost.dim() != 2 or cost.shape[0] != cost.shape[1]:
        raise ValueError(f"cost must have the shape (classes, classes), got {tuple(cost.shape)}")
    if cost.requires_grad:
        raise ValueError("cost must not require a gradient, for it gets none; give cost.detach()")


def check_count(name: str, given: int) -> int:
    """A positive int."""
    given = check_int(name, given)
    if given < 1:
        raise ValueError(f"{name} must be at least 1, got {given}")
    return given


def check_finite(name: str, values: Tensor) -> Tensor:
    """The values, which are finite, where asking costs nothing."""
    if can_look(values) and not bool(values.isfinite().all()):
        raise ValueError(f"{name} must be finite in {values.dtype}, got {values[~values.isfinite()][0].item()}")
    return values


def check_cost(cost: Tensor, logits: Tensor, dim: int) -> None:
    """A table of costs that fits the logits."""
    check_cost_table(cost)
    classes = logits.shape[dim]
    if cost.shape[0] != classes:
        raise ValueError(
            f"cost must have the shape ({classes}, {classes}) for logits of {classes} classes, got {tuple(cost.shape)}"
        )
    if cost.device != logits.device:
        raise ValueError(f"cost must be on the device of logits, {logits.device}, got {cost.device}")


def check_int(name: str, given: int, wanted: str = "an int") -> int:
    """An int; one of NumPy as Python's."""
    if type(given) is int:
        return given
    if not isinstance(given, numbers.Integral) or isinstance(given, bool):
        raise TypeError(f"{name} must be {wanted}, got {type(given).__name__}")
    # A compiler may hold a symbol for the number, which int() would pin.
    return given if isinstance(given, int) else int(given)


def check_dim(dim: Dim) -> int | tuple[int, ...] | None:
    """An int, several, or None; whether the scores have these dimensions shows when they are there."""
    if dim is None:
        return None
    if not isinstance(dim, (tuple, list)):
        return check_int("dim", dim, "an int, a tuple of ints or None")  # type: ignore[arg-type]
    if not dim:
        raise ValueError("dim must name at least one axis, got none")
    return tuple(check_int("dim", each, "an int, a tuple of ints or None") for each in dim)


def check_ignore_index(ignore_index: int | None) -> int | None:
    """An int that is no target, or None."""
    ignore_index = check_class_to_ignore(ignore_index)
    if ignore_index in (0, 1):
        raise ValueError(f"ignore_index must differ from the targets 0 and 1, got {ignore_index}")
    return ignore_index


def check_scale(name: str, value: float) -> float:
    """A finite, positive number; one of NumPy as Python's."""
    if type(value) is not float and (not isinstance(value, numbers.Real) or isinstance(value, bool)):
        raise TypeError(f"{name} must be a float, got {type(value).__name__}")
    if not isinstance(value, (int, float)):
        value = float(value)
    if not _SMALLEST <= value <= sys.float_info.max:
        raise ValueError(f"{name} must be finite and positive (at least {_SMALLEST:.4g}), got {value}")
    # A compiler may hold a symbol for the number, which float() would pin.
    return value if isinstance(value, float) else float(value)


def check_noise(noise: float, held: dtype = float64) -> float:
    """A number, 0 or positive, that is finite in the type of the noisy scores, with all that is drawn."""
    if isinstance(noise, numbers.Real) and not isinstance(noise, bool):
        if noise == 0:
            return 0.0
        if not _SMALLEST <= noise <= sys.float_info.max:
            raise ValueError(f"noise must be 0, or finite and positive (at least {_SMALLEST:.4g}), got {noise}")
    noise, most = check_scale("noise", noise), torch.finfo(held).max / 8
    if noise > most:
        raise ValueError(f"noise must be at most {most:.4g} for scores of that type, got {noise}")
    return noise


def check_generator(generator: Generator | None, where: device | None = None) -> Generator | None:
    """One for tensors of that device, if there are any yet, or None."""
    if generator is None:
        return None
    if not isinstance(generator, Generator):
        raise TypeError(f"generator must be a torch.Generator or None, got {type(generator).__name__}")
    if where is not None and generator.device.type != where.type:
        raise ValueError(f"generator must be on the device of the scores, {where}, got {generator.device}")
    return generator


def check_choice(name: str, value: str, choices: Sequence[str]) -> str:
    """One of a few words."""
    if not isinstance(value, str) or value not in choices:  # an array compares as one
        raise ValueError(f"{name} must be one of {', '.join(map(repr, choices))}, got {value!r}")
    return value


def check_measure(measure: AnyMeasure, k: int | None = None) -> Measure:
    """A measure by its name, or with its parameter; and the rank up to which positives count."""
    given: Any = measure
    if isinstance(measure, Measure):
        if k is not None and measure.k is not None and k != measure.k:
            raise ValueError(f"k must be that of measure, {measure.k}, or None, got {k!r}")
        given, k = measure[:2], measure.k if k is None else k
    elif not isinstance(measure, (tuple, list)):  # a list is what JSON and YAML have
        given = measure, _PARAMETERS.get(measure, 1.0) if isinstance(measure, str) else 1.0
    if len(given) != 2:
        raise ValueError(f"measure must be a name, or a name and a number, got {measure!r}")
    name, parameter = check_choice("measure", given[0], MEASURES), given[1]
    if name == "partial_auc" and parameter is None:
        raise ValueError("measure 'partial_auc' must say up to which rate of false positives: ('partial_auc', 0.1)")
    if name in ("partial_auc", "bedroc"):
        parameter = check_scale(f"the number of measure {name!r}", parameter)
    elif type(parameter) is not float or parameter != 1.0:
        raise ValueError(f"measure {name!r} has no number, got {parameter!r}")
    if name == "partial_auc" and parameter > 1:
        raise ValueError(f"the number of measure 'partial_auc' must be at most 1, got {parameter}")
    if k is None and name in ("precision", "recall"):
        raise ValueError(f"k must be given for measure {name!r}: the rank up to which positives count")
    if k is not None and name in ("auc", "partial_auc", "bedroc"):
        raise ValueError(f"k must be None for measure {name!r}, got {k!r}")
    k = None if k is None else check_count("k", k)
    if k is not None and k > _MOST_ITEMS:
        raise ValueError(f"k must be at most {_MOST_ITEMS}, got {k}")
    return Measure(name, parameter, k)


def check_update(update: str) -> Update:
    """``"positive"``, ``"negative"`` or ``"symmetric"``."""
    return cast(Update, check_choice("update", update, UPDATES))


def check_method(method: str) -> Method:
    """``"auto"`` or ``"dp"``."""
    return cast(Method, check_choice("method", method, METHODS))


def check_reduction(reduction: str) -> str:
    """``"mean"``, ``"sum"`` or ``"none"``."""
    return check_choice("reduction", reduction, REDUCTIONS)


def check_sharded(sharded: str) -> str:
    """``"items"`` or ``"rankings"``."""
    return check_choice("sharded", sharded, SHARDED)


def check_process_group(process_group: object) -> str:
    """The name of a group that this process is in, by which an operator can find it."""
    if not dist.is_available():
        raise RuntimeError("process_group needs a PyTorch built with torch.distributed, which this one is not")
    if process_group is dist.GroupMember.NON_GROUP_MEMBER:
        raise ValueError("process_group must be a group that this process is in, got one that it is not in")
    if not isinstance(process_group, dist.ProcessGroup):
        instead = "get_group() of the mesh" if hasattr(process_group, "get_group") else "torch.distributed.group.WORLD"
        raise TypeError(
            "process_group must be a torch.distributed.ProcessGroup or None, "
            f"got {type(process_group).__name__}; give {instead}"
        )
    name: str = process_group.group_name
    return name
