"""Files to samples: the datasets this package adds to torchmd-net.

``REGISTRY`` maps the names that ``dataset:`` accepts in a torchmd-train YAML file to their classes.
"""

from typing import Dict

from dkmp_plugin.datasets.adk import DKMPAdK
from dkmp_plugin.datasets.chignolin import DKMPChignolin
from dkmp_plugin.datasets.deepmd import DKMPDeePMD
from dkmp_plugin.datasets.extxyz import DKMPExtXYZ
from dkmp_plugin.datasets.labels_hdf5 import DKMPHDF5
from dkmp_plugin.datasets.misato import DKMPMISATO
from dkmp_plugin.datasets.npz import DKMPMD22, DKMPNPZ
from dkmp_plugin.datasets.trajectory import DKMPTrajectory

REGISTRY: Dict[str, type] = {
    "DKMPHDF5": DKMPHDF5,
    "DKMPNPZ": DKMPNPZ,
    "DKMPExtXYZ": DKMPExtXYZ,
    "DKMPDeePMD": DKMPDeePMD,
    "DKMPMD22": DKMPMD22,
    "DKMPChignolin": DKMPChignolin,
    "DKMPAdK": DKMPAdK,
    "DKMPTrajectory": DKMPTrajectory,
    "DKMPMISATO": DKMPMISATO,
}

__all__ = [
    "DKMPHDF5",
    "DKMPMD22",
    "DKMPMISATO",
    "DKMPNPZ",
    "REGISTRY",
    "DKMPAdK",
    "DKMPChignolin",
    "DKMPDeePMD",
    "DKMPExtXYZ",
    "DKMPTrajectory",
]
