"""Files to samples: the datasets this package adds to torchmd-net.

``REGISTRY`` maps the names that ``dataset:`` accepts in a torchmd-train YAML file to their classes.
"""

from typing import Dict

from dkmp_plugin.datasets.adk import DKMPAdK
from dkmp_plugin.datasets.labels_hdf5 import DKMPHDF5
from dkmp_plugin.datasets.misato import DKMPMISATO
from dkmp_plugin.datasets.trajectory import DKMPTrajectory

REGISTRY: Dict[str, type] = {
    "DKMPHDF5": DKMPHDF5,
    "DKMPAdK": DKMPAdK,
    "DKMPTrajectory": DKMPTrajectory,
    "DKMPMISATO": DKMPMISATO,
}

__all__ = ["DKMPHDF5", "DKMPMISATO", "REGISTRY", "DKMPAdK", "DKMPTrajectory"]
