"""Prints registers and spilled bytes of every kernel for every architecture, as NVRTC's ptxas reports them.

``python -m tests.kernels.register_table`` needs no GPU. ``--architectures 75 90`` prints those only.
"""

import argparse
from typing import List, Sequence

from tests.kernels.instances import Macros, instances
from tests.kernels.nvrtc import ARCHITECTURES, Usage, resource_usage
from tests.kernels.sources import kernel_text

__all__ = ["main", "rows"]


def describe(macros: Macros) -> str:
    """Macros in words, for example ``float dual head_width=32``."""
    rest = {name.removeprefix("DKMP_").lower(): value for name, value in macros.items()}
    words = [str(rest.pop("scalar", "")), "dual" if rest.pop("dual", 0) else "plain"]
    return " ".join([*words, *(f"{name}={value}" for name, value in rest.items())])


def _cell(usage: Usage) -> str:
    spilled = usage.spill_stores + usage.spill_loads
    return f"{usage.registers}" + (f" SPILLS {spilled} B" if spilled else "")


def rows(architectures: Sequence[int]) -> List[List[str]]:
    """One row per kernel and instance: kernel, instance, static shared bytes, registers per architecture."""
    table = []
    for file, macros in instances():
        source = kernel_text(file)
        by_architecture = [resource_usage(source, macros, number) for number in architectures]
        for kernel in sorted(by_architecture[0]):
            usages = [usage[kernel] for usage in by_architecture]
            shared = max(usage.shared for usage in usages)
            table.append([kernel, describe(macros), str(shared), *map(_cell, usages)])
    return table


def main() -> None:
    """Prints the table as Markdown."""
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawTextHelpFormatter)
    parser.add_argument("--architectures", type=int, nargs="+", default=list(ARCHITECTURES))
    architectures = parser.parse_args().architectures
    header = ["kernel", "instance", "static shared B", *(f"sm_{number}" for number in architectures)]
    for cells in [header, ["---"] * len(header), *rows(architectures)]:
        print("| " + " | ".join(cells) + " |")


if __name__ == "__main__":
    main()
