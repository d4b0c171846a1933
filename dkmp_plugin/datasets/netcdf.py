"""Whether a NetCDF file is as long as its header says: mdtraj reads zeros for what was cut."""

from pathlib import Path

# The classic format, of 32-bit and 64-bit offsets, which Amber writes. NetCDF 4 is HDF5, which checks itself.
_CLASSIC = (b"CDF\x01", b"CDF\x02")


def check_netcdf_is_whole(path: Path) -> None:
    """Refuse a NetCDF trajectory of the classic format whose frames are incomplete.

    Args:
        path: The file, of Amber or whatever keeps to its convention.

    Raises:
        ValueError: it is truncated or damaged.
    """
    from scipy.io import netcdf_file

    with open(path, "rb") as file:
        if file.read(4) not in _CLASSIC:
            return
    try:
        # Maps the frames that the header announces, and reads none of them.
        netcdf_file(str(path), "r", mmap=True).close()
    except (ValueError, IndexError, TypeError, KeyError) as error:
        raise ValueError(
            f"{path} is truncated or damaged: it is shorter than its header says ({error}); copy the file "
            "again, or cut it to whole frames (cpptraj)"
        ) from error
