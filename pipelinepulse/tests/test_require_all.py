"""Where everything is required, a test that was left out fails the whole run."""

import os
import subprocess
import sys
from pathlib import Path

import pytest

ROOT = Path(__file__).resolve().parents[2]

pytestmark = pytest.mark.processes

SKIPPED = "import pytest\n\ndef test_a():\n    pytest.skip('no server here')\n"
EXPECTED = "import pytest\n\n@pytest.mark.xfail\ndef test_a():\n    assert False\n"
PASSED = "\ndef test_b():\n    pass\n"
NOT_COLLECTED = "import pytest\n\npytest.importorskip('no_such_module')\n"


@pytest.mark.parametrize(
    ("program", "required", "workers", "status"),
    [
        (SKIPPED, "", "0", 0),
        (SKIPPED + PASSED, "1", "0", 1),
        (SKIPPED + PASSED, "1", "1", 1),
        (NOT_COLLECTED, "1", "0", 1),
        (EXPECTED, "1", "0", 0),
    ],
)
def test_skip_counts_as_failure(
    tmp_path: Path, program: str, required: str, workers: str, status: int
) -> None:
    ended = run(tmp_path, program, required, workers)
    assert bool(ended.returncode) == bool(status), ended.stdout
    assert ("left out although everything is required" in ended.stdout) == bool(status)


def run(
    folder: Path, program: str, required: str, workers: str
) -> subprocess.CompletedProcess[str]:
    (folder / "test_it.py").write_text(program)
    environment = {k: v for k, v in os.environ.items() if not k.startswith(("PYTEST", "DJANGO"))}
    # fmt: off
    command = [
        sys.executable, "-m", "pytest", "-q", "-n", workers, "-p", "no:randomly",
        # The project's settings and conftest, for a file that lies elsewhere.
        "-c", str(ROOT / "pyproject.toml"), "-p", "conftest", "-p", "no:cacheprovider",
        "--rootdir", str(folder), str(folder / "test_it.py"),
    ]
    # fmt: on
    environment["PULSE_REQUIRE_ALL"] = required
    return subprocess.run(
        command, cwd=ROOT, env=environment, capture_output=True, text=True, timeout=100
    )
