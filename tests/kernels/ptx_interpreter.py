"""Runs NVRTC's PTX on numpy: all threads of the grid side by side, without a GPU.

``interpret(text, kernel, macros, grid, block, args, shared, architecture)`` takes what
:func:`tests.kernels.emulate.emulate` takes. Of all threads that can run, those at the lowest place of the
text run the next instruction together. What it finds, in the code that GPUs compile rather than in g++'s:
accesses outside of the arrays and of shared memory, misaligned (vector) accesses, barriers that not all
threads of a block reach, shuffles and votes that not all lanes of their mask reach, wrong results. Unknown
instructions are errors.
"""

from typing import Dict, List, Mapping, Optional, Sequence, Tuple, Union

import numpy as np
import torch

from tests.kernels.emulate import Argument, KernelError
from tests.kernels.nvrtc import compile_ptx
from tests.kernels.ptx_instructions import HANDLERS
from tests.kernels.ptx_parser import (
    Address,
    Immediate,
    Instruction,
    Kernel,
    Name,
    Operand,
    Register,
    number_type,
    parse_kernel,
)

__all__ = ["Machine", "interpret"]

WARP = 32
_GAP = 512  # bytes that belong to nobody between two arrays
_MAX_STEPS = 5_000_000
_RUNS, _AT_BARRIER, _AT_COLLECTIVE, _ENDED = range(4)
Threads = Union[slice, np.ndarray]


class Machine:
    """State of a launch: registers, memories, and where every thread is."""

    def __init__(self, kernel: Kernel, grid: int, block: int, shared: int, memory: "Memory") -> None:
        if block % WARP:
            raise ValueError(f"block has {block} threads, expected a multiple of {WARP}")
        self.kernel, self.block, self.grid = kernel, block, grid
        self.count = grid * block
        self.thread = np.arange(self.count) % block
        self.block_of = np.arange(self.count) // block
        self.place = np.zeros(self.count, np.int64)
        self.state = np.full(self.count, _RUNS, np.int8)
        self.registers = {
            name: np.zeros(self.count, number_type(kind)) for name, kind in kernel.registers.items()
        }
        self.memory = memory
        self.shared_symbols, used = {}, 0
        for symbol, size in kernel.static_shared.items():
            self.shared_symbols[symbol] = used
            used += -(-size // 16) * 16
        self.dynamic_shared = used
        # All bits set: NaN and -1 where nobody wrote.
        self.shared = np.full((grid, used + shared), 0xFF, np.uint8)
        self.local = np.full((self.count, kernel.local_bytes), 0xFF, np.uint8)
        self.barrier_values = np.zeros(self.count, np.int64)
        self.parameters: Dict[str, np.ndarray] = {}
        self.now = 0

    # ---- operands ----------------------------------------------------------------------------------------

    def read(self, operand: Operand, kind: str, threads: Threads) -> np.ndarray:
        """Values of an operand for the given threads, as the PTX type ``kind``; constants have length one."""
        wanted = number_type(kind)
        if isinstance(operand, Register):
            values = self.registers[operand.name][threads]
            if values.dtype == wanted:
                return values
            if values.dtype.itemsize == wanted.itemsize:
                return np.ascontiguousarray(values).view(wanted)
            if values.dtype.kind in "ui" and wanted.kind in "ui" and values.dtype.itemsize > wanted.itemsize:
                return values.astype(wanted)  # the low bits
            raise NotImplementedError(f"register {operand.name} of {values.dtype} read as {kind}")
        if isinstance(operand, Immediate):
            return self._constant(operand, wanted)
        if isinstance(operand, Name):
            return self._special(operand.name, threads).astype(wanted)
        raise NotImplementedError(f"operand {operand}")

    @staticmethod
    def _constant(operand: Immediate, wanted: np.dtype) -> np.ndarray:
        if operand.floating:
            bits = np.array([operand.integer], np.uint32 if operand.floating == "f32" else np.uint64)
            # Untyped moves take the bits; newer compilers hold floats in integer registers.
            as_float = bits.view(number_type(operand.floating))
            return as_float.astype(wanted) if wanted.kind == "f" else bits.view(wanted)
        if wanted.kind == "b":
            return np.array([operand.integer != 0])
        if wanted.kind == "f":
            return np.array([operand.integer], wanted)
        unsigned = np.dtype(f"u{wanted.itemsize}")
        return np.array([operand.integer % 2 ** (8 * wanted.itemsize)], unsigned).view(wanted)

    def _special(self, name: str, threads: Threads) -> np.ndarray:
        if name == "%tid.x":
            return self.thread[threads]
        if name == "%ctaid.x":
            return self.block_of[threads]
        if name == "%laneid":
            return self.thread[threads] % WARP
        constants = {"%ntid.x": self.block, "%nctaid.x": self.grid, "WARP_SZ": WARP}
        constants.update({f"%{what}.{axis}": 0 for what in ("tid", "ctaid") for axis in "yz"})
        constants.update({f"%{what}.{axis}": 1 for what in ("ntid", "nctaid") for axis in "yz"})
        constants["dkmp_shared_memory"] = self.dynamic_shared
        constants.update(self.shared_symbols)
        if name.startswith("__local_depot"):
            return np.array([0])
        if name not in constants:
            raise NotImplementedError(f"operand {name}")
        return np.array([constants[name]])

    def write(self, operand: Operand, values: np.ndarray, threads: Threads) -> None:
        """Sets a register; values of another type of the same size keep their bits."""
        if isinstance(operand, Name) and operand.name == "_":
            return
        if not isinstance(operand, Register):
            raise NotImplementedError(f"destination {operand}")
        register = self.registers[operand.name]
        values = np.asarray(values)
        if values.dtype != register.dtype:
            if values.dtype.itemsize == register.dtype.itemsize and register.dtype.kind != "b":
                values = np.ascontiguousarray(values).view(register.dtype)
            elif values.dtype.kind == "i" and register.dtype.kind == "u":
                wide = np.dtype(f"i{register.dtype.itemsize}")  # a narrow load extends the sign
                values = values.astype(wide).view(register.dtype)
            elif values.dtype.kind == "u" and register.dtype.kind == "u":
                values = values.astype(register.dtype)
            else:
                raise NotImplementedError(f"{values.dtype} written to {operand.name} of {register.dtype}")
        register[threads] = values

    def write_pair(self, operand: Operand, values: np.ndarray, threads: Threads) -> None:
        """Sets the predicate of a pair %r|%p, where there is one."""
        if isinstance(operand, Register) and operand.pair is not None:
            self.registers[operand.pair][threads] = values

    def address(self, operand: Operand, threads: Threads, size: int, count: int) -> np.ndarray:
        """Byte addresses (one per thread); misaligned ones are an error."""
        if not isinstance(operand, Address):
            raise NotImplementedError(f"address {operand}")
        base = self.read(operand.base, "s64" if self._is_wide(operand.base) else "s32", threads).astype(
            np.int64
        )
        start = np.broadcast_to(base + operand.offset, self.indices(threads).shape)
        if (start % (size * count)).any():
            self.fail(f"misaligned access of {size * count} bytes", threads)
        return start

    def _is_wide(self, operand: Operand) -> bool:
        return not isinstance(operand, Register) or self.registers[operand.name].dtype.itemsize == 8

    def indices(self, threads: Threads) -> np.ndarray:
        """Numbers of the threads."""
        return np.arange(self.count)[threads] if isinstance(threads, slice) else threads

    def fail(self, what: str, threads: Threads) -> None:
        """Raises with the instruction and the first of the threads."""
        first = self.indices(threads)[0]
        raise KernelError(
            f"{what}: {self.kernel.instructions[self.now].text} "
            f"[block {self.block_of[first]}, thread {self.thread[first]}]"
        )

    # ---- control -----------------------------------------------------------------------------------------

    def jump(self, label: str, threads: Threads) -> None:
        """Continues at a label."""
        self.place[threads] = self.kernel.labels[label]

    def end(self, threads: Threads) -> None:
        """The threads have returned."""
        self.state[threads] = _ENDED

    def arrive_at_barrier(self, threads: Threads, values: Optional[np.ndarray] = None) -> np.ndarray:
        """Parks threads at the block's barrier; returns the threads of blocks that are complete."""
        self.state[threads] = _AT_BARRIER
        self.place[threads] = self.now
        if values is not None:
            self.barrier_values[threads] = values
        waiting = (self.state == _AT_BARRIER).reshape(self.grid, self.block)
        complete = np.nonzero(waiting.all(1))[0]
        released = np.nonzero(np.isin(self.block_of, complete))[0]
        if len(released) and (self.place[released] != self.now).any():
            self.fail("threads of a block wait at different barriers", released)
        self.state[released] = _RUNS
        self.place[released] = self.now + 1
        return released

    def arrive_at_collective(self, threads: Threads, mask: Operand) -> np.ndarray:
        """Parks lanes; returns those whose whole mask has arrived at this instruction."""
        arrived = np.zeros(self.count, bool)
        arrived[threads] = True
        arrived |= (self.state == _AT_COLLECTIVE) & (self.place == self.now)
        candidates = np.nonzero(arrived)[0]
        masks = np.broadcast_to(self.read(mask, "u32", candidates), candidates.shape).astype(np.uint64)
        lanes = (candidates % WARP).astype(np.uint64)
        if not ((masks >> lanes) & 1).all():
            self.fail("the mask leaves out the lane that calls", candidates)
        by_lane = np.zeros(self.count, np.uint64)
        by_lane[candidates] = masks
        present = np.zeros(self.count, np.uint64)
        # A lane counts for those with the same mask only.
        table, given = by_lane.reshape(-1, WARP), arrived.reshape(-1, WARP)
        same = (table[:, :, None] == table[:, None, :]) & given[:, None, :]
        present = (same * (np.uint64(1) << np.arange(WARP, dtype=np.uint64))).sum(2).reshape(-1)
        ready = candidates[(present[candidates] & masks) == masks]
        self.state[candidates] = _AT_COLLECTIVE
        self.place[candidates] = self.now
        self.state[ready] = _RUNS
        self.place[ready] = self.now + 1
        return ready

    def run(self) -> int:
        """Runs until all threads have returned; the number of instructions executed."""
        with np.errstate(all="ignore"):
            for step in range(_MAX_STEPS):
                if not self._step():
                    return step
        raise KernelError(f"no end after {_MAX_STEPS} instructions")

    def _step(self) -> bool:
        runs = self.state == _RUNS
        if not runs.any():
            if (self.state != _ENDED).any():
                self._report_stuck()
            return False
        self.now = int(self.place[runs].min())
        here = runs & (self.place == self.now)
        threads: Threads = slice(None) if here.all() else np.nonzero(here)[0]
        if self.now >= len(self.kernel.instructions):
            self.end(threads)
            return True
        instruction = self.kernel.instructions[self.now]
        self.place[threads] += 1
        if instruction.guard is not None:
            holds = self.registers[instruction.guard][threads] != instruction.guard_negated
            if not holds.all():
                threads = self.indices(threads)[holds]
                if not len(threads):
                    return True
        self._execute(instruction, threads)
        return True

    def _execute(self, instruction: Instruction, threads: Threads) -> None:
        handler = HANDLERS.get(instruction.opcode[0])
        if handler is None:
            raise NotImplementedError(f"PTX instruction {instruction.text}")
        handler(self, instruction, threads)

    def _report_stuck(self) -> None:
        waiting = np.nonzero((self.state != _RUNS) & (self.state != _ENDED))[0]
        told = [
            f"thread {self.thread[t]} of block {self.block_of[t]} at "
            f"{self.kernel.instructions[self.place[t]].text}"
            for t in waiting[:4]
        ]
        ended = int((self.state == _ENDED).sum())
        raise KernelError(f"threads wait for ever: {ended} of {self.count} have returned, {'; '.join(told)}")


class Memory:
    """The arrays of a launch, apart from each other, in one address space."""

    def __init__(self, args: Sequence[Argument]) -> None:
        self.places: List[Tuple[torch.Tensor, int]] = []
        at = _GAP
        for argument in args:
            if not isinstance(argument, torch.Tensor):
                continue
            self.places.append((argument, at))
            at += -(-argument.numel() * argument.element_size() // _GAP) * _GAP + _GAP
        self.bytes = np.zeros(at, np.uint8)
        self.owned = np.zeros(at, bool)
        for tensor, start in self.places:
            raw = np.frombuffer(tensor.numpy().tobytes(), np.uint8)
            self.bytes[start : start + len(raw)] = raw
            self.owned[start : start + len(raw)] = True

    def pointer(self, tensor: torch.Tensor) -> int:
        """Address of a tensor; null for an empty one."""
        return next((at for given, at in self.places if given is tensor and tensor.numel()), 0)

    def copy_back(self) -> None:
        """Writes the arrays back into the tensors."""
        for tensor, start in self.places:
            size = tensor.numel() * tensor.element_size()
            if size:
                raw = torch.frombuffer(bytearray(self.bytes[start : start + size]), dtype=tensor.dtype)
                tensor.copy_(raw.view(tensor.shape))


def interpret(
    source: str,
    kernel: str,
    macros: Mapping[str, object],
    grid: int,
    block: int,
    args: Sequence[Argument],
    shared: int = 0,
    architecture: int = 75,
) -> int:
    """Compiles a kernel with NVRTC and interprets its PTX; tensors among ``args`` are changed in place.

    Args:
        source: the kernel's text.
        kernel: name of the kernel in it.
        macros: names and values of the macros that choose the instance.
        grid: number of blocks.
        block: number of threads per block, a multiple of 32.
        args: tensors (contiguous, CPU), None, ints and floats, in the order of the kernel's parameters.
        shared: bytes of dynamic shared memory.
        architecture: compute capability, for example 75.

    Returns:
        Number of instructions executed (each by any number of threads).

    Raises:
        KernelError: a check found a fault.
        NotImplementedError: an instruction that the interpreter does not know.
    """
    parsed = parse_kernel(compile_ptx(source, macros, architecture), kernel)
    if len(parsed.parameters) != len(args):
        raise ValueError(f"{kernel} takes {len(parsed.parameters)} arguments, {len(args)} were given")
    memory = Memory(args)
    machine = Machine(parsed, grid, block, shared, memory)
    for (name, kind), argument in zip(parsed.parameters, args, strict=True):
        value = memory.pointer(argument) if isinstance(argument, torch.Tensor) else argument or 0
        machine.parameters[name] = np.array([value]).astype(number_type(kind))
    steps = machine.run()
    memory.copy_back()
    return steps
