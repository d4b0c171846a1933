"""Import hook that extends torchmd-net with the DKMP architectures, however it is started.

torchmd-net 3.1 has no plug-in point. ``dkmp_plugin.pth`` (and ``dkmp_plugin.start``, PEP 829) run
:func:`install` at interpreter start; it puts one finder in front of ``sys.meta_path`` that waits for
the torchmd-net modules named in ``_EXTENDED_MODULES`` and extends each right after it has executed.
This module runs in every Python process of the environment: standard library only, nothing heavy.

``python -m`` runs the code of a module in a namespace of its own, where no extension would reach it: as a
script, ``torchmdnet.scripts.train`` imports itself and calls ``main``.

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
_SCRIPT = "torchmdnet.scripts.train"
_RUN_AS_MODULE = f"""
if __name__ == "__main__":
    from {_SCRIPT} import main

    main()
"""


def _report(module_name, error):
    """A broken extension is said loudly, but must not break torchmd-net's own models."""
    sys.stderr.write(
        f"dkmp_plugin: could not extend {module_name}: {type(error).__name__}: {error}\n"
        "dkmp_plugin: the DKMP models may be unavailable in this process. torchmd-net >=3.1,<4 is "
        "supported; DKMP_PLUGIN_AUTOLOAD=0 switches this hook off.\n"
    )


def _extend(module):
    try:
        from dkmp_plugin.training import registration

        getattr(registration, _EXTENDED_MODULES[module.__name__])(module)
    except Exception as error:
        _report(module.__name__, error)


def _wrap(loader, name):
    """Let a loader extend the module that it executes; on the instance, so that it keeps its type."""
    execute, get_code = loader.exec_module, getattr(loader, "get_code", None)
    executing = False

    def exec_module(module):
        nonlocal executing
        executing = True
        try:
            execute(module)
        finally:
            executing = False
        _extend(module)

    vars(loader)["exec_module"] = exec_module
    if name != _SCRIPT or get_code is None:
        return

    def code_to_import_or_run(module_name):
        code = get_code(module_name)
        if executing or code is None:
            return code
        return compile(_RUN_AS_MODULE, code.co_filename, "exec")

    vars(loader)["get_code"] = code_to_import_or_run


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
            if hasattr(spec.loader, "exec_module"):
                _wrap(spec.loader, name)
            return spec
        return None


def installed():
    """Whether the hook is active in this process."""
    return _TorchMDNetFinder in sys.meta_path


def install():
    """Put the hook in place (idempotent) and extend what is already imported."""
    if os.environ.get("DKMP_PLUGIN_AUTOLOAD", "1") == "0" or installed():
        return
    sys.meta_path.insert(0, _TorchMDNetFinder)
    for name in _EXTENDED_MODULES:
        module = sys.modules.get(name)
        if module is not None and not getattr(module.__spec__, "_initializing", False):
            _extend(module)
