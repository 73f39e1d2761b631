"""The text of PTX as instructions of ``machine.c``."""

from __future__ import annotations

import re
from collections.abc import Iterator

from emulator import opcodes
from emulator.branches import post_dominators
from emulator.machine import Instruction
from emulator.opcodes import NUMBERS, P, Q, R

# Flags of an instruction, as in machine.c.
SHARED, SIGNED, WIDE, ABSOLUTE = 1, 2, 4, 8

_SHUFFLES = ("up", "down", "bfly", "idx")
_REDUCTIONS = [
    "add.s32",
    "min.s32",
    "max.s32",
    "min.u32",
    "max.u32",
    "or.b32",
    "and.b32",
    "xor.b32",
    "min.f32",
    "max.f32",
]
_STATEMENT = re.compile(r"(?:@(!?)(%p\d+)\s+)?([a-z][\w.:]*)\s*(.*)", re.S)
_OPERAND = re.compile(r"\{[^}]*\}|\[[^\]]*\]|[^,\s][^,]*")
_ADDRESS = re.compile(r"\[\s*(%\w+|global_smem)?\s*(?:\+\s*)?(-?\d+)?\s*\]")
_NUMBER = re.compile(r"-?(0x[0-9a-fA-F]+|\d+)U?")

Register = tuple[str, int]  # file and number


class UnknownError(NotImplementedError):
    """PTX that the emulator has no rule for."""


class Program:
    """One kernel, assembled. Registers that PTX does not name hold constants, parameters and the like."""

    def __init__(self, text: str) -> None:
        self.name = _found(r"\.visible \.entry (\w+)\(", text)
        self.threads = int(_found(r"\.reqntid (\d+)", text))
        body = text[text.index("{", text.index(".reqntid")) + 1 :]
        body = body[: body.index("\n}")]
        declared = {name: int(count) for name, count in re.findall(r"\.reg \.\w+\s+%([a-z]+)<(\d+)>", body)}
        # 16-bit registers lie behind those of 32 bits.
        self._first_short = declared.get("r", 0)
        self.registers = {
            R: self._first_short + declared.get("rs", 0),
            Q: declared.get("rd", 0),
            P: declared.get("p", 0),
        }
        self.constants: dict[Register, int] = {}  # value and file to a register: see _constant
        self.parameters: list[tuple[Register, int, str]] = []  # register, number of the parameter, type
        self.tid, self.ctaid, self.nctaid = (self._new(R) for _ in range(3))
        self._sinks = {R: self._new(R), Q: self._new(Q)}  # what is loaded and not wanted
        self.has_narrow_shared = False  # shared accesses of less than four bytes
        self._code: list[Instruction] = []
        self._accesses: list[tuple[list[Register], list[Register]]] = []  # read and written, an instruction each
        self.opcodes: list[str] = []
        self.lines: list[str] = []  # of the source, an instruction each
        self._assemble(body)
        self.code = (Instruction * len(self._code))(*self._code)

    def initial(self, file: str, given: dict[Register, int], filling: int) -> list[int]:
        """Values of all registers of a file: constants, what is given, and else a filling that nobody should see."""
        values = [filling] * (self.registers[file] + 1)
        for (its_file, value), number in self.constants.items():
            if its_file == file:
                values[number] = value
        for (its_file, number), value in given.items():
            if its_file == file:
                values[number] = value
        return values

    def _new(self, file: str) -> int:
        self.registers[file] += 1
        return self.registers[file] - 1

    def _constant(self, file: str, value: int) -> int:
        value = -(value != 0) if file == P else value  # of all lanes
        value &= (1 << (64 if file == Q else 32)) - 1
        if (file, value) not in self.constants:
            self.constants[file, value] = self._new(file)
        return self.constants[file, value]

    def _register(self, text: str) -> Register:
        special = re.fullmatch(r"%(tid|ctaid|nctaid)\.([xyz])", text)
        if special:
            name, axis = special.groups()
            # Grids have one axis.
            return R, getattr(self, name) if axis == "x" else self._constant(R, int(name == "nctaid"))
        found = re.fullmatch(r"%(r|rs|rd|p)(\d+)", text)
        if not found:
            raise UnknownError(text)
        prefix, number = found[1], int(found[2])
        return (R, self._first_short + number) if prefix == "rs" else ({"r": R, "rd": Q, "p": P}[prefix], number)

    def _source(self, text: str, file: str) -> int:
        """A register of that file: the one named, or one that holds the number."""
        if not text.startswith("%"):
            return self._constant(file, _number(text))
        found, number = self._register(text)
        if found != file:
            raise UnknownError(f"{text} where a register of {file} is wanted")
        return number

    def _assemble(self, body: str) -> None:
        labels: dict[str, int] = {}
        jumps: list[tuple[int, str]] = []
        line = ""
        for text in _statements(body):
            if text.endswith(":"):
                labels[text[:-1]] = len(self._code)
            elif text.startswith(".loc"):
                line = text.split("//", 1)[1].strip() if "//" in text else text
            else:
                target = self._statement(text)
                self.lines.append(line)
                if target:
                    jumps.append((len(self._code) - 1, target))
        for number, label in jumps:
            self._code[number].immediate = labels[label]
        for number, rejoin in post_dominators(self._code).items():
            self._code[number].rejoin = rejoin
        # Now that files have their sizes: one numbering of all registers, for the clock.
        before = {R: 0, Q: self.registers[R], P: self.registers[R] + self.registers[Q]}
        for each, (reads, writes) in zip(self._code, self._accesses, strict=True):
            each.reads[:] = _padded([before[file] + number for file, number in reads], 6)
            each.writes[:] = _padded([before[file] + number for file, number in writes], 4)

    def _statement(self, text: str) -> str | None:
        """Add one instruction; the label it goes to, if it does."""
        found = _STATEMENT.fullmatch(text)
        if not found:
            raise UnknownError(text)
        negated, guard, name, rest = found.groups()
        operands = [operand.strip() for operand in _OPERAND.findall(rest)]
        each = Instruction()
        each.d[:], each.s[:] = [-1] * 4, [-1] * 5
        kind, each.slots, each.latency = opcodes.cost(name)
        each.kind = opcodes.CLASSES.index(kind)
        try:
            reads, writes = self._fill(each, name, operands)
        except (UnknownError, KeyError, ValueError, IndexError) as error:
            raise UnknownError(f"{text}: {error}") from error
        if guard:
            predicate = self._register(guard)
            each.guard = (predicate[1] + 1) * (-1 if negated else 1)
            # What is not written stays.
            reads = [*reads, predicate, *writes[:1]]
        self._code.append(each)
        self._accesses.append((reads, writes))
        self.opcodes.append(name)
        return operands[0] if each.op == NUMBERS["bra"] else None

    def _fill(self, each: Instruction, name: str, operands: list[str]) -> tuple[list[Register], list[Register]]:
        """What the instruction does; the registers that it reads and writes."""
        head, *rest = name.split(".")
        if name.startswith("ld.param."):
            return self._parameter(each, rest[-1], operands)
        if head in ("ld", "st", "ldmatrix", "stmatrix", "atom"):
            return self._memory(each, name, operands)
        if head == "mov" and any("{" in operand for operand in operands):
            return self._repack(each, int(rest[-1][1:]), operands)
        if head in ("bra", "ret", "bar", "barrier"):
            return self._control(each, name, operands)
        if head in ("shfl", "redux", "vote"):
            return self._between_lanes(each, name, operands)
        if f"{name}.low" in NUMBERS and operands[1].startswith("%rd"):
            name += ".low"
        each.op = NUMBERS[name]
        if name in opcodes.MASKS:
            each.s[1] = 0  # read, if not used
            result, files = P, [P] * (len(operands) - 1)
        else:
            operation = opcodes.OPERATIONS[name]
            result = opcodes.file_of(operation.result)
            files = [opcodes.file_of(letter) for letter in operation.sources]
        target = self._register(operands[0])
        if target[0] != result or len(operands) != 1 + len(files):
            raise UnknownError(f"{name} has other operands")
        each.d[0] = target[1]
        reads = [(file, self._source(operand, file)) for operand, file in zip(operands[1:], files, strict=True)]
        each.s[: len(reads)] = [number for _, number in reads]
        return reads, [target]

    def _parameter(
        self, each: Instruction, kind: str, operands: list[str]
    ) -> tuple[list[Register], list[Register]]:  # fmt: skip
        """A move from a register that holds the parameter when the kernel starts."""
        file, number = self._register(operands[0])
        slot = self._new(file)
        self.parameters.append(((file, slot), int(_found(r"_param_(\d+)\]", operands[1])), kind))
        each.op, each.d[0], each.s[0] = NUMBERS["mov.b64" if file == Q else "mov.b32"], number, slot
        each.latency = 10
        return [], [(file, number)]

    def _memory(self, each: Instruction, name: str, operands: list[str]) -> tuple[list[Register], list[Register]]:
        head, *rest = name.split(".")
        stores = head in ("st", "stmatrix")
        values, place = operands[::-1] if stores else operands[:2]
        is_shared = "shared" in rest
        each.flags = SHARED if is_shared else 0
        each.slots, each.latency = 1, 30
        reads: list[Register] = []
        writes: list[Register] = []

        parts = _ADDRESS.fullmatch(place)
        if not parts:
            raise UnknownError(place)
        each.immediate = int(parts[2] or 0)
        if parts[1] and parts[1].startswith("%"):
            each.s[4] = self._source(parts[1], R if is_shared else Q)
            reads.append((R if is_shared else Q, each.s[4]))
        else:
            each.flags |= ABSOLUTE

        registers = [value.strip() for value in values.strip("{} ").split(",")]
        kind = rest[-1]
        each.count = len(registers)
        if head in ("ldmatrix", "stmatrix"):
            if "trans" in rest:
                raise UnknownError(name)
            each.op, each.size = NUMBERS[head], 4
        elif head == "atom":
            if name != "atom.shared.add.u32":
                raise UnknownError(name)
            each.op, each.size, each.s[0] = NUMBERS["atomadd"], 4, self._source(operands[2], R)
            reads.append((R, each.s[0]))
        else:
            each.op, each.size = NUMBERS[head], int(kind[1:]) // 8
            each.flags |= SIGNED if kind[0] == "s" else 0
        each.kind = opcodes.CLASSES.index(("st" if stores or head == "atom" else "ld") + ("s" if is_shared else "g"))
        self.has_narrow_shared |= is_shared and each.size < 4

        for k, text in enumerate(registers):
            wide = Q if each.size == 8 else R
            file = self._register(text)[0] if text.startswith("%") else wide
            if stores:
                each.s[k] = self._source(text, file)
                reads.append((file, each.s[k]))
            else:
                each.d[k] = self._sinks[wide] if text == "_" else self._register(text)[1]
                writes.append((file, each.d[k]))
            each.flags |= WIDE if file == Q else 0
        return reads, writes

    def _repack(self, each: Instruction, bits: int, operands: list[str]) -> tuple[list[Register], list[Register]]:
        """A move that joins registers to a wider one, or takes one apart."""
        joins = operands[1].startswith("{")
        whole, together = operands if joins else operands[::-1]
        parts = [part.strip() for part in together.strip("{} ").split(",")]
        file = self._register(whole)[0] if whole.startswith("%") else Q if bits == 64 else R
        number = self._source(whole, file)
        each.flags, each.count, each.size = WIDE if file == Q else 0, len(parts), bits // 8 // len(parts)
        if joins:
            each.op, each.d[0] = NUMBERS["pack"], number
            each.s[: len(parts)] = [self._source(part, R) for part in parts]
            return [(R, part) for part in each.s[: len(parts)]], [(file, number)]
        each.op, each.s[0] = NUMBERS["unpack"], number
        each.d[: len(parts)] = [-1 if part == "_" else self._register(part)[1] for part in parts]
        return [(file, number)], [(R, part) for part in each.d[: len(parts)] if part >= 0]

    def _control(self, each: Instruction, name: str, operands: list[str]) -> tuple[list[Register], list[Register]]:
        head = name.split(".", maxsplit=1)[0]
        if head in ("bra", "ret"):
            each.op = NUMBERS[head]
        elif name == "bar.warp.sync":
            each.op = NUMBERS["warpsync"]
        elif name in ("bar.sync", "barrier.sync") and operands == ["0"]:
            each.op = NUMBERS["bar"]
        else:
            raise UnknownError(name)
        return [], []

    def _between_lanes(
        self, each: Instruction, name: str, operands: list[str]
    ) -> tuple[list[Register], list[Register]]:  # fmt: skip
        head, _, kind, *_ = name.split(".")
        each.op = NUMBERS[head]
        first, _, inside = operands[0].partition("|")
        writes = [self._register(first), *([self._register(inside)] if inside else [])]
        each.d[: len(writes)] = [number for _, number in writes]
        files = [P] if head == "vote" else [R] * (3 if head == "shfl" else 1)
        reads = [(file, self._source(operand, file)) for operand, file in zip(operands[1:], files, strict=False)]
        each.s[: len(reads)] = [number for _, number in reads]
        if head == "shfl":
            each.immediate = _SHUFFLES.index(kind)
        elif head == "redux":
            each.immediate = _REDUCTIONS.index(name.removeprefix("redux.sync.").replace("add.u32", "add.s32"))
        elif kind != "ballot":
            raise UnknownError(name)
        # The machine wants all lanes there, whatever the register says of them.
        if not operands[1 + len(files)].startswith(("%", "-1", "0xffffffff")):
            raise UnknownError(f"{name} of part of a warp")
        return reads, writes


def _statements(body: str) -> Iterator[str]:
    """Labels, which end in a colon, ``.loc`` with the line of the source, and instructions."""
    pending = ""
    for line in body.splitlines():
        text = line.strip()
        if text.startswith(".loc"):
            yield text
            continue
        text = text.split("//", 1)[0].strip()
        if not text or text in "{}" or text.startswith((".reg", ".pragma")):
            continue
        if text.endswith(":") and not pending:
            yield text
            continue
        *done, pending = f"{pending} {text}".split(";")
        yield from (statement.strip() for statement in done)
        pending = pending.strip()


def _number(text: str) -> int:
    if text.startswith(("0f", "0d")):  # the bits of a float
        return int(text[2:], 16)
    if text.startswith("global_smem"):  # all of a block's shared memory, from address 0 on
        return int(text.removeprefix("global_smem").lstrip("+") or 0)
    if not _NUMBER.fullmatch(text):
        raise UnknownError(text)
    return int(text.rstrip("U"), 0)


def _found(pattern: str, text: str) -> str:
    found = re.search(pattern, text)
    if not found:
        raise UnknownError(f"no {pattern} in {text[:80]}")
    return found[1]


def _padded(numbers: list[int], length: int) -> list[int]:
    return (numbers + [-1] * length)[:length]
