"""The one part of the build that pyproject.toml cannot state yet without a warning: the engine in C."""

from pathlib import Path

from setuptools import Extension, setup

NATIVE = Path("fastap") / "backends" / "native"

setup(
    ext_modules=[
        Extension(
            "fastap.backends.native._engine",
            sources=sorted(map(str, NATIVE.glob("*.c"))),
            depends=sorted(map(str, NATIVE.glob("*.h"))),
            define_macros=[("Py_LIMITED_API", "0x030A0000"), ("_GNU_SOURCE", "1")],
            # No contraction: a fused multiply-add would make the bits depend on the processor.
            extra_compile_args=["-std=c11", "-O3", "-ffp-contract=off", "-fvisibility=hidden", "-pthread"],
            extra_link_args=["-pthread"],
            libraries=["m"],
            py_limited_api=True,
            optional=True,  # without a C compiler the torch backend serves
        )
    ],
    options={"bdist_wheel": {"py_limited_api": "cp310"}},
)
