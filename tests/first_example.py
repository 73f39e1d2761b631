"""Run the first example of a README with the installed package: ``python -I first_example.py README.md``.

It needs nothing but the package, for an environment that has nothing else.
"""

import re
import sys
from pathlib import Path


def main(readme: str) -> None:
    code = re.search(r"^```python\n(.*?)^```", Path(readme).read_text(encoding="utf-8"), re.M | re.S)
    assert code is not None, f"{readme} has no example"
    found: dict[str, object] = {}
    exec(compile(code[1], readme, "exec"), found)

    import fastap
    from fastap.backends import native

    assert Path(__file__).parents[1] not in Path(fastap.__file__).parents or "site-packages" in fastap.__file__
    assert native.IS_BUILT, "the wheel has no engine in C: it was built without a compiler"
    assert 0 < float(found["loss"]) < 1  # type: ignore[arg-type]
    print(f"fastap {fastap.__version__}: the first example of {readme} gives {float(found['loss']):.3f}")  # type: ignore[arg-type]


if __name__ == "__main__":
    main(sys.argv[1])
