"""The one part of the build that pyproject.toml cannot state yet without a warning: the engine in C."""

import sysconfig
from pathlib import Path

from setuptools import Extension, setup

NATIVE = Path("fastap") / "backends" / "native"
# A free-threaded Python has no stable interface to build for; there the module declares that it needs no lock.
IS_STABLE = not sysconfig.get_config_var("Py_GIL_DISABLED")

setup(
    ext_modules=[
        Extension(
            "fastap.backends.native._engine",
            sources=sorted(map(str, NATIVE.glob("*.c"))),
            depends=sorted(map(str, NATIVE.glob("*.h"))),
            define_macros=[("_GNU_SOURCE", "1"), *([("Py_LIMITED_API", "0x030A0000")] if IS_STABLE else [])],
            # No contraction: a fused multiply-add would make the bits depend on the processor.
            extra_compile_args=["-std=c11", "-O3", "-ffp-contract=off", "-fvisibility=hidden", "-pthread"],
            extra_link_args=["-pthread"],
            libraries=["m"],
            py_limited_api=IS_STABLE,
            optional=True,  # it installs without a C compiler, too
        )
    ],
    options={"bdist_wheel": {"py_limited_api": "cp310"}} if IS_STABLE else {},
)
