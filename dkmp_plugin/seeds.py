"""Seeds of random numbers that mean the same in every program."""

_LARGEST = 2**31 - 1  # of OpenMM, which keeps 32 bits with a sign
# Far from those of other runs, which count up from a small number.
_SEED_FOR_ZERO = _LARGEST


def check_seed(seed: int) -> int:
    """A seed that every program takes, as it was given.

    Raises:
        ValueError: it is negative or has more than 31 bits.
    """
    if not 0 <= seed <= _LARGEST:
        raise ValueError(f"seed: {seed} was given, a whole number from 0 to {_LARGEST} is expected")
    return seed


def openmm_seed(seed: int) -> int:
    """The number to give to OpenMM, which takes 0 for another seed at every call.

    Raises:
        ValueError: see :func:`check_seed`.
    """
    return check_seed(seed) or _SEED_FOR_ZERO
