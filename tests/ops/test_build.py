"""The build: its cache, two builders at once, a missing compiler, a compiler error; in real processes."""

import os
import subprocess
import sys
from pathlib import Path
from typing import Dict

import pytest

from dkmp_plugin import ops
from dkmp_plugin.ops import build as build_command
from dkmp_plugin.ops import builder

# A library as small as the real one is not: the machinery is the same, the wait is not.
PLAIN = """
#include <torch/library.h>
TORCH_LIBRARY_FRAGMENT(dkmp_build_test, library) {
  library.def("answer() -> int", []() -> int64_t { return 42; });
}
"""
PER_LEVEL = "namespace dkmp { namespace DKMP_ISA { int lane_bytes() { return DKMP_LANE_BYTES; } } }\n"
BUILD = """
import sys
from pathlib import Path
from dkmp_plugin.ops import builder
builder.source_folder = lambda: Path(sys.argv[1])
builder._run = lambda command, run=builder._run: (sys.stdout.write("run\\n"), run(command))
print(builder.build(force=len(sys.argv) > 2).library)
"""
ANSWER = "import sys, torch; torch.ops.load_library(sys.argv[1]); print(torch.ops.dkmp_build_test.answer())"


def _environment(cache: Path, **more: str) -> Dict[str, str]:
    environment = {k: v for k, v in os.environ.items() if k not in ("CXX", "DKMP_PLUGIN_NATIVE")}
    return {**environment, "DKMP_PLUGIN_CACHE": str(cache), **more}


@pytest.fixture
def sources(tmp_path: Path) -> Path:
    folder = tmp_path / "cuda_ops"
    (folder / "csrc").mkdir(parents=True)
    (folder / "csrc" / "plain.cpp").write_text(PLAIN)
    (folder / "csrc" / "per_level.isa.cpp").write_text(PER_LEVEL)
    return folder


@pytest.fixture
def compiler() -> str:
    try:
        return builder.find_compiler()[1]
    except builder.BuildError as error:
        pytest.skip(f"no compiler to test with: {error}")


def _start(code: str, *arguments: str, environment: Dict[str, str]) -> subprocess.Popen:
    # The library of the package itself is not what is built here.
    environment = {**environment, "DKMP_PLUGIN_NATIVE": "0"}
    return subprocess.Popen(
        [sys.executable, "-c", code, *arguments],
        env=environment,
        stdout=subprocess.PIPE,
        stderr=subprocess.PIPE,
        text=True,
    )


def test_two_builders_at_once_then_the_cache(compiler: str, sources: Path, tmp_path: Path) -> None:
    environment = _environment(tmp_path / "cache")
    outputs = []
    builders = [_start(BUILD, str(sources), environment=environment) for _ in range(2)]
    for process in builders:
        out, error = process.communicate(timeout=300)
        assert process.returncode == 0, error
        outputs.append(out.split())
    # Only one of the two called the compiler; both name the same library.
    assert sorted(len(words) > 1 for words in outputs) == [False, True]
    library = outputs[0][-1]
    assert outputs[1][-1] == library
    loader = _start(ANSWER, library, environment=environment)
    assert loader.communicate(timeout=120)[0].strip() == "42"
    assert sorted(path.name for path in Path(library).parent.iterdir()) == [
        "compiler.txt",
        Path(library).name,
    ]

    # Asked to build whatever the cache holds, it compiles every file again.
    forced = _start(BUILD, str(sources), "force", environment=environment)
    assert forced.communicate(timeout=300)[0].split() == outputs[[len(w) > 1 for w in outputs].index(True)]

    # Without a compiler the finished library is still found; changed sources are another library.
    without = _environment(tmp_path / "cache", CXX="no-such-compiler")
    assert _start(BUILD, str(sources), environment=without).communicate(timeout=120)[0].split() == [library]
    (sources / "csrc" / "plain.cpp").write_text(PLAIN.replace("42", "43"))
    process = _start(BUILD, str(sources), environment=without)
    assert "no C++ compiler found (looked for no-such-compiler)" in process.communicate(timeout=120)[1]


def test_a_compiler_that_cannot_be_started_is_none(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    """After a BuildError, and no other error, a library that is in the cache is used all the same."""
    program = tmp_path / "for-another-machine"
    program.write_bytes(b"no program of this machine")
    program.chmod(0o755)
    monkeypatch.setenv("CXX", str(program))
    with pytest.raises(builder.BuildError, match=f"no C.. compiler found .looked for {program}. that runs"):
        builder.find_compiler()


@pytest.mark.parametrize("variable", ["CXX", "DKMP_PLUGIN_CXXFLAGS"])
def test_a_quote_that_is_not_closed_is_named(variable: str, monkeypatch: pytest.MonkeyPatch) -> None:
    """The package must import all the same: whoever loads the library handles a BuildError."""
    monkeypatch.setenv(variable, "g++ '-O2")
    with pytest.raises(builder.BuildError, match=f"{variable}: .* quoted as in a shell"):
        builder.build(force=True)


def test_impossible_number_of_jobs(capsys: pytest.CaptureFixture[str]) -> None:
    with pytest.raises(SystemExit):
        build_command.main(["--jobs", "0"])
    assert "--jobs: 0 was given, at least 1 is expected" in capsys.readouterr().err


def test_compiler_error_is_shown_and_leaves_nothing(compiler: str, sources: Path, tmp_path: Path) -> None:
    (sources / "csrc" / "plain.cpp").write_text("int broken( {")
    process = _start(BUILD, str(sources), environment=_environment(tmp_path / "cache"))
    _, error = process.communicate(timeout=300)
    assert process.returncode == 1
    assert "BuildError: the compiler failed" in error and "plain.cpp:1" in error
    assert not list((tmp_path / "cache").rglob("*.so")) and not list((tmp_path / "cache").rglob("building-*"))


def test_unwritable_cache_is_named(compiler: str, sources: Path, tmp_path: Path) -> None:
    (tmp_path / "file").write_text("not a folder")
    process = _start(BUILD, str(sources), environment=_environment(tmp_path / "file"))
    assert "set DKMP_PLUGIN_CACHE to a folder you can write" in process.communicate(timeout=120)[1]


USE = """
import warnings, torch
with warnings.catch_warnings(record=True) as caught:
    warnings.simplefilter("always")
    from dkmp_plugin import ops
    from dkmp_plugin.graph import radius_shells
print(len(caught), *[w.message for w in caught])
print(ops.status().native, ops.status().why_not)
print(radius_shells(torch.tensor([[0.0, 0.0, 0.0], [1.0, 0.0, 0.0]]), 2.0, 2).edge_index.tolist())
"""


@pytest.mark.parametrize("forced", [False, True], ids=["no-compiler", "switched-off"])
def test_without_native_library_the_reference_runs(tmp_path: Path, forced: bool) -> None:
    more = {"DKMP_PLUGIN_NATIVE": "0"} if forced else {"CXX": "no-such-compiler"}
    process = subprocess.run(
        [sys.executable, "-c", USE],
        env=_environment(tmp_path, **more),
        capture_output=True,
        text=True,
        timeout=120,
    )
    assert process.returncode == 0, process.stderr
    warned, status, edges = process.stdout.splitlines()
    assert edges == "[[0, 1], [1, 0]]"
    if forced:
        assert warned == "0" and status == "False switched off by DKMP_PLUGIN_NATIVE=0"
    else:
        assert warned.startswith("1 dkmp_plugin runs without its native ops") and "apt-get install" in warned
        assert "python -m dkmp_plugin.ops.build" in warned and status.startswith(
            "False no C++ compiler found"
        )


COMMAND = [sys.executable, "-W", "error", "-m", "dkmp_plugin.ops.build"]


def test_command_finds_the_library(native) -> None:
    process = subprocess.run(COMMAND, capture_output=True, text=True, timeout=300)
    assert process.returncode == 0, process.stderr
    assert Path(process.stdout.splitlines()[0]).exists()


def test_importing_the_command_builds_nothing(tmp_path: Path) -> None:
    """Its options come first: --jobs 1 is for machines without the memory for more."""
    process = subprocess.run(
        [*COMMAND, "--help"], env=_environment(tmp_path), capture_output=True, text=True, timeout=300
    )
    assert process.returncode == 0 and "--jobs" in process.stdout, process.stderr
    assert not list(tmp_path.iterdir())


def test_command_builds_anew_what_does_not_load(
    monkeypatch: pytest.MonkeyPatch, capsys: pytest.CaptureFixture[str], tmp_path: Path, native
) -> None:
    whole, damaged = Path(ops.status().library), tmp_path / "damaged.so"
    damaged.write_bytes(b"")
    calls = []

    def build(jobs, force):
        calls.append((jobs, force))
        return builder.Build(whole if force else damaged, "g++")

    monkeypatch.setattr(build_command, "build", build)
    assert build_command.main(["--jobs", "1"]) == 0
    assert calls == [(1, False), (1, True)]
    out, error = capsys.readouterr()
    assert str(whole) in out and f"{damaged} does not load" in error
    monkeypatch.setattr(build_command, "build", lambda jobs, force: builder.Build(damaged, "g++"))
    assert build_command.main([]) == 1
    assert "does not load" in capsys.readouterr().err


def test_compiler_with_arguments(compiler: str, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.delenv("CXX", raising=False)
    path = builder.find_compiler()[0][0]
    monkeypatch.setenv("CXX", f"env {path}")
    words, version = builder.find_compiler()
    assert words[1:] == [path] and version == compiler


def test_damaged_objects_are_compiled_anew_and_libraries_of_other_compilers_used(
    compiler: str, sources: Path, tmp_path: Path
) -> None:
    environment = _environment(tmp_path / "cache")
    out, error = _start(BUILD, str(sources), environment=environment).communicate(timeout=300)
    assert out, error
    library = Path(out.split()[-1])
    for made in (tmp_path / "cache" / "objects").glob("*.o"):
        made.write_bytes(b"")
    library.unlink()
    again = _start(BUILD, str(sources), environment=environment)
    assert again.communicate(timeout=300)[0].split()[-1] == str(library)
    assert library.stat().st_size > 0
    other = tmp_path / "other-compiler"
    other.write_text('#!/bin/sh\n[ "$1" = --version ] && echo other 1.0 && exit 0\nexit 1\n')
    other.chmod(0o755)
    environment = _environment(tmp_path / "cache", CXX=str(other))
    found = _start(BUILD, str(sources), environment=environment)
    assert found.communicate(timeout=120)[0].split()[-1] == str(library)


def test_no_home_folder(monkeypatch: pytest.MonkeyPatch) -> None:
    def unknown() -> Path:
        raise RuntimeError("Could not determine home directory.")

    monkeypatch.delenv("DKMP_PLUGIN_CACHE", raising=False)
    monkeypatch.delenv("XDG_CACHE_HOME", raising=False)
    monkeypatch.setattr(Path, "home", unknown)
    with pytest.raises(builder.BuildError, match="Set DKMP_PLUGIN_CACHE"):
        builder.build()


def test_an_empty_variable_is_one_that_is_not_set(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.delenv("DKMP_PLUGIN_CACHE", raising=False)
    usual = builder.cache_folder()
    monkeypatch.setenv("DKMP_PLUGIN_CACHE", "")
    assert builder.cache_folder() == usual
