"""Triton kernels of fastap, installed as ``fastap.kernels``.

Home of the ``@triton.jit`` functions. Nothing here imports from the rest of ``fastap``: shapes, checks, autograd and
launches belong to the package, which calls down into this folder (``fastap/backends/triton``).

===============  =====================================================================================
``fused``        short rankings: everything in one launch
``ragged``       rankings of different lengths: keys, and what follows the sort
``layout``       long rankings: keys, counts, the split by class, prefix sums
``radix``        the sort of long rows
``long``         the stages of long rankings after the split
``wave``         the dynamic program over all columns of long rankings
``reduce``       losses to one number
===============  =====================================================================================

What those are made of: ``keys`` (scores as integers, classes, flags), ``terms`` (the formulas), ``search`` (each row
alone), ``blocks``, ``pool`` and ``proof`` (rows in conflict), ``program`` (the dynamic program of one block),
``gaps`` (scores too far apart for their sums), ``resolve`` (all of these for one ranking), ``outcome`` (value and
gradient), ``whole`` (from the sorted ranking to both), ``scans``.

Names: ``x_ptr`` pointers, ``stride_xn`` strides, ``n_rows`` sizes, ``BLOCK_N`` compile-time constants, ``o_`` offsets,
``m_`` masks. Offsets of rankings and planes are int64; those within a ranking are int32.
"""
