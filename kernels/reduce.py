"""From the losses of the rankings to one number."""

import triton
import triton.language as tl


@triton.jit(do_not_specialize=["n_rankings"])
def reduce_losses(
    value_ptr, takes_part_ptr,
    total_ptr, share_ptr,
    n_rankings,
    MEAN: tl.constexpr, BLOCK_R: tl.constexpr,
):  # fmt: skip
    """The sum of the losses, or their mean over the rankings that take part. One program owns all.

    value_ptr: (n_rankings,) float64. takes_part_ptr: (n_rankings,) int8. total_ptr: (), of any floating type.
    share_ptr: (1,), of the same type: what a ranking counts in the mean; not written for a sum.
    """
    total = tl.zeros([BLOCK_R], tl.float64)
    number = tl.zeros([BLOCK_R], tl.int32)
    for base in range(0, n_rankings, BLOCK_R):
        ranking = base + tl.arange(0, BLOCK_R).to(tl.int64)
        mask = ranking < n_rankings
        total += tl.load(value_ptr + ranking, mask=mask, other=0.0)
        number += tl.load(takes_part_ptr + ranking, mask=mask, other=0).to(tl.int32)
    result = tl.sum(total, axis=0)
    if MEAN:
        share = 1.0 / tl.maximum(tl.sum(number, axis=0), 1).to(tl.float64)
        result = result * share
        tl.store(share_ptr, share.to(share_ptr.dtype.element_ty))
    tl.store(total_ptr, result.to(total_ptr.dtype.element_ty))
