"""One call of the library as arguments name it: the case that it is, and its name."""

from __future__ import annotations

from dataclasses import dataclass
from functools import cached_property

from torch import Tensor

from bench.cases import Case
from bench.inputs import Inputs, Shape

DTYPES = ("float32", "float64", "float16", "bfloat16")
NAMES = ("direct", "hinge", "perceptron", "metric")
# In the name of a file these are left out.
_USUAL = {"epsilon": 1.0, "method": "auto", "backend": "auto", "dtype": "float32", "kind": "gaussian"}


@dataclass(frozen=True)
class OneCall:
    """What is called on what."""

    rows: int
    items: int
    positives: int
    loss: str = "direct"
    update: str = "positive"
    epsilon: float = 1.0
    method: str = "auto"
    backend: str = "auto"
    dtype: str = "float32"
    kind: str = "gaussian"
    device: str = "cpu"
    forward: bool = False

    @property
    def shape(self) -> Shape:
        return Shape(self.rows, self.positives, self.items - self.positives)

    @property
    def cells(self) -> int | None:
        """Cells of the dynamic program; None where there is none, or only on some rows."""
        shape = self.shape
        return shape.rankings * shape.positives * (shape.negatives + 1) if self.method == "dp" else None

    @property
    def work(self) -> str:
        """``"positive"``, ``"negative"``, or the loss that has one form only."""
        return self.update if self.loss == "direct" else self.loss

    @property
    def title(self) -> str:
        work = f"{self.update} update" if self.loss == "direct" else self.loss
        weight = f", epsilon {self.epsilon:g}" if self.loss in ("direct", "hinge") else ""
        way = "forward" if self.forward or self.loss == "metric" else "forward + backward"
        return (
            f"{self.shape}, {self.kind}, {self.dtype}, {work}{weight}, {way}, method {self.method}, "
            f"backend {self.backend}"
        )

    @property
    def file_kind(self) -> str:
        """What tells the file of this call from those of others."""
        parts = ["profile", f"{self.rows}x{self.items}", f"p{self.positives}", self.work]
        for key, usual in _USUAL.items():
            value = getattr(self, key)
            if value != usual:
                parts.append(f"epsilon{value:g}" if key == "epsilon" else str(value))
        return "-".join([*parts, *(["forward"] if self.forward else [])])

    @cached_property
    def case(self) -> Case:
        """What the suites take it for, which draw its scores and check its result."""
        return Case(
            self.shape,
            work=self.work,
            kind=self.kind,
            epsilon=self.epsilon,
            backend=self.backend,
            method=self.method,
            dtype=self.dtype,
            device=self.device,
        )

    def inputs(self, seed: int = 0) -> Inputs:
        return self.case.inputs(seed)

    def make(self, scores: Tensor, targets: Tensor) -> Tensor | None:
        """The call, as a user makes it."""
        leaf = scores.detach().requires_grad_(self.loss != "metric" and not self.forward)
        result = self.case.forward(leaf, targets)
        if not leaf.requires_grad:
            return result
        result.backward()
        return leaf.grad
