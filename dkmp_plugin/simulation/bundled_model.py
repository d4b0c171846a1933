"""Where the model lies that ``MLPotential("dkmp")`` loads when it is given none."""

from pathlib import Path

BUNDLED_MODEL = Path(__file__).parent / "bundled" / "p_xylene.pt"
