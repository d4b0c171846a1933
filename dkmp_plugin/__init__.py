"""Dilated message-passing potentials for torchmd-net and OpenMM.

Importing this package is cheap: it loads neither torch nor OpenMM. It makes sure that torchmd-net,
whenever it is imported, knows the DKMP architectures (see ``dkmp_plugin._autoload``).
"""

from dkmp_plugin._autoload import install as _install

__version__ = "0.1.0"

_install()
