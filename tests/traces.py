"""Events of hand-made Chrome traces, as PyTorch's profiler writes them; times are microseconds."""

from __future__ import annotations

from typing import Any

from bench.trace import CALL, HOST, Event


def span(kind: str, name: str, start: float, end: float, **args: Any) -> Event:
    return {"ph": "X", "cat": kind, "name": name, "ts": start, "dur": end - start, "tid": 1, "args": args}


def cuda_call(start: float, correlation: int) -> list[Event]:
    """A call of 200 us that returns after 60: a kernel of Triton's, a sort of two kernels that overlap, a copy."""

    def launch(number: int, at: float) -> Event:
        return span("cuda_runtime", "cudaLaunchKernel", start + at, start + at + 2, correlation=correlation + number)

    def on_gpu(kind: str, name: str, number: int, begin: float, end: float, external: int, **args: Any) -> Event:
        ids = {"correlation": correlation + number, "External id": 10 * correlation + external, "device": 0}
        return span(kind, name, start + begin, start + end, **ids, **args)

    def operator(name: str, begin: float, end: float, external: int) -> Event:
        return span("cpu_op", name, start + begin, start + end, **{"External id": 10 * correlation + external})

    return [
        span("user_annotation", CALL, start, start + 200),
        span("user_annotation", HOST, start, start + 60),
        operator("EagerAPLoss", 1, 50, 0),
        operator("aten::sort", 20, 30, 1),
        operator("aten::mul", 40, 45, 2),
        *(launch(number, at) for number, at in enumerate((10, 21, 25, 42, 48))),
        on_gpu("kernel", "encode_items", 0, 20, 50, 0),
        on_gpu("kernel", "radixSortKVInPlace", 1, 60, 100, 1),
        on_gpu("kernel", "sort_postprocess_kernel", 2, 90, 110, 1),
        on_gpu("kernel", "vectorized_elementwise_kernel<4, Mul>", 3, 110, 130, 2),
        on_gpu("gpu_memcpy", "Memcpy DtoD (Device -> Device)", 4, 150, 160, 0, bytes=1000),
    ]
