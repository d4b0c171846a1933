"""Labelled structures of one file, whatever its format."""

from pathlib import Path
from typing import Optional, Union

from dkmp_plugin.datasets.deepmd import read_deepmd
from dkmp_plugin.datasets.extxyz import read_extxyz
from dkmp_plugin.datasets.file_selections import StructureFile, split_selection
from dkmp_plugin.datasets.label_file import read_label_file, structures_of
from dkmp_plugin.datasets.labelled_structures import LabelledStructures
from dkmp_plugin.datasets.npz import SGDML_KEYS, read_npz

_FORMATS = "extended XYZ (.xyz, .extxyz), .npz, a label file (.h5, .hdf5) or a folder of DeePMD arrays"
_XYZ_SUFFIXES = (".xyz", ".extxyz")
_HDF5_SUFFIXES = (".h5", ".hdf5")


def read_labelled(
    name: Union[str, Path],
    energy_unit: Optional[str] = None,
    energy_key: Optional[str] = None,
    forces_key: Optional[str] = None,
    stress_key: Optional[str] = None,
) -> LabelledStructures:
    """Structures with energies and forces.

    Args:
        name: ``FILE`` or ``FILE@start:stop:step``; its format is known by its ending.
        energy_unit: Unit of the energies, where the format leaves it open: needed for ``.npz``; eV where
            extended XYZ is not told; forces are in it per Å.
        energy_key: Name of the energies in extended XYZ, ``energy`` by default.
        forces_key: Name of the forces, ``forces`` by default.
        stress_key: Name of the stresses, which are not read by default.

    Raises:
        ValueError: an unknown format, a unit or names where the format has its own, or as the readers.
    """
    file, selection = split_selection(str(name))
    path = Path(file).expanduser()
    if not path.exists():
        raise ValueError(f"{path}: no such file or folder; {_FORMATS} is expected")
    suffix = path.suffix.lower()
    keys = {"energy_key": energy_key, "forces_key": forces_key, "stress_key": stress_key}
    given = [key for key, value in keys.items() if value is not None]
    if given and suffix not in _XYZ_SUFFIXES:
        raise ValueError(f"{', '.join(given)} was given, but {path} is not in extended XYZ; leave it out")
    structures: StructureFile
    if suffix in _XYZ_SUFFIXES:
        structures = read_extxyz(
            path, energy_unit or "eV", energy_key or "energy", forces_key or "forces", stress_key
        )
    elif suffix == ".npz":
        if energy_unit is None:
            raise ValueError(f"{path}: .npz files do not say the unit of their energies; give energy_unit")
        structures = read_npz(path, energy_unit, SGDML_KEYS)
    elif energy_unit is not None and (path.is_dir() or suffix in _HDF5_SUFFIXES):
        raise ValueError(f"energy_unit: {energy_unit!r} was given, but {path} has its own; leave it out")
    elif path.is_dir():
        structures = read_deepmd(path)
    elif suffix in _HDF5_SUFFIXES:
        structures = structures_of(read_label_file(path))
    else:
        raise ValueError(f"{path}: {_FORMATS} is expected; convert it, for instance with ASE")
    return structures[selection]
