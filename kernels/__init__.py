"""Triton kernels of fastap, installed as ``fastap.kernels``.

Home of the ``@triton.jit`` functions. Nothing here imports from the rest of ``fastap``: shapes, checks, autograd and
launches belong to the package, which calls down into this folder (``fastap/backends/triton``).

============  ==========================================================================================
whole rankings
--------------------------------------------------------------------------------------------------------
``short``     short rankings: the sort, and all that comes after it
``tiled``     long rankings: a launch a stage, over tiles of all of them
``ragged``    rankings of different lengths: keys, and what follows the sort
``weighted``  average precision of weighted items
============  ==========================================================================================

============  ==========================================================================================
stages
--------------------------------------------------------------------------------------------------------
``sort``      scores and targets as integers; the sort of short rows
``split``     two classes, prefix sums; scores too far apart for their sums
``terms``     the formulas
``search``    each row alone
``pool``      rows in conflict, one value a block
``prices``    a price for every row, for a bound of its block
``certify``   whether a block's value is the optimum
``coarse``    what to do if not, of long rankings: coarse to fine
``program``   the dynamic program of one block, of last resort
``wave``      the dynamic program over all columns of a few long rankings
``output``    value, gradient, ranks, AP; losses to one number
``scans``     operations of the scans
============  ==========================================================================================

Names: ``x_ptr`` pointers, ``stride_xn`` strides, ``n_rows`` sizes, ``BLOCK_N`` compile-time constants, ``o_`` offsets,
``m_`` masks. Offsets of rankings and planes are int64; those within a ranking are int32.
"""
