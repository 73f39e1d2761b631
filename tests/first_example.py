"""Run the first example of a README with the installed package: ``python -I first_example.py README.md``.

It needs nothing but the package, for an environment that has nothing else.
"""

import re
import sys
from pathlib import Path
from typing import Any


def main(readme: str) -> None:
    code = re.search(r"^```python\n(.*?)^```", Path(readme).read_text(encoding="utf-8"), re.M | re.S)
    assert code is not None, f"{readme} has no example"
    found: dict[str, Any] = {}
    exec(compile(code[1], readme, "exec"), found)

    import fastap
    from fastap.backends import native

    assert "site-packages" in fastap.__file__, f"this is the checkout, not what was installed: {fastap.__file__}"
    assert native.IS_BUILT, "the wheel has no engine in C: it was built without a compiler"
    loss = found["loss"].item()
    assert 0 < loss < 1
    print(f"fastap {fastap.__version__}: the first example of {readme} gives {loss:.3f}")


if __name__ == "__main__":
    main(sys.argv[1])
