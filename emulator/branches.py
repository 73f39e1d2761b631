"""Where the lanes of a warp that part at a branch meet again."""

from __future__ import annotations

from collections.abc import Sequence

from emulator.machine import Instruction
from emulator.opcodes import NUMBERS

NOWHERE = 2**31 - 1


def post_dominators(code: Sequence[Instruction]) -> dict[int, int]:
    """Of each conditional branch, the first instruction that all its ways lead to; ``NOWHERE`` if there is none.

    The dominators of the reversed graph of basic blocks, by the iteration of Cooper, Harvey and Kennedy (2001), "A
    simple, fast dominance algorithm".
    """
    branch = NUMBERS["bra"]
    heads, follow = _blocks(code)
    end = len(heads)
    before: list[list[int]] = [[] for _ in range(end + 1)]
    for block, others in enumerate(follow):
        for other in others:
            before[other].append(block)
    order = _postorder(before, end)
    rank = {block: number for number, block in enumerate(order)}
    parent = {end: end}
    changed = True
    while changed:
        changed = False
        for block in reversed(order[:-1]):
            known = [other for other in follow[block] if other in parent]
            new = known[0]
            for other in known[1:]:
                new = _meet(new, other, parent, rank)
            if parent.get(block) != new:
                parent[block], changed = new, True
    found = {}
    for block in range(end):
        last = (heads[block + 1] if block + 1 < end else len(code)) - 1
        if code[last].op == branch and code[last].guard:
            after = parent.get(block, end)
            found[last] = heads[after] if after < end else NOWHERE
    return found


def _blocks(code: Sequence[Instruction]) -> tuple[list[int], list[list[int]]]:
    """The first instruction of every basic block, and which blocks may follow it; the end is one more block."""
    branch, leave = NUMBERS["bra"], NUMBERS["ret"]
    targets = {each.immediate for each in code if each.op == branch}
    after = {number + 1 for number, each in enumerate(code) if each.op in (branch, leave)}
    heads = sorted(each for each in {0} | targets | after if each < len(code))
    number = {head: block for block, head in enumerate(heads)}
    end = len(heads)
    follow = []
    for block in range(end):
        last = code[(heads[block + 1] if block + 1 < end else len(code)) - 1]
        to = [number[last.immediate]] if last.op == branch else []
        # Lanes that leave under a guard meet nobody again.
        to += [block + 1] if last.guard or last.op not in (branch, leave) else [end] if last.op == leave else []
        follow.append(to)
    return heads, follow


def _postorder(before: list[list[int]], end: int) -> list[int]:
    """Of the blocks that lead to the end, from there against the edges."""
    order: list[int] = []
    seen, stack = {end}, [(end, iter(before[end]))]
    while stack:
        block, others = stack[-1]
        new = next((other for other in others if other not in seen), None)
        if new is None:
            order.append(block)
            stack.pop()
        else:
            seen.add(new)
            stack.append((new, iter(before[new])))
    return order


def _meet(one: int, other: int, parent: dict[int, int], rank: dict[int, int]) -> int:
    while one != other:
        while rank[one] < rank[other]:
            one = parent[one]
        while rank[other] < rank[one]:
            other = parent[other]
    return one
