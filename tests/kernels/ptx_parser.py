"""Reads the PTX text that NVRTC produces into instructions with decoded operands."""

import re
from dataclasses import dataclass, field
from typing import Dict, List, Optional, Tuple, Union

import numpy as np

__all__ = [
    "Address",
    "Immediate",
    "Instruction",
    "Kernel",
    "Name",
    "Operand",
    "Register",
    "Vector",
    "number_type",
    "parse_kernel",
]

_NUMBER_TYPES = {
    "u8": np.uint8,
    "s8": np.int8,
    "b8": np.uint8,
    "u16": np.uint16,
    "s16": np.int16,
    "b16": np.uint16,
    "u32": np.uint32,
    "s32": np.int32,
    "b32": np.uint32,
    "u64": np.uint64,
    "s64": np.int64,
    "b64": np.uint64,
    "f32": np.float32,
    "f64": np.float64,
    "pred": np.bool_,
}


def number_type(name: str) -> np.dtype:
    """numpy's type for a PTX type such as ``u32``."""
    if name not in _NUMBER_TYPES:
        raise NotImplementedError(f"PTX type .{name}")
    return np.dtype(_NUMBER_TYPES[name])


@dataclass(frozen=True)
class Register:
    """A virtual register, one value per thread."""

    name: str
    pair: Optional[str] = None  # the predicate in %r1|%p1


@dataclass(frozen=True)
class Immediate:
    """A constant, as the bits or the integer that the text gives."""

    integer: int
    floating: Optional[str] = None  # "f32" or "f64" where the text gives bits


@dataclass(frozen=True)
class Name:
    """A special register (%tid.x), a label, a parameter or a symbol."""

    name: str


@dataclass(frozen=True)
class Vector:
    """Several operands in braces."""

    parts: Tuple["Operand", ...]


@dataclass(frozen=True)
class Address:
    """[base + offset]."""

    base: "Operand"
    offset: int


Operand = Union[Register, Immediate, Name, Vector, Address]


@dataclass(frozen=True)
class Instruction:
    """One instruction; ``opcode`` is split at its dots."""

    text: str
    opcode: Tuple[str, ...]
    operands: Tuple[Operand, ...]
    guard: Optional[str] = None
    guard_negated: bool = False


@dataclass
class Kernel:
    """An entry function: parameters (name, type), registers, instructions, places of labels."""

    parameters: List[Tuple[str, str]]
    registers: Dict[str, str] = field(default_factory=dict)
    instructions: List[Instruction] = field(default_factory=list)
    labels: Dict[str, int] = field(default_factory=dict)
    local_bytes: int = 0
    static_shared: Dict[str, int] = field(default_factory=dict)


class _Scopes:
    """Names of registers declared in nested braces, where they may hide others."""

    def __init__(self) -> None:
        self.stack: List[Dict[str, str]] = [{}]
        self.opened = 0

    def open(self) -> None:
        self.opened += 1
        self.stack.append({})

    def close(self) -> None:
        self.stack.pop()

    def declare(self, name: str) -> str:
        unique = name if len(self.stack) == 1 else f"{name}@{self.opened}"
        self.stack[-1][name] = unique
        return unique

    def find(self, name: str) -> Optional[str]:
        for scope in reversed(self.stack):
            if name in scope:
                return scope[name]
        return None


def _parse_operand(text: str, scopes: _Scopes) -> Operand:
    text = text.strip()
    if text.startswith("{"):
        return Vector(tuple(_parse_operand(part, scopes) for part in text.strip("{}").split(",")))
    if text.startswith("["):
        match = re.fullmatch(r"\[\s*([%$\w.]+)\s*(?:\+\s*(-?\d+))?\s*\]", text)
        if not match:
            raise NotImplementedError(f"PTX address {text}")
        return Address(_parse_operand(match[1], scopes), int(match[2] or 0))
    if re.fullmatch(r"0[fF][0-9a-fA-F]{8}", text):
        return Immediate(int(text[2:], 16), "f32")
    if re.fullmatch(r"0[dD][0-9a-fA-F]{16}", text):
        return Immediate(int(text[2:], 16), "f64")
    if re.fullmatch(r"-?(0[xX][0-9a-fA-F]+|\d+)U?", text):
        return Immediate(int(text.rstrip("U"), 0))
    if "|" in text:
        first, second = (scopes.find(part.strip()) for part in text.split("|"))
        if first is None:
            raise NotImplementedError(f"PTX operand {text}")
        return Register(first, second)
    register = scopes.find(text)
    return Register(register) if register is not None else Name(text)


def _split_operands(text: str) -> List[str]:
    return re.findall(r"\{[^}]*\}|\[[^\]]*\]|[^,\s][^,]*", text)


def _declare(statement: str, kernel: Kernel, scopes: _Scopes) -> None:
    match = re.match(r"\.reg\s+\.(\w+)\s+(.*)", statement)
    if match:
        for name in (part.strip() for part in match[2].split(",")):
            several = re.fullmatch(r"(%?\w+)<(\d+)>", name)
            names = [f"{several[1]}{i}" for i in range(int(several[2]))] if several else [name]
            for each in names:
                kernel.registers[scopes.declare(each)] = match[1]
        return
    match = re.match(r"\.local\s+\.align\s+\d+\s+\.b8\s+\w+\[(\d+)\]", statement)
    if match:
        kernel.local_bytes = int(match[1])
        return
    match = re.match(r"\.shared\s+\.align\s+\d+\s+\.b8\s+(\w+)\[(\d+)\]", statement)
    if match:
        kernel.static_shared[match[1]] = int(match[2])
        return
    if not statement.startswith(".pragma"):
        raise NotImplementedError(f"PTX directive {statement}")


def _parse_instruction(statement: str, scopes: _Scopes) -> Instruction:
    match = re.fullmatch(r"(?:@(!?)([%\w]+)\s+)?([\w.]+)\s*(.*)", statement, re.S)
    if not match:
        raise NotImplementedError(f"PTX statement {statement}")
    guard = scopes.find(match[2]) if match[2] else None
    operands = tuple(_parse_operand(part, scopes) for part in _split_operands(match[4]))
    return Instruction(statement, tuple(match[3].split(".")), operands, guard, bool(match[1]))


def _statements(body: str) -> List[str]:
    """Splits at semicolons, labels and scope braces; braces of operands stay."""
    body = re.sub(r"//[^\n]*", "", body)
    # A brace that opens a line opens a scope; operands' braces are within a statement.
    body = re.sub(r"^\s*\{\s*", "\n<open>;\n", body, flags=re.M)
    body = re.sub(r"(^|;)\s*\}\s*", r"\1\n<close>;\n", body, flags=re.M)
    body = re.sub(r"^(\$?\w+):", r"<label>\1;", body, flags=re.M)
    return [part for part in (" ".join(part.split()) for part in body.split(";")) if part]


def parse_kernel(ptx: str, name: str) -> Kernel:
    """One entry function of a PTX text.

    Raises:
        ValueError: the text has no such entry.
        NotImplementedError: something that the kernels have not used so far.
    """
    head = re.search(r"\.entry\s+" + re.escape(name) + r"\s*\((.*?)\)", ptx, re.S)
    if not head:
        raise ValueError(f"the PTX has no entry {name}")
    parameters = [(m[1], m[0]) for m in re.findall(r"\.param\s+\.(\w+)\s+(?:\.ptr[^,]*\s)?(\w+)", head[1])]
    start = ptx.index("\n{", head.end()) + 2
    body = ptx[start : ptx.index("\n}", start)]
    kernel, scopes = Kernel(parameters), _Scopes()
    for match in re.finditer(
        r"^\.(?:visible )?(?:\.)?shared\s+\.align\s+\d+\s+\.b8\s+(\w+)\[(\d+)\]", ptx, re.M
    ):
        kernel.static_shared[match[1]] = int(match[2])
    for statement in _statements(body):
        if statement == "<open>":
            scopes.open()
        elif statement == "<close>":
            scopes.close()
        elif statement.startswith("<label>"):
            kernel.labels[statement.removeprefix("<label>")] = len(kernel.instructions)
        elif statement.startswith("."):
            _declare(statement, kernel, scopes)
        else:
            kernel.instructions.append(_parse_instruction(statement, scopes))
    return kernel
