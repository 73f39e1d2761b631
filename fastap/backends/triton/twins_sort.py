"""The kernels of ``kernels/radix.py`` in plain PyTorch: the same arguments, less launch constants but the tile."""

from __future__ import annotations

import torch
from torch import Tensor


def count_digits(keys: Tensor, table: Tensor, n_items: int, n_tiles: int, shift: int, flip: int, tile: int) -> None:
    """Fill ``table`` (rows, n_tiles, digits): how often each digit occurs in each tile."""
    rows, _, digits = table.shape
    row = torch.arange(rows, device=keys.device)[:, None]
    cell = (row * n_tiles + _tiles(keys, n_items, tile)) * digits + _digits(keys, shift, flip, digits)
    table.copy_(torch.bincount(cell.flatten(), minlength=table.numel()).view_as(table))


def scan_tiles(table: Tensor, totals: Tensor, n_tiles: int) -> None:
    """Turn ``table`` from counts to counts in earlier tiles; ``totals`` (rows, digits) get those of all tiles."""
    totals.copy_(table[:, :n_tiles].sum(1))
    table.copy_(table.cumsum(1) - table)


def scatter(
    keys: Tensor, index: Tensor, table: Tensor, totals: Tensor,
    out_keys: Tensor, out_index: Tensor,
    n_items: int, n_tiles: int, shift: int, flip: int,
    first: bool, tile: int,
) -> None:  # fmt: skip
    """Move every item to where ``totals`` and the scanned ``table`` send it; ``first`` makes the index."""
    digits = table.shape[-1]
    digit, its_tile = _digits(keys, shift, flip, digits), _tiles(keys, n_items, tile)
    # Its number among the items of its tile and digit: how far it is from the first of them in a stable sort.
    group, order = (its_tile * digits + digit).sort(dim=1, stable=True)
    number = torch.arange(n_items, device=keys.device) - torch.searchsorted(group, group)
    place = torch.empty_like(order).scatter_(1, order, number)
    place += (totals.cumsum(1) - totals).gather(1, digit)
    place += table.view(-1, n_tiles * digits).gather(1, its_tile * digits + digit)
    out_keys.scatter_(1, place, keys)
    made = torch.arange(n_items, dtype=index.dtype, device=keys.device).expand_as(index)
    out_index.scatter_(1, place, made if first else index)


def _digits(keys: Tensor, shift: int, flip: int, digits: int) -> Tensor:
    return ((keys >> shift) & (digits - 1)).to(torch.int64) ^ flip


def _tiles(keys: Tensor, n_items: int, tile: int) -> Tensor:
    return (torch.arange(n_items, device=keys.device) // tile).expand_as(keys)
