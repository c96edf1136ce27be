"""Numbers of other processors: the tests marked `numerical` once more, with the kernels that older ones would take.

torch, oneDNN, MKL and OpenBLAS choose kernels by processor. Settings restrict them, so that one machine can show
whether a test hangs on the last bits of its own. All other tests run at the machine's own level.
"""

import hashlib
import os
import re
import shutil
import subprocess
import sys
from pathlib import Path

import pytest
import shared
import torch

from sparsity_cliff.training import environment

TESTS = Path(__file__).parent
COMPILER = shutil.which("cc")

#: What a level sets. One of them is a part of every run of the suite (EVERYDAY), all are of `make test-large`.
LEVELS = {
    "oldest": {
        "ATEN_CPU_CAPABILITY": "default",
        "ONEDNN_MAX_CPU_ISA": "SSE41",
        "MKL_CBWR": "COMPATIBLE",
        "OPENBLAS_CORETYPE": "Prescott",
    },
    "avx2": {
        "ATEN_CPU_CAPABILITY": "avx2",
        "ONEDNN_MAX_CPU_ISA": "AVX2",
        "MKL_CBWR": "AVX2",
        "OPENBLAS_CORETYPE": "Haswell",
    },
    "avx512": {
        "ATEN_CPU_CAPABILITY": "avx512",
        "ONEDNN_MAX_CPU_ISA": "AVX512_CORE",
        "MKL_CBWR": "AVX512",
        "OPENBLAS_CORETYPE": "SkylakeX",
    },
    "intel": {"OPENBLAS_CORETYPE": "SkylakeX"},  # and MKL takes the kernels that it has for Intel's processors
}

#: MKL asks this function of its own who made the processor.
INTEL = "int mkl_serv_intel_cpu_true(void) { return 1; }"
CAN_BE_INTEL = "AMD" in environment.processor() and COMPILER is not None and sys.platform == "linux"
EVERYDAY = "intel" if CAN_BE_INTEL else "oldest"


def run_at(
    level: str, folder: Path, *files: Path, marks: str = "numerical and not large"
) -> subprocess.CompletedProcess[str]:
    """The tests with these marks of these files, in a process at that level."""
    # what these tests cover was measured without them, and what workers share was made at the processor's own level
    dropped = re.compile(f"PYTEST_|COVER|{shared.VARIABLE}$")
    environment = {key: value for key, value in os.environ.items() if not dropped.match(key)} | LEVELS[level]
    if level == "intel":
        environment["LD_PRELOAD"] = str(folder.with_name("intel.so"))
        environment["OTHER_THAN"] = product()
        build = [str(COMPILER), "-shared", "-fPIC", "-x", "c", "-", "-o", environment["LD_PRELOAD"]]
        subprocess.run(build, input=INTEL, text=True, check=True)
    command = [sys.executable, "-m", "pytest", "-m", marks, "-q", "-c", str(TESTS.parent / "pyproject.toml")]
    command += ["-p", "no:cacheprovider", "-p", "no:xdist", f"--basetemp={folder}", *map(str, files)]
    return subprocess.run(command, env=environment, cwd=TESTS.parent, capture_output=True, text=True)


def product() -> str:
    """The digest of a matrix product, which shows the kernel that made it."""
    a, b = torch.arange(16384.0).sin().view(64, 256), torch.arange(32768.0).cos().view(256, 128)
    return hashlib.sha256((a @ b).numpy().tobytes()).hexdigest()


def need(level: str) -> None:
    """Skip where this processor has no such level, or where it is the processor's own."""
    own = torch.backends.cpu.get_cpu_capability().lower()
    if level == "intel":
        if not CAN_BE_INTEL:
            pytest.skip("MKL's kernels for Intel can be had on an AMD processor under Linux with a C compiler")
        return
    order = ["default", "avx2", "avx512"]
    if own not in order or LEVELS[level]["ATEN_CPU_CAPABILITY"] not in order[: order.index(own) + 1]:
        pytest.skip(f"this processor ({own}) does not have level {level}")


@pytest.mark.numerical
def test_the_level_that_was_asked_for_is_in_force() -> None:
    own = torch.backends.cpu.get_cpu_capability().lower()
    assert os.environ.get("ATEN_CPU_CAPABILITY", own) == own
    assert os.environ.get("OTHER_THAN") != product()


def test_numbers_hold_at_another_level(tmp_path: Path) -> None:
    hold(EVERYDAY, tmp_path, "numerical and not large")


@pytest.mark.large
@pytest.mark.parametrize("level", LEVELS)
def test_all_numbers_hold_at_every_level(tmp_path: Path, level: str) -> None:
    hold(level, tmp_path, "numerical")


def hold(level: str, tmp_path: Path, marks: str) -> None:
    """The tests with these marks, of which there are many, pass at the level."""
    need(level)
    files = [file for file in sorted(TESTS.glob("test_*.py")) if "pytest.mark.numerical" in file.read_text()]
    assert len(files) > 5
    done = run_at(level, tmp_path / "child", *files, marks=marks)
    assert done.returncode == 0, done.stdout[-4000:]
    passed = re.search(r"(\d+) passed", done.stdout)
    assert passed
    assert int(passed[1]) > 100


def test_a_test_that_hangs_on_a_level_fails(tmp_path: Path) -> None:
    """That of this machine's own kernels, as a test with too small a tolerance would."""
    need("oldest")
    own = torch.backends.cpu.get_cpu_capability()
    if own == "DEFAULT":
        pytest.skip("this processor has one level")
    (tmp_path / "test_fragile.py").write_text(
        "import pytest, torch\n\n\n@pytest.mark.numerical\ndef test_fragile():\n"
        f"    assert torch.backends.cpu.get_cpu_capability() == {own!r}\n"
    )
    done = run_at("oldest", tmp_path / "child", tmp_path / "test_fragile.py")
    assert done.returncode == 1
    assert "assert 'DEFAULT' == " in done.stdout
    assert "1 failed" in done.stdout
