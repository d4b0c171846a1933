"""What is installed, which backend works, and what is wrong: the text of ``dkmp info``."""

import json
import platform
from dataclasses import asdict
from pathlib import Path
from typing import List, Tuple, Union

from dkmp_plugin import __version__, _autoload
from dkmp_plugin.simulation.stack import installed_stack


def describe_installation() -> Tuple[str, bool]:
    """Describe versions, backend, operators and the torchmd-net hook.

    Returns:
        The text, and whether everything needed for training and simulation works.
    """
    stack = installed_stack()
    lines = [f"dkmp-plugin {__version__}, Python {platform.python_version()}"]
    lines += [f"  {package:12s} {found or 'not installed'}" for package, found in stack.versions.items()]
    problems: List[str] = [] if stack.backend else list(stack.problems)
    if stack.backend == "pythonforce":
        lines.append("stack:    latest")
        lines.append("backend:  PythonForce (no TorchForce: " + "; ".join(stack.problems) + ")")
    elif stack.torchforce:
        lines.append("stack:    torchforce")
        lines.append("backend:  TorchForce on " + ", ".join(_torchforce_platforms(problems)))
    else:
        lines.append("stack:    no backend works")
    lines.append("ops:      " + _operators())
    lines.append("GPU:      " + _gpu())
    lines.append("training: " + _hook(problems))
    lines += [f"problem:  {problem}" for problem in problems]
    if problems:
        lines.append("remedy:   pip install 'dkmp-plugin[torchforce]'")
    return "\n".join(lines), not problems


def _torchforce_platforms(problems: List[str]) -> List[str]:
    from dkmp_plugin.simulation.stack import require_torchforce

    require_torchforce()
    import openmm

    if not any("OpenMMTorch" in name for name in openmm.pluginLoadedLibNames):
        problems.append(
            "OpenMM's Torch plugin did not load: " + "; ".join(openmm.Platform.getPluginLoadFailures())
        )
    return [openmm.Platform.getPlatform(i).getName() for i in range(openmm.Platform.getNumPlatforms())]


def _operators() -> str:
    from dkmp_plugin import ops

    status = ops.status()
    if status.native:
        return f"native ({status.library}, {status.compiler})"
    return f"pure-ATen reference, slower ({status.why_not})"


def _gpu() -> str:
    from dkmp_plugin import ops
    from dkmp_plugin.device import why_no_gpu

    reason = ops.why_no_cuda()
    if reason is not None:
        return f"no CUDA kernels: {reason}"
    obstacle = why_no_gpu()
    return "CUDA kernels can run" + ("" if obstacle is None else f", but {obstacle}")


def _hook(problems: List[str]) -> str:
    if not _autoload.installed():
        return "torchmd-net is not extended (DKMP_PLUGIN_AUTOLOAD=0)"
    import torchmdnet.models

    if "dkmp-c" not in torchmdnet.models.__all_models__:
        problems.append("the import hook did not extend torchmd-net; see the message on stderr")
        return "the hook failed"
    return "torchmd-train knows dkmp-c"


def describe_model(path: Union[str, Path]) -> str:
    """Describe an exported model or propagator, or what a training checkpoint would be exported as (JSON).

    Raises:
        ValueError: If the file is none of them.
    """
    from dkmp_plugin.simulation.model_source import read_info
    from dkmp_plugin.simulation.propagator_file import read_propagator_info

    propagator = read_propagator_info(path)
    if propagator is not None:
        return json.dumps({"model": "dkmp-r", **asdict(propagator)}, indent=1)
    return json.dumps(asdict(read_info(Path(path))), indent=1)
