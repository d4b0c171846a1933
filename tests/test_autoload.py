"""The start-up hook: plugs in, stays out of the way, says when it fails."""

import os
import subprocess
import sys
import zipfile

from tests.conftest import ROOT


def run(program, **environment):
    return subprocess.run(
        [sys.executable, "-c", program],
        capture_output=True,
        text=True,
        timeout=300,
        env={**os.environ, **environment},
    )


def test_torchmdnet_knows_the_models_without_importing_the_plugin():
    done = run(
        "from torchmdnet.models import __all_models__ as names; assert {'dkmp-c', 'dkmp-r'} <= set(names)"
    )
    assert done.returncode == 0, done.stderr


def test_environment_variable_switches_the_hook_off():
    done = run(
        "import sys, torchmdnet.models as m; assert 'dkmp-c' not in m.__all_models__; "
        "assert 'dkmp_plugin.training.registration' not in sys.modules",
        DKMP_PLUGIN_AUTOLOAD="0",
    )
    assert done.returncode == 0, done.stderr


def test_start_up_imports_nothing_heavy():
    done = run("import sys; assert not {'torch', 'numpy', 'openmm', 'torchmdnet', 'yaml'} & set(sys.modules)")
    assert done.returncode == 0, done.stderr


def test_importing_the_package_imports_nothing_heavy():
    done = run(
        "import dkmp_plugin, sys; assert dkmp_plugin.__version__\n"
        "assert not {'torch', 'openmm'} & set(sys.modules)"
    )
    assert done.returncode == 0, done.stderr


def test_works_when_torchmdnet_was_imported_first():
    done = run(
        "import os; os.environ['DKMP_PLUGIN_AUTOLOAD'] = '0'\n"
        "import sys; sys.meta_path[:] = [f for f in sys.meta_path if 'TorchMDNet' not in str(f)]\n"
        "import torchmdnet.module, torchmdnet.models as m\n"
        "assert 'dkmp-c' not in m.__all_models__\n"
        "os.environ['DKMP_PLUGIN_AUTOLOAD'] = '1'\n"
        "from dkmp_plugin._autoload import install; install(); install()\n"
        "assert m.__all_models__.count('dkmp-c') == 1\n"
        "import torchmdnet.models.model as factory\n"
        "assert torchmdnet.module.create_model is factory.create_model\n"
    )
    assert done.returncode == 0, done.stderr


def test_running_torchmdnet_as_a_module_knows_our_flags():
    """``python -m`` does not import the module it runs."""
    command = [sys.executable, "-m", "torchmdnet.scripts.train", "--help"]
    done = subprocess.run(command, capture_output=True, text=True, timeout=300)
    assert done.returncode == 0, done.stderr
    assert "--num-shells" in done.stdout
    assert "usage: " in done.stdout


def test_reloading_a_module_extends_it_again():
    done = run(
        "import importlib, torchmdnet.models.model as m; importlib.reload(m); "
        "assert m.create_model.__wrapped__ is not m.create_model"
    )
    assert done.returncode == 0, done.stderr


def test_a_name_that_moved_is_reported_and_not_fatal():
    """Another torchmd-net, in which what we extend is gone: its own models must still import."""
    done = run(
        "from dkmp_plugin.training import registration\n"
        "def gone(module): raise AttributeError('module has no attribute create_model')\n"
        "registration.extend_model_factory = gone\n"
        "import torchmdnet.models.model as m; assert callable(m.create_model)\n"
    )
    assert done.returncode == 0, done.stderr
    assert "could not extend torchmdnet.models.model" in done.stderr
    assert "DKMP_PLUGIN_AUTOLOAD=0" in done.stderr


def test_start_up_line_survives_a_missing_package():
    """Files of ours left behind without the package: one line on stderr, no failure."""
    line = (ROOT / "dkmp_plugin" / "_startup" / "dkmp_plugin.pth").read_text()
    command = [sys.executable, "-I", "-S", "-c", f"exec({line!r})\nprint('alive')"]
    done = subprocess.run(command, capture_output=True, text=True, timeout=300)
    assert "alive" in done.stdout, done.stderr
    assert "start-up hook failed" in done.stderr


def test_wheel_carries_hook_sources_and_entry_points(tmp_path):
    command = [sys.executable, "-m", "hatchling", "build", "-t", "wheel", "-d", str(tmp_path)]
    done = subprocess.run(command, cwd=ROOT, capture_output=True, text=True, timeout=300)
    assert done.returncode == 0, done.stderr
    (wheel,) = tmp_path.glob("*.whl")
    with zipfile.ZipFile(wheel) as archive:
        names = set(archive.namelist())
        entry_points = archive.read(next(n for n in names if n.endswith("entry_points.txt"))).decode()
    assert {"dkmp_plugin.pth", "dkmp_plugin.start"} <= names
    assert any(name.startswith("dkmp_plugin/cuda_ops/csrc/") and name.endswith(".cpp") for name in names)
    assert "dkmp = dkmp_plugin.cli:main" in entry_points
    assert "openmmml.potentials" in entry_points
