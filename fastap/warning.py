"""What the library warns of: once in a process, at the line that called it."""

from __future__ import annotations

import sys
import warnings
from pathlib import Path

import torch
from torch import Tensor

_WARNED: set[str] = set()
# Files of the library and of PyTorch, and code of compilers, whose file is called "<...>".
_NOT_THE_CALLER = (*(str(Path(str(of.__file__)).parent) for of in (sys.modules[__package__], torch)), "<")


class FastapWarning(UserWarning):
    """What this library warns of, once in a process."""


def warn_of_nothing(takes_part: Tensor) -> None:
    """A warning, once, where no ranking of a batch, whose values may be looked at, has a loss."""
    if takes_part.numel() and not (takes_part if takes_part.numel() == 1 else takes_part.any()).item():
        warn_once(
            "no ranking of this batch takes part in the loss, which is 0, and so is its gradient: a ranking needs a "
            "positive (target 1) and a negative (target 0), so two items at least; labels of +1 and -1 are given as "
            "targets > 0"
        )


def warn_once(text: str) -> None:
    """A warning at the line that called the library, the first time only."""
    if text in _WARNED:
        return
    level, frame = 1, sys._getframe()
    while frame.f_back is not None and frame.f_code.co_filename.startswith(_NOT_THE_CALLER):
        level, frame = level + 1, frame.f_back
    warnings.warn(text, FastapWarning, stacklevel=level)
    _WARNED.add(text)  # not if the warning is an error
