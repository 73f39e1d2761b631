"""The arithmetic of PTX as C expressions, and what an instruction costs.

Opcode, result and sources are PTX's own: ``fma.rn.f64`` takes three registers and gives one. The C code that
:func:`cases` writes goes over the 32 lanes of a warp and is compiled into ``machine.c``.
"""

from __future__ import annotations

from typing import NamedTuple

# A letter a type. In 32-bit registers: u uint32, s int32, f float, h uint16, x int16, y int8; in 64-bit ones U, S, F.
C_TYPES = {"u": "uint32_t", "s": "int32_t", "f": "float", "U": "uint64_t", "S": "int64_t", "F": "double"}
NARROW = {"h": "uint16_t", "x": "int16_t", "y": "int8_t"}  # the lower part of a 32-bit register
PREDICATE = "p"

# Files of registers: 32 bits, 64 bits, and predicates, which have a bit a lane.
R, Q, P = "R", "Q", "P"


def file_of(letter: str) -> str:
    """The file whose registers hold a type."""
    return P if letter == PREDICATE else Q if letter in "USF" else R


class Operation(NamedTuple):
    """What one lane does: a result of the sources a, b, c and d."""

    result: str
    sources: str
    expression: str


OPERATIONS: dict[str, Operation] = {}


def _define(names: str, types: str, expression: str) -> None:
    for name in names.split():
        OPERATIONS[name] = Operation(types[0], types[1:], expression)


def _define_integers() -> None:
    for bits, U, S in ((16, "h", "x"), (32, "u", "s"), (64, "U", "S")):
        _define(f"add.s{bits} add.u{bits}", U * 3, "a + b")
        _define(f"sub.s{bits} sub.u{bits}", U * 3, "a - b")
        _define(f"mul.lo.s{bits} mul.lo.u{bits}", U * 3, "a * b")
        _define(f"mad.lo.s{bits} mad.lo.u{bits}", U * 4, "a * b + c")
        _define(f"and.b{bits}", U * 3, "a & b")
        _define(f"or.b{bits}", U * 3, "a | b")
        _define(f"xor.b{bits}", U * 3, "a ^ b")
        _define(f"not.b{bits}", U * 2, "~a")
        _define(f"neg.s{bits}", U * 2, "-a")
        _define(f"abs.s{bits}", S * 2, "a < 0 ? -a : a")
        _define(f"shl.b{bits}", U * 2 + "u", f"b < {bits} ? a << (b & {bits - 1}) : 0")
        _define(f"shr.u{bits} shr.b{bits}", U * 2 + "u", f"b < {bits} ? a >> (b & {bits - 1}) : 0")
        _define(f"shr.s{bits}", S * 2 + "u", f"a >> (b < {bits} ? b : {bits - 1})")
        _define(f"mov.b{bits} mov.u{bits} mov.s{bits}", U * 2, "a")
        _define(f"selp.b{bits} selp.u{bits} selp.s{bits}", U * 3 + "p", "c ? a : b")
        for sign, T in (("s", S), ("u", U)):
            _define(f"min.{sign}{bits}", T * 3, "a < b ? a : b")
            _define(f"max.{sign}{bits}", T * 3, "a > b ? a : b")
    wide = {32: ("uint64_t", "int64_t"), 64: ("unsigned __int128", "__int128")}
    for bits, U, S in ((32, "u", "s"), (64, "U", "S")):
        _define(f"mul.hi.s{bits}", S * 3, f"({wide[bits][1]})a * b >> {bits}")
        _define(f"mul.hi.u{bits}", U * 3, f"({wide[bits][0]})a * b >> {bits}")
        _define(f"div.s{bits}", S * 3, "b == 0 ? -1 : b == -1 ? (int64_t)-(uint64_t)a : a / b")
        _define(f"div.u{bits}", U * 3, "b == 0 ? -1 : a / b")
        _define(f"rem.s{bits}", S * 3, "b == 0 ? a : b == -1 ? 0 : a % b")
        _define(f"rem.u{bits}", U * 3, "b == 0 ? a : a % b")
    _define("mul.wide.s32", "Sss", "(int64_t)a * b")
    _define("mul.wide.u32", "Uuu", "(uint64_t)a * b")
    _define("mad.wide.s32", "SssS", "(int64_t)((uint64_t)((int64_t)a * b) + (uint64_t)c)")
    _define("mad.wide.u32", "UuuU", "(uint64_t)a * b + c")
    _define("mul.wide.s16", "sxx", "a * b")
    _define("mul.wide.u16", "uhh", "a * b")
    _define("min.relu.s32", "sss", "(a < b ? a : b) < 0 ? 0 : a < b ? a : b")
    _define("max.relu.s32", "sss", "(a > b ? a : b) < 0 ? 0 : a > b ? a : b")
    _define("popc.b32", "uu", "__builtin_popcount(a)")
    _define("clz.b32", "uu", "a ? __builtin_clz(a) : 32")
    _define("brev.b32", "uu", "reversed(a)")
    _define("bfe.u32", "uuuu", "extract(a, b & 255, c & 255)")
    _define("bfe.s32", "suuu", "extract_signed(a, b & 255, c & 255)")
    _define("prmt.b32", "uuuu", "permute(a, b, c)")
    _define("shf.l.wrap.b32", "uuuu", "(uint32_t)((((uint64_t)b << 32 | a) << (c & 31)) >> 32)")
    _define("shf.r.wrap.b32", "uuuu", "(uint32_t)(((uint64_t)b << 32 | a) >> (c & 31))")
    _define("lop3.b32", "uuuuu", "lop3(a, b, c, d)")


def _define_floats() -> None:
    for name, F, f in (("f32", "f", "f"), ("f64", "F", "")):
        _define(f"add.{name} add.rn.{name}", F * 3, "a + b")
        _define(f"sub.{name} sub.rn.{name}", F * 3, "a - b")
        _define(f"mul.{name} mul.rn.{name}", F * 3, "a * b")
        _define(f"fma.rn.{name}", F * 4, f"fma{f}(a, b, c)")
        _define(f"div.rn.{name}", F * 3, "a / b")
        _define(f"sqrt.rn.{name}", F * 2, f"sqrt{f}(a)")
        _define(f"rcp.rn.{name}", F * 2, "1 / a")
        _define(f"neg.{name}", F * 2, "-a")
        _define(f"abs.{name}", F * 2, f"fabs{f}(a)")
        # Of a NaN and a number the number; 0.0 is above -0.0.
        _define(f"min.{name}", F * 3, "a < b ? a : b < a ? b : a != a ? b : b != b ? a : signbit(a) ? a : b")
        _define(f"max.{name}", F * 3, "a > b ? a : b > a ? b : a != a ? b : b != b ? a : signbit(a) ? b : a")
        _define(f"selp.{name}", F * 3 + "p", "c ? a : b")
        _define(f"mov.{name}", F * 2, "a")
    _define("fma.rn.ftz.f32", "ffff", "flush(fmaf(flush(a), flush(b), flush(c)))")
    _define("mul.ftz.f32 mul.rn.ftz.f32", "fff", "flush(flush(a) * flush(b))")
    _define("add.ftz.f32 add.rn.ftz.f32", "fff", "flush(flush(a) + flush(b))")
    # Within 2 units in the last place, which of them being up to the hardware: see `approximate` in arithmetic.h.
    _define("div.full.f32", "fff", "approximate(a / b)")
    _define("ex2.approx.ftz.f32", "ff", "flush(approximate(exp2f(flush(a))))")
    _define("ex2.approx.f32", "ff", "approximate(exp2f(a))")
    _define("sqrt.approx.f32 sqrt.approx.ftz.f32", "ff", "approximate(sqrtf(a))")
    _define("add.f32x2 add.rn.f32x2", "UUU", "add_pairs(a, b)")
    _define("lg2.approx.ftz.f32 lg2.approx.f32", "ff", "approximate(log2f(a))")


_INTEGERS = {"s8": "y", "s16": "x", "u16": "h", "s32": "s", "u32": "u", "s64": "S", "u64": "U"}


def _define_conversions() -> None:
    for to, T in _INTEGERS.items():
        for of, A in _INTEGERS.items():
            if to not in (of, "s8"):
                _define(f"cvt.{to}.{of}", T + A, "a")
        if to[1:] in ("32", "64"):
            _define(f"cvt.rn.f32.{to}", "f" + T, "(float)a")
            _define(f"cvt.rn.f64.{to}", "F" + T, "(double)a")
    # Of the lower half of a 64-bit register, which PTX allows.
    _define("cvt.s64.s32.low", "SS", "(int32_t)a")
    _define("cvt.u64.u32.low", "UU", "(uint32_t)a")
    _define("cvt.f64.f32", "Ff", "(double)a")
    _define("cvt.rn.f32.f64", "fF", "(float)a")
    _define("cvt.f32.f16", "fh", "(float)half(a)")
    _define("cvt.f64.f16", "Fh", "(double)half(a)")
    _define("cvt.f32.bf16", "fh", "brain(a)")
    _define("cvt.f64.bf16", "Fh", "(double)brain(a)")
    for of, A in {**_INTEGERS, "f32": "f", "f64": "F"}.items():
        _define(f"cvt.rn.f16.{of}", "h" + A, "half_bits(a)")
    _define("cvt.rn.bf16.f32", "hf", "brain_bits(a)")
    # Truncated, to the nearest number there is. A float32 NaN gives 0, a float64 NaN the lowest number.
    for to, of, types, nan in (("s32", "f32", "sf", "0"), ("s32", "f64", "sF", None), ("s64", "f64", "SF", None)):
        low, high, limit = f"INT{to[1:]}_MIN", f"INT{to[1:]}_MAX", f"0x1p{int(to[1:]) - 1}"
        clamped = f"a >= {limit} ? {high} : a <= -{limit} ? {low} : (int{to[1:]}_t)a"
        _define(f"cvt.rzi.{to}.{of}", types, f"a != a ? {nan or low} : {clamped}")


_COMPARISONS = {"eq": "==", "ne": "!=", "lt": "<", "le": "<=", "gt": ">", "ge": ">="}
_UNSIGNED = {"lo": "<", "ls": "<=", "hi": ">", "hs": ">="}


def _define_comparisons() -> None:
    for name, sign in _COMPARISONS.items():
        for kind, T in {"b16": "h", "b32": "u", "b64": "U", **_INTEGERS}.items():
            _define(f"setp.{name}.{kind}", "p" + T * 2, f"a {sign} b")
        for kind, T, read in (("f32", "f", ""), ("f64", "F", ""), ("f16", "h", "half"), ("bf16", "h", "brain")):
            is_nan = f"({read}(a) != {read}(a) || {read}(b) != {read}(b))"
            test = f"{read}(a) {sign} {read}(b)"
            _define(f"setp.{name}.{kind}", "p" + T * 2, f"!{is_nan} & ({test})")
            _define(f"setp.{name}u.{kind}", "p" + T * 2, f"{is_nan} | ({test})")
            _define(f"setp.nan.{kind}", "p" + T * 2, is_nan)
            _define(f"setp.num.{kind}", "p" + T * 2, f"!{is_nan}")
    for name, sign in _UNSIGNED.items():
        for kind, T in (("u32", "u"), ("u64", "U")):
            _define(f"setp.{name}.{kind}", "p" + T * 2, f"a {sign} b")


_define_integers()
_define_floats()
_define_conversions()
_define_comparisons()

# Predicates of a whole warp at once.
MASKS = {"and.pred": "a & b", "or.pred": "a | b", "xor.pred": "a ^ b", "not.pred": "~a", "mov.pred": "a"}
# What does more than compute in the registers of one lane: the instructions that machine.c writes out.
SPECIAL = [
    "bra",
    "ret",
    "bar",
    "ld",
    "st",
    "shfl",
    "redux",
    "vote",
    "warpsync",
    "ldmatrix",
    "stmatrix",
    "atomadd",
    "pack",
    "unpack",
]
NUMBERS = {name: number for number, name in enumerate([*OPERATIONS, *MASKS, *SPECIAL])}
# What instructions are counted as: arithmetic by type; loads and stores, global and shared; between lanes; control.
CLASSES = ["int", "f32", "f64", "ldg", "stg", "lds", "sts", "shfl", "bar", "ctl"]


def enums() -> str:
    """The numbers of special instructions and of classes, as C."""
    special = ", ".join(f"{name.upper()} = {NUMBERS[name]}" for name in SPECIAL)
    classes = ", ".join(f"IS_{name.upper()}" for name in [*CLASSES, "classes"])
    return f"enum {{ {special} }};\nenum {{ {classes} }};\n"


def cases() -> str:
    """The cases of the machine's switch: one an operation, one a mask."""
    lines = [_case(NUMBERS[name], name, operation) for name, operation in OPERATIONS.items()]
    for name, expression in MASKS.items():
        read = "const uint32_t a = P[I->s[0]], b = P[I->s[1]]; (void)b;"
        write = f"P[I->d[0]] = (P[I->d[0]] & ~m) | (({expression}) & m);"
        lines.append(f"case {NUMBERS[name]}: {{ /* {name} */ {read} {write} break; }}")
    return "\n".join(lines) + "\n"


def _case(number: int, name: str, operation: Operation) -> str:
    """All 32 lanes, of which those of the mask m change."""
    result, sources, expression = operation
    lines, reads = [], []
    for k, (letter, variable) in enumerate(zip(sources, "abcd", strict=False)):
        if letter == PREDICATE:
            lines.append(f"uint32_t {variable}_ = P[I->s[{k}]];")
            reads.append(f"const int {variable} = {variable}_ >> i & 1;")
        elif letter in NARROW:
            lines.append(f"const uint32_t *{variable}_ = R + 32 * I->s[{k}];")
            reads.append(f"const {NARROW[letter]} {variable} = ({NARROW[letter]}){variable}_[i];")
        else:
            kind = C_TYPES[letter]
            lines.append(f"const {kind} *{variable}_ = (const {kind} *)({file_of(letter)} + 32 * I->s[{k}]);")
            reads.append(f"const {kind} {variable} = {variable}_[i];")
    read = " ".join(reads)
    if result == PREDICATE:
        lines.append(f"uint32_t z = 0; LANES {{ {read} z |= (uint32_t)(({expression}) ? 1 : 0) << i; }}")
        lines.append("P[I->d[0]] = (P[I->d[0]] & ~m) | (z & m);")
    else:
        kind = C_TYPES.get(result, "uint32_t")
        value = f"(uint16_t)({expression})" if result in NARROW else expression
        lines.append(f"{kind} *z = ({kind} *)({file_of(result)} + 32 * I->d[0]);")
        lines.append(f"if (m == FULL) LANES {{ {read} z[i] = {value}; }}")
        lines.append(f"else LANES {{ {read} const {kind} y = {value}; z[i] = m >> i & 1 ? y : z[i]; }}")
    return f"case {number}: {{ /* {name} */ {' '.join(lines)} break; }}"


class Cost(NamedTuple):
    """Class, issue slots, and cycles until the result is there."""

    kind: str
    slots: int
    latency: int


def cost(name: str) -> Cost:
    """Of an opcode on sm_90: what NVIDIA's assembler makes of it, roughly. Memory has latencies of its own.

    A move costs nothing, nor does what only widens or splits a register. Of 64 bits, integers take two instructions.
    """
    head, *rest = name.split(".")
    kind = rest[-1] if rest else ""
    integer_64 = kind in ("s64", "u64", "b64")
    if head in ("mov", "pack", "unpack") or name in ("cvt.u64.u32", "cvt.u32.u64", "not.pred"):
        return Cost("int", 0, 0)
    if head in ("bra", "ret"):
        return Cost("ctl", 1, 8)
    if head in ("bar", "barrier"):
        return Cost("bar", 1, 5)
    if head in ("shfl", "redux", "vote"):
        return Cost("shfl", 1, {"shfl": 24, "redux": 25, "vote": 15}[head])
    if kind == "pred":
        return Cost("int", 1, 5)
    if head in ("div", "sqrt") and kind == "f64":
        return Cost("f64", 14, 150)
    if name.startswith(("cvt.rn.f64", "cvt.rn.f32.f64", "cvt.f64", "cvt.rzi.s32.f64")):
        return Cost("f64", 1, 20)
    if kind == "f64" and head in ("min", "max"):
        return Cost("f64", 4, 22)
    if kind == "f64" and head in ("selp", "abs", "neg"):
        return Cost("int", 2 if head == "selp" else 0, 5)
    if kind == "f64":
        return Cost("f64", 1, 16)
    if name.startswith("div.full"):
        return Cost("f32", 8, 60)
    if head in ("ex2", "lg2"):
        return Cost("f32", 2, 24)
    if kind == "f32" and head != "selp":
        return Cost("f32", 1, 5)
    if head in ("div", "rem"):
        return Cost("int", 60, 300) if integer_64 else Cost("int", 20, 100)
    if head in ("min", "max") and integer_64:
        return Cost("int", 4, 12)
    if head in ("mul", "mad") and integer_64:
        return Cost("int", 4, 14)
    if integer_64 and "wide" not in rest:
        return Cost("int", 2, 6)
    return Cost("int", 1, 6 if "wide" in rest else 5)
