"""A group of processes as a loss needs it: ranks agree on a call, and send one another tensors."""

from __future__ import annotations

import hashlib
from collections.abc import Callable, Sequence
from dataclasses import dataclass
from typing import Any, TypeVar

import torch
import torch.distributed as dist
from torch import Tensor

_TEXT = 1024  # bytes that a rank has to describe its error or its call, sent only when there is something wrong

T = TypeVar("T")


@dataclass(frozen=True)
class Link:
    """A process group, and the device on which its backend takes tensors of a device.

    It has the group's name, not the group: a graph that outlives its group must not keep it, for a group that is taken
    down at the end of the program aborts it.
    """

    name: str
    size: int
    rank: int
    device: torch.device

    def agree(self, call: str, prepare: Callable[[], tuple[T, Sequence[int] | Tensor]]) -> tuple[T, list[list[int]]]:
        """What ``prepare`` returns, and the numbers of every rank, at most one more than there are ranks.

        An error on one rank is an error on all, as is a call that differs: nobody waits for one who will not come.
        """
        problem, mine, numbers = None, None, torch.zeros(self.size + 1, dtype=torch.int64, device=self.device)
        try:
            mine, own = prepare()
            numbers[: len(own)] = torch.as_tensor(own, device=self.device)
        except Exception as error:
            problem = error
        digest = hashlib.blake2b(call.encode(), digest_size=8).digest()
        head = [int(problem is not None), int.from_bytes(digest, "little", signed=True)]
        header = torch.cat([torch.tensor(head, device=self.device), numbers])
        headers: list[list[int]] = self.from_all(header, "learn what the others have").tolist()
        failed = [rank for rank, (status, *_) in enumerate(headers) if status]
        if not failed and len({header[1] for header in headers}) == 1:
            return mine, [header[2:] for header in headers]  # type: ignore[return-value]
        text = (call if problem is None else str(problem)).encode()[:_TEXT]
        texts = self.from_all(
            torch.tensor([*text, *bytes(_TEXT - len(text))], dtype=torch.uint8, device=self.device), "tell of an error"
        )
        said = [bytes(each).rstrip(b"\0").decode(errors="ignore") for each in texts.tolist()]
        if failed:
            raise ValueError("; ".join(f"rank {rank} of process_group: {said[rank]}" for rank in failed)) from problem
        other = next(rank for rank in range(self.size) if headers[rank][1] != headers[0][1])
        raise ValueError(
            "the ranks of process_group must make the same call, "
            f"got on rank 0: {said[0]}; on rank {other}: {said[other]}"
        )

    def from_all(self, values: Tensor, purpose: str) -> Tensor:
        """The values of every rank, of one shape, stacked in the order of the ranks."""
        sent = values.to(self.device).contiguous()
        got = sent.new_empty((self.size, *values.shape))
        if got.numel():
            # The name since PyTorch 2.13, which warns of the other.
            gather = getattr(dist, "all_gather_single", None) or dist.all_gather_into_tensor
            self._run(purpose, gather, got.view(-1), sent.view(-1))
        return got.to(values.device)

    def of_first(self, value: Tensor, purpose: str) -> Tensor:
        """The number that the first rank has."""
        return self.from_all(value.view(1), purpose)[0, 0]

    def concatenated(self, values: Tensor, lengths: Sequence[int], purpose: str) -> Tensor:
        """The values of every rank end to end along the first axis, of which every rank has its own length."""
        longest, rest = max(lengths), values.shape[1:]
        padded = values
        if values.shape[0] != longest:
            padded = values.new_empty((longest, *rest))
            padded[: values.shape[0]] = values
        got = self.from_all(_as_bytes(padded), purpose)
        whole = got.view(-1).view(values.dtype).view(self.size, longest, *rest)
        if min(lengths) == longest:
            return whole.flatten(0, 1)
        return torch.cat([part[:length] for part, length in zip(whole, lengths, strict=True)])

    def exchange(self, values: Tensor, send: Sequence[int], receive: Sequence[int], purpose: str) -> Tensor:
        """Consecutive parts of flat values, one for each rank; what the ranks send this one, in their order."""
        # As bytes, which every backend takes.
        width = values.element_size()
        sent = values.to(self.device)
        got = sent.new_empty(sum(receive))
        self._run(
            purpose,
            dist.all_to_all_single,
            _as_bytes(got),
            _as_bytes(sent),
            [width * length for length in receive],
            [width * length for length in send],
        )
        return got.to(values.device)

    def _run(self, purpose: str, collective: Callable[..., Any], *arguments: Any) -> None:
        try:
            collective(*arguments, group=_find(self.name))
        except torch.OutOfMemoryError:
            raise
        except RuntimeError as error:
            raise RuntimeError(
                f"rank {self.rank} of the {self.size} of process_group could not {purpose}: another rank has died, has "
                "raised an error, or has not made the same call within the timeout of the group, which cannot be used "
                f"any more ({str(error).splitlines()[0] if str(error) else type(error).__name__})"
            ) from error


def _as_bytes(values: Tensor) -> Tensor:
    values = values.contiguous()
    # Not a view, which refuses some strides of a single number.
    return values.as_strided((values.numel(),), (1,)).view(torch.uint8)


def _find(name: str) -> dist.ProcessGroup:
    from torch.distributed import distributed_c10d

    # As the functional collectives of PyTorch do.
    find: Callable[[Any], dist.ProcessGroup] = distributed_c10d._resolve_process_group  # type: ignore[attr-defined]
    return find(name)


def connect(name: str, device: torch.device) -> Link:
    """The group of that name, for tensors of that device."""
    try:
        group = _find(name)
        # Such as "cpu:gloo,cuda:nccl".
        kinds = dict(kind.split(":") for kind in dist.get_backend_config(group).split(","))
    except (RuntimeError, ValueError) as error:
        raise ValueError(f"process_group must be a group that has not been destroyed, got {name!r}") from error
    kind = kinds.get(device.type)
    if kind is None:
        raise ValueError(f"process_group must have a backend for tensors on {device}, got {', '.join(kinds.values())}")
    # Gloo has no all_to_all for tensors of a GPU.
    return Link(name, group.size(), group.rank(), torch.device("cpu") if kind == "gloo" else device)
