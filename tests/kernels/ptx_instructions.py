"""What every PTX instruction does to the threads that execute it: one function per family."""

import operator
from typing import TYPE_CHECKING, Callable, Dict, Union

import numpy as np

from tests.kernels.ptx_parser import Immediate, Instruction, Register, Vector, number_type

if TYPE_CHECKING:
    from tests.kernels.ptx_interpreter import Machine

__all__ = ["HANDLERS"]

WARP = 32
Threads = Union[slice, np.ndarray]
Handler = Callable[["Machine", Instruction, Threads], None]
HANDLERS: Dict[str, Handler] = {}


def _family(*names: str) -> Callable[[Handler], Handler]:
    def register(handler: Handler) -> Handler:
        HANDLERS.update(dict.fromkeys(names, handler))
        return handler

    return register


def _unknown(instruction: Instruction) -> NotImplementedError:
    return NotImplementedError(f"PTX instruction {instruction.text}")


# ---- memory ----------------------------------------------------------------------------------------------


def _width(instruction: Instruction) -> int:
    return next((int(part[1:]) for part in instruction.opcode if part in ("v2", "v4", "v8")), 1)


def _space(instruction: Instruction) -> str:
    for space in ("global", "shared", "local", "param"):
        if space in instruction.opcode:
            return space
    raise _unknown(instruction)  # generic addresses


def _bytes_of(m: "Machine", instruction: Instruction, start: np.ndarray, size: int, threads: Threads):
    """The memory of a space as one flat array and the places of the accesses in it, bounds checked."""
    space = _space(instruction)
    if space == "global":
        inside = (start >= 0) & (start + size <= len(m.memory.bytes))
        if inside.all():
            inside = m.memory.owned[start] & m.memory.owned[start + size - 1]
        if not inside.all():
            m.fail("access outside of the arrays", m.indices(threads)[~inside])
        return m.memory.bytes, start
    table = m.shared if space == "shared" else m.local
    row = m.block_of[threads] if space == "shared" else m.indices(threads)
    inside = (start >= 0) & (start + size <= table.shape[1])
    if not inside.all():
        m.fail(f"access outside of {space} memory", m.indices(threads)[~inside])
    return table.reshape(-1), row * table.shape[1] + start


def _gather(memory: np.ndarray, places: np.ndarray, kind: np.dtype) -> np.ndarray:
    raw = memory[places[:, None] + np.arange(kind.itemsize)]
    return np.ascontiguousarray(raw).view(kind)[:, 0]


def _scatter(memory: np.ndarray, places: np.ndarray, values: np.ndarray) -> None:
    values = np.ascontiguousarray(np.broadcast_to(values, places.shape))
    memory[places[:, None] + np.arange(values.dtype.itemsize)] = values.view(np.uint8).reshape(
        len(places), -1
    )


@_family("ld", "ldu")
def _load(m: "Machine", i: Instruction, threads: Threads) -> None:
    if _space(i) == "param":
        m.write(i.operands[0], m.parameters[i.operands[1].base.name], threads)
        return
    kind, width = number_type(i.opcode[-1]), _width(i)
    start = m.address(i.operands[1], threads, kind.itemsize, width)
    to = i.operands[0].parts if isinstance(i.operands[0], Vector) else (i.operands[0],)
    memory, places = _bytes_of(m, i, start, kind.itemsize * width, threads)
    for part, register in enumerate(to):
        m.write(register, _gather(memory, places + part * kind.itemsize, kind), threads)


@_family("st")
def _store(m: "Machine", i: Instruction, threads: Threads) -> None:
    kind, width = number_type(i.opcode[-1]), _width(i)
    start = m.address(i.operands[0], threads, kind.itemsize, width)
    given = i.operands[1].parts if isinstance(i.operands[1], Vector) else (i.operands[1],)
    memory, places = _bytes_of(m, i, start, kind.itemsize * width, threads)
    for part, register in enumerate(given):
        _scatter(memory, places + part * kind.itemsize, m.read(register, i.opcode[-1], threads))


_ATOMIC = {
    "add": operator.add,
    "and": operator.and_,
    "or": operator.or_,
    "xor": operator.xor,
    "min": min,
    "max": max,
    "exch": lambda old, given: given,
}


@_family("atom", "red")
def _atomic(m: "Machine", i: Instruction, threads: Threads) -> None:
    kind = number_type(i.opcode[-1])
    returns = i.opcode[0] == "atom"
    operands = i.operands if returns else (None, *i.operands)
    update = next((part for part in i.opcode[1:-1] if part in _ATOMIC or part == "cas"), None)
    if update is None:
        raise _unknown(i)
    start = m.address(operands[1], threads, kind.itemsize, 1)
    memory, places = _bytes_of(m, i, start, kind.itemsize, threads)
    given = [np.broadcast_to(m.read(x, i.opcode[-1], threads), places.shape) for x in operands[2:]]
    before = np.empty(len(places), kind)
    for t, place in enumerate(places):
        cell = memory[place : place + kind.itemsize].view(kind)
        before[t] = cell[0]
        if update == "cas":
            cell[0] = given[1][t] if cell[0] == given[0][t] else cell[0]
        else:
            cell[0] = _ATOMIC[update](cell[0], given[0][t])
    if returns:
        m.write(operands[0], before, threads)


@_family("membar", "fence")
def _fence(m: "Machine", i: Instruction, threads: Threads) -> None:
    """Accesses take effect at once here."""


# ---- control ---------------------------------------------------------------------------------------------


@_family("bra")
def _branch(m: "Machine", i: Instruction, threads: Threads) -> None:
    m.jump(i.operands[0].name, threads)


@_family("ret", "exit")
def _return(m: "Machine", i: Instruction, threads: Threads) -> None:
    m.end(threads)


@_family("trap")
def _trap(m: "Machine", i: Instruction, threads: Threads) -> None:
    m.fail("trap", threads)


@_family("bar", "barrier")
def _barrier(m: "Machine", i: Instruction, threads: Threads) -> None:
    if i.opcode[1] == "warp":
        m.arrive_at_collective(threads, i.operands[0])
        return
    reduction = i.opcode[2] if i.opcode[1] == "red" else None
    if reduction is None:
        if len(i.operands) != 1 or i.operands[0] != Immediate(0):
            raise _unknown(i)
        m.arrive_at_barrier(threads)
        return
    released = m.arrive_at_barrier(threads, m.read(i.operands[2], "pred", threads))
    if not len(released):
        return
    values = m.barrier_values[released].reshape(-1, m.block)
    combined = {"popc": values.sum, "or": values.max, "and": values.min}[reduction](1)
    spread = np.repeat(combined, m.block)
    m.write(i.operands[0], spread != 0 if reduction != "popc" else spread.astype(np.uint32), released)


# ---- warps -----------------------------------------------------------------------------------------------


@_family("shfl")
def _shuffle(m: "Machine", i: Instruction, threads: Threads) -> None:
    ready = m.arrive_at_collective(threads, i.operands[4])
    if not len(ready):
        return
    mode = i.opcode[2]
    lane = ready % WARP
    distance = m.read(i.operands[2], "u32", ready).astype(np.int64) & 31
    control = m.read(i.operands[3], "u32", ready).astype(np.int64)
    segment, clamp = control >> 8 & 31, control & 31
    last = (lane & segment) | (clamp & ~segment)
    first = lane & segment
    if mode == "idx":
        wanted = first | (distance & ~segment)
        inside = wanted <= last
    elif mode == "bfly":
        wanted = lane ^ distance
        inside = wanted <= last
    elif mode == "up":
        wanted = lane - distance
        inside = wanted >= last
    elif mode == "down":
        wanted = lane + distance
        inside = wanted <= last
    else:
        raise _unknown(i)
    source = np.where(inside, wanted, lane)
    mask = np.broadcast_to(m.read(i.operands[4], "u32", ready), ready.shape).astype(np.int64)
    if not (mask >> source & 1).all():
        m.fail("shuffle from a lane outside of the mask", ready)
    values = m.registers[i.operands[1].name].copy() if isinstance(i.operands[1], Register) else None
    if values is None:
        given = m.read(i.operands[1], "b32", ready)
    else:
        given = values[ready - lane + source]
    m.write(i.operands[0], np.broadcast_to(given, ready.shape), ready)
    m.write_pair(i.operands[0], np.broadcast_to(inside, ready.shape), ready)


def _by_mask(m: "Machine", i: Instruction, ready: np.ndarray, values: np.ndarray, mask_operand):
    """For every ready lane, the values of all lanes (0 where not in its mask), (n, 32), and its mask."""
    everywhere = np.zeros(m.count, values.dtype)
    everywhere[ready] = values
    mask = np.broadcast_to(m.read(mask_operand, "u32", ready), ready.shape).astype(np.int64)
    member = (mask[:, None] >> np.arange(WARP) & 1).astype(bool)
    return everywhere.reshape(-1, WARP)[ready // WARP], member


@_family("vote")
def _vote(m: "Machine", i: Instruction, threads: Threads) -> None:
    ready = m.arrive_at_collective(threads, i.operands[2])
    if not len(ready):
        return
    votes = np.broadcast_to(m.read(i.operands[1], "pred", ready), ready.shape)
    table, member = _by_mask(m, i, ready, votes, i.operands[2])
    if i.opcode[2] == "ballot":
        bits = ((table & member) * (1 << np.arange(WARP, dtype=np.int64))).sum(1)
        m.write(i.operands[0], bits.astype(np.uint32), ready)
    elif i.opcode[2] == "any":
        m.write(i.operands[0], (table & member).any(1), ready)
    elif i.opcode[2] == "all":
        m.write(i.operands[0], (table | ~member).all(1), ready)
    else:
        raise _unknown(i)


@_family("redux")
def _reduce(m: "Machine", i: Instruction, threads: Threads) -> None:
    ready = m.arrive_at_collective(threads, i.operands[2])
    if not len(ready):
        return
    kind = number_type(i.opcode[-1])
    values = np.broadcast_to(m.read(i.operands[1], i.opcode[-1], ready), ready.shape)
    table, member = _by_mask(m, i, ready, values, i.operands[2])
    reductions = {
        "add": (np.add, 0),
        "or": (np.bitwise_or, 0),
        "xor": (np.bitwise_xor, 0),
        "and": (np.bitwise_and, -1),
        "min": (np.minimum, np.iinfo(kind).max),
        "max": (np.maximum, np.iinfo(kind).min),
    }
    combine, neutral = reductions[i.opcode[2]]
    filled = np.where(member, table, np.array(neutral).astype(kind))
    m.write(i.operands[0], combine.reduce(filled, axis=1).astype(kind), ready)


# ---- moves and conversions -------------------------------------------------------------------------------


@_family("mov")
def _move(m: "Machine", i: Instruction, threads: Threads) -> None:
    to, given = i.operands
    kind = i.opcode[-1]
    if isinstance(to, Vector):
        count = len(to.parts)
        part = np.dtype(f"u{number_type(kind).itemsize // count}")
        values = np.ascontiguousarray(m.read(given, kind, threads)).view(part).reshape(-1, count)
        for place, register in enumerate(to.parts):
            m.write(register, values[:, place], threads)
    elif isinstance(given, Vector):
        count = len(given.parts)
        part = f"b{8 * number_type(kind).itemsize // count}"
        shape = m.indices(threads).shape
        parts = [np.broadcast_to(m.read(x, part, threads), shape) for x in given.parts]
        m.write(to, np.ascontiguousarray(np.stack(parts, 1)).view(number_type(kind))[:, 0], threads)
    else:
        m.write(to, m.read(given, kind, threads), threads)


@_family("cvta")
def _convert_address(m: "Machine", i: Instruction, threads: Threads) -> None:
    if "global" not in i.opcode and "local" not in i.opcode:
        raise _unknown(i)
    m.write(i.operands[0], m.read(i.operands[1], i.opcode[-1], threads), threads)


_ROUND = {"rni": np.rint, "rzi": np.trunc, "rmi": np.floor, "rpi": np.ceil}


@_family("cvt")
def _convert(m: "Machine", i: Instruction, threads: Threads) -> None:
    to, given = number_type(i.opcode[-2]), number_type(i.opcode[-1])
    values = m.read(i.operands[1], i.opcode[-1], threads)
    if given.kind == "f":
        rounding = next((part for part in i.opcode if part in _ROUND), None)
        if rounding:
            values = _ROUND[rounding](values)
    if "sat" in i.opcode:
        if to.kind != "f":
            raise _unknown(i)
        values = np.where(np.isnan(values), 0, np.clip(values, 0, 1)).astype(given)
    if given.kind == "f" and to.kind in "ui":
        limits = np.iinfo(to)
        finite = np.where(np.isnan(values), 0, values).astype(np.longdouble)
        values = np.clip(finite, limits.min, limits.max)
    m.write(i.operands[0], values.astype(to), threads)


@_family("selp")
def _select(m: "Machine", i: Instruction, threads: Threads) -> None:
    chosen = m.read(i.operands[3], "pred", threads)
    one, other = (m.read(x, i.opcode[-1], threads) for x in i.operands[1:3])
    m.write(i.operands[0], np.where(chosen, one, other), threads)


_COMPARE = {
    "lt": np.less,
    "le": np.less_equal,
    "gt": np.greater,
    "ge": np.greater_equal,
    "eq": np.equal,
    "ne": np.not_equal,
    "lo": np.less,
    "ls": np.less_equal,
    "hi": np.greater,
    "hs": np.greater_equal,
}


def _compared(i: Instruction, how: str, a: np.ndarray, b: np.ndarray) -> np.ndarray:
    if a.dtype.kind != "f":
        return _COMPARE[how](a, b)
    unordered = np.isnan(a) | np.isnan(b)
    if how in ("num", "nan"):
        return unordered == (how == "nan")
    if how.endswith("u") and how[:-1] in _COMPARE:
        return _COMPARE[how[:-1]](a, b) | unordered
    return _COMPARE[how](a, b) & ~unordered


@_family("setp")
def _compare(m: "Machine", i: Instruction, threads: Threads) -> None:
    a, b = (m.read(x, i.opcode[-1], threads) for x in i.operands[1:3])
    holds = _compared(i, i.opcode[1], a, b)
    other = ~holds
    if len(i.operands) == 4:
        combine = {"and": np.logical_and, "or": np.logical_or, "xor": np.logical_xor}[i.opcode[2]]
        with_predicate = m.read(i.operands[3], "pred", threads)
        holds, other = combine(holds, with_predicate), combine(other, with_predicate)
    m.write(i.operands[0], holds, threads)
    m.write_pair(i.operands[0], other, threads)


# ---- arithmetic ------------------------------------------------------------------------------------------


def _rounded_down(exact: np.ndarray, kind: np.dtype) -> np.ndarray:
    nearest = exact.astype(kind)
    return np.where(nearest > exact, np.nextafter(nearest, kind.type(-np.inf)), nearest)


@_family("fma")
def _fused(m: "Machine", i: Instruction, threads: Threads) -> None:
    kind = number_type(i.opcode[-1])
    # float64 holds a float32 product exactly; longdouble comes close for float64.
    wide = np.float64 if kind == np.float32 else np.longdouble
    a, b, c = (m.read(x, i.opcode[-1], threads).astype(wide) for x in i.operands[1:4])
    exact = a * b + c
    if "rm" in i.opcode:
        m.write(i.operands[0], _rounded_down(exact, kind), threads)
    elif "rn" in i.opcode:
        m.write(i.operands[0], exact.astype(kind), threads)
    else:
        raise _unknown(i)


def _wide_kind(kind: np.dtype) -> np.dtype:
    return np.dtype(f"{kind.kind}{2 * kind.itemsize}")


def _high_half(a: np.ndarray, b: np.ndarray) -> np.ndarray:
    kind, bits = a.dtype, 8 * a.dtype.itemsize
    product = a.astype(object) * b.astype(object)
    high = [int(x) >> bits for x in np.broadcast_to(product, np.broadcast(a, b).shape)]
    return np.array([x % 2**bits for x in high], np.dtype(f"u{kind.itemsize}")).view(kind)


def _product(i: Instruction, a: np.ndarray, b: np.ndarray) -> np.ndarray:
    if "wide" in i.opcode:
        wide = _wide_kind(a.dtype)
        return a.astype(wide) * b.astype(wide)
    if "hi" in i.opcode:
        return _high_half(a, b)
    return a * b


@_family("mul")
def _multiply(m: "Machine", i: Instruction, threads: Threads) -> None:
    a, b = (m.read(x, i.opcode[-1], threads) for x in i.operands[1:3])
    m.write(i.operands[0], _product(i, a, b), threads)


@_family("mad")
def _multiply_add(m: "Machine", i: Instruction, threads: Threads) -> None:
    kind = i.opcode[-1]
    a, b = (m.read(x, kind, threads) for x in i.operands[1:3])
    product = _product(i, a, b)
    sum_kind = f"{kind[0]}{8 * product.dtype.itemsize}"
    m.write(i.operands[0], product + m.read(i.operands[3], sum_kind, threads), threads)


@_family("add", "sub")
def _add(m: "Machine", i: Instruction, threads: Threads) -> None:
    if {"cc", "sat"} & set(i.opcode):
        raise _unknown(i)
    a, b = (m.read(x, i.opcode[-1], threads) for x in i.operands[1:3])
    m.write(i.operands[0], a + b if i.opcode[0] == "add" else a - b, threads)


def _truncated_quotient(a: np.ndarray, b: np.ndarray) -> np.ndarray:
    if a.dtype.kind == "u":
        return a // np.where(b == 0, 1, b)
    safe = np.where(b == 0, 1, b)
    down = a // safe
    return down + ((a % safe != 0) & ((a < 0) != (safe < 0))).astype(a.dtype)


@_family("div", "rem")
def _divide(m: "Machine", i: Instruction, threads: Threads) -> None:
    a, b = (m.read(x, i.opcode[-1], threads) for x in i.operands[1:3])
    if a.dtype.kind == "f":
        m.write(i.operands[0], a / b, threads)
        return
    if (b == 0).any():
        m.fail("integer division by zero", threads)
    quotient = _truncated_quotient(a, b)
    m.write(i.operands[0], (quotient if i.opcode[0] == "div" else a - quotient * b).astype(a.dtype), threads)


@_family("min", "max")
def _extreme(m: "Machine", i: Instruction, threads: Threads) -> None:
    a, b = (m.read(x, i.opcode[-1], threads) for x in i.operands[1:3])
    choose = {"min": np.fmin, "max": np.fmax}[i.opcode[0]]
    m.write(i.operands[0], choose(a, b), threads)


@_family("and", "or", "xor")
def _bitwise(m: "Machine", i: Instruction, threads: Threads) -> None:
    a, b = (m.read(x, i.opcode[-1], threads) for x in i.operands[1:3])
    combine = {"and": np.bitwise_and, "or": np.bitwise_or, "xor": np.bitwise_xor}[i.opcode[0]]
    m.write(i.operands[0], combine(a, b), threads)


@_family("shl", "shr")
def _shift(m: "Machine", i: Instruction, threads: Threads) -> None:
    values = m.read(i.operands[1], i.opcode[-1], threads)
    bits = 8 * values.dtype.itemsize
    amount = m.read(i.operands[2], "u32", threads)
    beyond = amount >= bits
    amount = np.minimum(amount, bits - 1).astype(values.dtype)
    if i.opcode[0] == "shl":
        shifted = np.where(beyond, 0, values << amount)
    else:
        shifted = values >> amount if values.dtype.kind == "i" else np.where(beyond, 0, values >> amount)
    m.write(i.operands[0], shifted.astype(values.dtype), threads)


def _bit_length(values: np.ndarray) -> np.ndarray:
    return np.array([int(x).bit_length() for x in values], np.int64)


_ONE_OPERAND: Dict[str, Callable[[np.ndarray], np.ndarray]] = {
    "neg": np.negative,
    "not": np.invert,
    "abs": np.abs,
    "sqrt": np.sqrt,
    "rcp": np.reciprocal,
    "rsqrt": lambda x: (1 / np.sqrt(x.astype(np.float64))).astype(x.dtype),
    "ex2": lambda x: np.exp2(x.astype(np.float64)).astype(x.dtype),
    "lg2": lambda x: np.log2(x.astype(np.float64)).astype(x.dtype),
    "sin": lambda x: np.sin(x.astype(np.float64)).astype(x.dtype),
    "cos": lambda x: np.cos(x.astype(np.float64)).astype(x.dtype),
    "tanh": lambda x: np.tanh(x.astype(np.float64)).astype(x.dtype),
}


@_family(*_ONE_OPERAND)
def _one_operand(m: "Machine", i: Instruction, threads: Threads) -> None:
    values = m.read(i.operands[1], i.opcode[-1], threads)
    computed = _ONE_OPERAND[i.opcode[0]](values)
    if i.opcode[0] in ("rcp", "rsqrt") and "approx" in i.opcode and values.dtype == np.float64:
        # The hardware's gross approximation: the low half of the bits is zero.
        computed = (computed.view(np.uint64) & np.uint64(0xFFFFFFFF00000000)).view(np.float64)
    m.write(i.operands[0], computed, threads)


@_family("popc", "clz", "brev", "bfind")
def _count_bits(m: "Machine", i: Instruction, threads: Threads) -> None:
    values = m.read(i.operands[1], i.opcode[-1], threads)
    bits = 8 * values.dtype.itemsize
    if i.opcode[0] == "popc":
        counted = np.array([int(x).bit_count() for x in values], np.uint32)
    elif i.opcode[0] == "clz":
        counted = (bits - _bit_length(values)).astype(np.uint32)
    elif i.opcode[0] == "brev":
        counted = np.array([int(f"{int(x):0{bits}b}"[::-1], 2) for x in values], values.dtype)
    else:
        if values.dtype.kind != "u":
            raise _unknown(i)
        highest = _bit_length(values) - 1
        shift = np.where(highest >= 0, bits - 1 - highest, -1)
        counted = (shift if "shiftamt" in i.opcode else highest).astype(np.int32)
    m.write(i.operands[0], counted, threads)


@_family("bfi", "bfe")
def _bit_field(m: "Machine", i: Instruction, threads: Threads) -> None:
    kind = i.opcode[-1]
    bits = 8 * number_type(kind).itemsize
    if not all(isinstance(x, Immediate) for x in i.operands[-2:]) or kind[0] == "s":
        raise _unknown(i)
    position, length = (x.integer for x in i.operands[-2:])
    mask = (1 << min(length, bits - position)) - 1
    word = number_type(kind).type
    if i.opcode[0] == "bfe":
        field = m.read(i.operands[1], kind, threads) >> word(position) & word(mask)
    else:
        inserted = (m.read(i.operands[1], kind, threads) & word(mask)) << word(position)
        cleared = m.read(i.operands[2], kind, threads) & word(~(mask << position) % 2**bits)
        field = inserted | cleared
    m.write(i.operands[0], field, threads)


@_family("lop3")
def _three_bits(m: "Machine", i: Instruction, threads: Threads) -> None:
    a, b, c = (m.read(x, "b32", threads) for x in i.operands[1:4])
    result = np.zeros(np.broadcast(a, b, c).shape, np.uint32)
    for row in range(8):
        if i.operands[4].integer >> row & 1:
            chosen = [x if row >> place & 1 else ~x for place, x in ((2, a), (1, b), (0, c))]
            result |= chosen[0] & chosen[1] & chosen[2]
    m.write(i.operands[0], result, threads)


@_family("prmt")
def _permute_bytes(m: "Machine", i: Instruction, threads: Threads) -> None:
    if len(i.opcode) != 2 or not isinstance(i.operands[3], Immediate):
        raise _unknown(i)
    shape = m.indices(threads).shape
    words = [np.broadcast_to(m.read(x, "b32", threads), shape) for x in i.operands[1:3]]
    table = np.concatenate([np.ascontiguousarray(x).view(np.uint8).reshape(-1, 4) for x in words], 1)
    selectors = [i.operands[3].integer >> 4 * place & 15 for place in range(4)]
    if any(selector > 7 for selector in selectors):
        raise _unknown(i)
    m.write(i.operands[0], np.ascontiguousarray(table[:, selectors]).view(np.uint32)[:, 0], threads)


@_family("shf")
def _funnel_shift(m: "Machine", i: Instruction, threads: Threads) -> None:
    low, high = (m.read(x, "b32", threads).astype(np.uint64) for x in i.operands[1:3])
    amount = m.read(i.operands[3], "u32", threads).astype(np.uint64)
    amount = amount & np.uint64(31) if "wrap" in i.opcode else np.minimum(amount, np.uint64(32))
    both = high << np.uint64(32) | low
    shifted = both << amount >> np.uint64(32) if i.opcode[1] == "l" else both >> amount
    m.write(i.operands[0], shifted.astype(np.uint32), threads)
