"""Reads topologies and trajectories, in any format of mdtraj, and refuses what is damaged."""

import warnings
from pathlib import Path
from typing import Any, Iterator, List, Optional, Tuple, Union

import numpy as np

from dkmp_plugin.datasets.arguments import check_whole_number
from dkmp_plugin.datasets.atom_order import check_atom_order, check_xyz_order
from dkmp_plugin.datasets.bond_lengths import check_bonds
from dkmp_plugin.datasets.dcd import check_dcd_is_whole
from dkmp_plugin.datasets.netcdf import check_netcdf_is_whole
from dkmp_plugin.datasets.xyz import check_xyz_is_whole
from dkmp_plugin.optional import require
from dkmp_plugin.units import ANGSTROM_PER_NANOMETER

PathLike = Union[str, Path]

# Names of common selections; anything else is mdtraj's selection language.
SELECTIONS = {
    "full": "all",
    "backbone": "protein and (name N or name CA or name C or name O)",
    "heavy": "element != H",
    # Everything but solvent and the monatomic ions of the usual force fields.
    "protein+ligand": (
        "not water and not (resname NA or resname CL or resname K or resname SOD or resname CLA or "
        "resname POT or resname 'Na+' or resname 'Cl-' or resname 'K+')"
    ),
}
_CHUNK_FRAMES = 100
_HDF5_SUFFIXES = (".h5", ".hdf5", ".lh5")
# For formats of which mdtraj reads a truncated file without an error.
_CHECKS_OF_LENGTH = {
    ".dcd": check_dcd_is_whole,
    ".xyz": check_xyz_is_whole,
    **dict.fromkeys((".nc", ".netcdf", ".ncdf"), check_netcdf_is_whole),
}


def load_topology(path: PathLike) -> Any:
    """An mdtraj topology from any file mdtraj can read one from.

    Raises:
        ValueError: the file is missing or unreadable.
        MissingPackageError: mdtraj is not installed.
    """
    require("mdtraj", "reading topologies and trajectories")
    import mdtraj

    if not isinstance(path, (str, Path)):
        raise ValueError(f"topology: {path!r} was given, the name of one file is expected")
    path = Path(path)
    if not path.is_file():
        raise ValueError(f"{path}: no such file; a topology (PDB, PSF, prmtop, GRO, ...) is expected")
    try:
        with warnings.catch_warnings():
            # mdtraj comments on force-field details of the file that do not matter here.
            warnings.simplefilter("ignore")
            return mdtraj.load_topology(str(path))
    except Exception as error:
        # Every format of mdtraj has error types of its own.
        raise ValueError(f"{path} cannot be read as a topology: {error}") from error


def select_atoms(topology: Any, selection: str) -> np.ndarray:
    """Indices of the selected atoms, ascending.

    Args:
        topology: mdtraj topology.
        selection: ``full``, ``backbone`` (N, CA, C, O), ``heavy``, ``protein+ligand`` (no water, no ions), or
            an expression in mdtraj's selection language.

    Raises:
        ValueError: the expression is malformed or matches nothing.
    """
    if not isinstance(selection, str):
        raise ValueError(
            f"selection: {selection!r} was given, one of {', '.join(SELECTIONS)} or an expression in "
            "mdtraj's selection language is expected, such as 'index 0 to 2'"
        )
    expression = SELECTIONS.get(selection, selection)
    try:
        atoms = topology.select(expression)
    except Exception as error:
        # mdtraj's parser raises several types of its own.
        raise ValueError(
            f"selection: {selection!r} is neither one of {', '.join(SELECTIONS)} nor in mdtraj's selection "
            f"language ({error})"
        ) from error
    if len(atoms) == 0:
        raise ValueError(
            f"selection: {selection!r} matches none of the {topology.n_atoms} atoms, at least one is "
            "expected; correct it, or give the topology that it was written for"
        )
    return np.asarray(atoms)


def atomic_numbers(topology: Any, atoms: np.ndarray) -> np.ndarray:
    """Atomic numbers (n,) int64 of the chosen atoms.

    Raises:
        ValueError: the topology does not know an element.
    """
    elements = [topology.atom(int(index)).element for index in atoms]
    for index, element in zip(atoms, elements, strict=True):
        if element is None or element.atomic_number == 0:
            raise ValueError(
                f"atom {index} ({topology.atom(int(index))}) has no element; "
                "use a topology that states elements"
            )
    return np.array([element.atomic_number for element in elements], dtype=np.int64)


def read_frames(
    path: PathLike, topology: Any, atoms: np.ndarray, stride: int = 1, bonds: Optional[np.ndarray] = None
) -> Tuple[np.ndarray, np.ndarray, Optional[np.ndarray]]:
    """Positions of the chosen atoms in all frames; only these atoms are kept in memory.

    Args:
        path: trajectory in any format mdtraj reads.
        topology: mdtraj topology of the whole system.
        atoms: (n,) indices to keep.
        stride: keep every stride-th frame.
        bonds: (b, 2) indices of bonded atoms of the whole system, to check; see :func:`check_bonds`.

    Returns:
        positions (T, n, 3) in Å, float32; times (T,) in ps; boxes (T, 3, 3) in Å or None.

    Raises:
        ValueError: missing, truncated or unreadable file, another number or order of atoms than in the
            topology, NaN positions of the chosen atoms, an impossible stride, or as :func:`check_bonds`.
        MissingPackageError: PyTables is not installed, for HDF5 files of mdtraj.
    """
    check_whole_number("stride", stride, 1)
    path = Path(path)
    if not path.is_file():
        pattern = "; patterns are not expanded, name every file" if set("*?[") & set(path.name) else ""
        raise ValueError(f"{path}: no such file; a trajectory that mdtraj reads is expected{pattern}")
    if path.suffix.lower() in _HDF5_SUFFIXES:
        require("tables", f"reading {path}")
    check_is_whole = _CHECKS_OF_LENGTH.get(path.suffix.lower())
    if check_is_whole is not None:
        check_is_whole(path)
    if path.suffix.lower() == ".xyz":
        check_xyz_order(path, topology, atoms)
    positions: List[np.ndarray] = []
    times: List[np.ndarray] = []
    boxes: List[np.ndarray] = []
    num_frames = 0
    for chunk in _chunks(path, topology, stride):
        if num_frames == 0 and chunk.topology is not topology:
            check_atom_order(path, chunk.topology, topology, atoms)
        positions.append(ANGSTROM_PER_NANOMETER * chunk.xyz[:, atoms])
        # NetCDF gives masked arrays.
        times.append(np.ma.filled(chunk.time, 0.0))
        boxes.append(_boxes(chunk))
        finite = np.isfinite(positions[-1]).all(axis=(1, 2))
        if not finite.all():
            raise ValueError(
                f"{path}: frame {num_frames + int(np.argmin(finite))} holds NaN or infinite positions; "
                "leave it out"
            )
        if bonds is not None:
            box = boxes[-1] if boxes[-1].any(axis=(1, 2)).all() else None
            check_bonds(str(path), ANGSTROM_PER_NANOMETER * chunk.xyz, bonds, box, num_frames)
        num_frames += len(chunk)
    if not positions:
        raise ValueError(f"{path} holds no frames, at least one is expected; copy the file again")
    together = np.concatenate(positions).astype(np.float32)
    return together, np.concatenate(times), _box_of_every_frame(path, np.concatenate(boxes))


def _chunks(path: Path, topology: Any, stride: int) -> Iterator[Any]:
    """Pieces of a trajectory as mdtraj gives them, all atoms in nm."""
    import mdtraj

    try:
        for chunk in mdtraj.iterload(str(path), chunk=_CHUNK_FRAMES, top=topology, stride=stride):
            # Formats that hold a topology of their own are read with that.
            if chunk.n_atoms != topology.n_atoms:
                raise ValueError(f"it has {chunk.n_atoms} atoms")
            yield chunk
    except Exception as error:
        # Every format of mdtraj has error types of its own.
        raise ValueError(
            f"{path} cannot be read with a topology of {topology.n_atoms} atoms: {error}; check that both "
            "files belong together and that the trajectory is complete"
        ) from error


def _boxes(chunk: Any) -> np.ndarray:
    """Box vectors (T, 3, 3) in Å, zeros where there is none; programs also write boxes of 1 Å there."""
    if chunk.unitcell_vectors is None:
        return np.zeros((len(chunk), 3, 3), dtype=np.float32)
    vectors = ANGSTROM_PER_NANOMETER * np.nan_to_num(chunk.unitcell_vectors)
    vectors[np.abs(np.linalg.det(vectors)) <= 1.001] = 0
    return vectors.astype(np.float32)


def _box_of_every_frame(path: Path, boxes: np.ndarray) -> Optional[np.ndarray]:
    """Boxes (T, 3, 3), or None; warns where only some frames lack one."""
    has_box = boxes.any(axis=(1, 2))
    if has_box.any() and not has_box.all():
        warnings.warn(
            f"{path}: frame {int(np.argmin(has_box))} has no box, others have: all count as without, and "
            "molecules are not followed across its borders; give each frame its box, or leave those out",
            stacklevel=3,
        )
    return boxes if has_box.all() else None
