"""Import hook that extends torchmd-net with the DKMP architectures, however it is started.

torchmd-net 3.1 has no plug-in point. ``dkmp_plugin.pth`` (and ``dkmp_plugin.start``, PEP 829) run
:func:`install` at interpreter start; it puts one finder in front of ``sys.meta_path`` that waits for
the torchmd-net modules named in ``_EXTENDED_MODULES`` and extends each right after it has executed.
This module runs in every Python process of the environment: standard library only, nothing heavy.

Set ``DKMP_PLUGIN_AUTOLOAD=0`` to switch the hook off.
"""

import os
import sys

# torchmd-net module -> function of dkmp_plugin.training.registration that extends it
_EXTENDED_MODULES = {
    "torchmdnet.models": "extend_models",
    "torchmdnet.models.output_modules": "extend_output_modules",
    "torchmdnet.models.model": "extend_model_factory",
    "torchmdnet.loss": "extend_losses",
    "torchmdnet.module": "extend_lightning_module",
    "torchmdnet.data": "extend_data_module",
    "torchmdnet.datasets": "extend_datasets",
    "torchmdnet.utils": "extend_configuration_files",
    "torchmdnet.scripts.train": "extend_command_line",
}
_extended: set[str] = set()


def _report(module_name, error):
    """A broken extension is said loudly, but must not break torchmd-net's own models."""
    sys.stderr.write(
        f"dkmp_plugin: could not extend {module_name}: {type(error).__name__}: {error}\n"
        "dkmp_plugin: the DKMP models may be unavailable in this process. torchmd-net >=3.1,<4 is "
        "supported; DKMP_PLUGIN_AUTOLOAD=0 switches this hook off.\n"
    )


def _extend(module):
    # Keyed by identity of the namespace: importlib.reload executes the same module again.
    try:
        from dkmp_plugin.training import registration

        getattr(registration, _EXTENDED_MODULES[module.__name__])(module)
        _extended.add(module.__name__)
    except Exception as error:
        _report(module.__name__, error)


class _TorchMDNetFinder:
    """Meta-path finder: delegates to the others and wraps the loader's ``exec_module``."""

    @classmethod
    def find_spec(cls, name, path=None, target=None):
        if name not in _EXTENDED_MODULES:
            return None
        for finder in sys.meta_path:
            if finder is cls or not hasattr(finder, "find_spec"):
                continue
            spec = finder.find_spec(name, path, target)
            if spec is None:
                continue
            loader = spec.loader
            execute = getattr(loader, "exec_module", None)
            if execute is not None:

                def exec_module(module, _execute=execute):
                    _execute(module)
                    _extend(module)

                # On the instance: the loader keeps its type, so resources and pickling still work.
                vars(loader)["exec_module"] = exec_module
            return spec
        return None


def installed():
    """Whether the hook is active in this process."""
    return _TorchMDNetFinder in sys.meta_path


def extended_modules():
    """Names of the torchmd-net modules extended so far in this process."""
    return frozenset(_extended)


def install():
    """Put the hook in place (idempotent) and extend what is already imported."""
    if os.environ.get("DKMP_PLUGIN_AUTOLOAD", "1") == "0" or installed():
        return
    sys.meta_path.insert(0, _TorchMDNetFinder)
    for name in _EXTENDED_MODULES:
        module = sys.modules.get(name)
        if module is not None and not getattr(module.__spec__, "_initializing", False):
            _extend(module)
