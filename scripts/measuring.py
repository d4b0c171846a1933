"""Time and memory of what the benchmarks compare."""

import ctypes
import gc
import statistics
import time
from pathlib import Path
from typing import Any, Callable, Dict, List, Mapping, Optional


def interleaved(
    contestants: Dict[str, Callable[[], Any]],
    rounds: int,
    follow_themselves: bool = False,
    clock: Callable[[], float] = time.perf_counter,
    fewer_rounds: Optional[Mapping[str, int]] = None,
) -> Dict[str, List[float]]:
    """Milliseconds of every contestant in every round, after one round of warm-up.

    As in timeit, Python's garbage collector waits for the end of a round: none pays for another.

    Args:
        contestants: What is measured, by name.
        rounds: Number of rounds that count.
        follow_themselves: Whether a contestant runs twice in its turn and the second run counts, as in a
            simulation, where each step follows its like. The first pays for the memory that the contestant
            before has left to malloc: up to 20 ms for hundreds of MB.
        clock: Seconds that have passed, as ``time.perf_counter`` or ``time.process_time``.
        fewer_rounds: Numbers of rounds of slow contestants, by name.
    """
    times: Dict[str, List[float]] = {name: [] for name in contestants}
    gc.disable()
    for round_index in range(rounds + 1):
        for name, run in contestants.items():
            if round_index > (fewer_rounds or {}).get(name, rounds):
                continue
            if follow_themselves:
                run()
            start = clock()
            run()
            if round_index > 0:
                times[name].append((clock() - start) * 1e3)
        gc.collect()
    gc.enable()
    return times


def row(name: str, times: List[float]) -> str:
    """A line of a table: median [minimum, maximum] of times in milliseconds."""
    return f"{name:32s} {statistics.median(times):9.2f} [{min(times):.2f}, {max(times):.2f}] ms"


def resident_memory(field: str = "VmRSS") -> float:
    """``VmRSS`` (now) or ``VmHWM`` (peak) of this process in MiB (Linux)."""
    for line in Path("/proc/self/status").read_text().splitlines():
        if line.startswith(field):
            return int(line.split()[1]) / 1024
    raise SystemExit(f"/proc/self/status has no {field}; memory is measured on Linux only")


def peak_rise(run: Callable[[], Any]) -> float:
    """MiB by which the peak of resident memory during a call exceeds what was resident before (Linux)."""
    # Memory that malloc holds back for reuse would hide the rise.
    ctypes.CDLL("libc.so.6").malloc_trim(0)
    # "5" resets the peak: importing needs more memory than small inputs.
    Path("/proc/self/clear_refs").write_text("5")
    before = resident_memory("VmRSS")
    run()
    return resident_memory("VmHWM") - before
