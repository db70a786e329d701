"""A setting that cannot be used ends every program alike: exit 2, one line, no trace."""

import os
import subprocess
import sys
from pathlib import Path

import pytest

from pipelinepulse import env

ROOT = Path(__file__).resolve().parents[2]
PROGRAMS = {
    "manage.py": ["manage.py", "check"],
    "run": ["manage.py", "run"],
    "web": ["-m", "gunicorn", "pipelinepulse.wsgi"],
    "worker": ["-m", "celery", "-A", "pipelinepulse", "worker"],
    "beat": ["-m", "celery", "-A", "pipelinepulse", "beat", "--pidfile="],
}

pytestmark = pytest.mark.processes


def start(program: str, home: Path, **values: str) -> subprocess.CompletedProcess[str]:
    return subprocess.run(
        [sys.executable, *PROGRAMS[program]],
        env={
            **os.environ,
            **dict.fromkeys(env.SETTING_NAMES, ""),
            "PULSE_HOME": str(home),
            "PORT": "1",
            **values,
        },
        cwd=ROOT,
        capture_output=True,
        text=True,
        timeout=60,
    )


@pytest.mark.parametrize("program", PROGRAMS)
def test_half_given_crm_ends_the_program(program: str, tmp_path: Path) -> None:
    ended = start(program, tmp_path, ZOHO_CLIENT_ID="1000.X")
    assert ended.returncode == 2
    assert ended.stderr.strip().splitlines() == [
        "Pipeline Pulse cannot start: The CRM is half configured: ZOHO_CLIENT_ID is set but "
        "ZOHO_CLIENT_SECRET and ZOHO_REFRESH_TOKEN are not; give them all, or none."
    ]
    assert ended.stdout == ""


@pytest.mark.parametrize("program", ["manage.py", "web", "worker", "beat"])
def test_production_without_secrets_ends_the_program(program: str, tmp_path: Path) -> None:
    ended = start(program, tmp_path, DEBUG="0")
    assert ended.returncode == 2
    assert "SECRET_KEY is missing" in ended.stderr
    assert "Traceback" not in ended.stderr
