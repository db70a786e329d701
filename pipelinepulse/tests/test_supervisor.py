"""The supervisor with real processes: restart, order, output, and nothing left behind."""

import io
import os
import signal
import subprocess
import sys
import time
from collections.abc import Callable
from pathlib import Path

import pytest

from pipelinepulse.supervisor import Child, Stopped, Supervisor

pytestmark = pytest.mark.processes

SLEEPER = [sys.executable, "-c", "import time; print('up', flush=True); time.sleep(600)"]
STUBBORN = [
    sys.executable,
    "-c",
    "import signal, time; signal.signal(signal.SIGTERM, signal.SIG_IGN);"
    "print('deaf', flush=True); time.sleep(600)",
]


def is_running(pid: int) -> bool:
    """Whether the process is there and more than a zombie that nobody has collected."""
    try:
        return Path(f"/proc/{pid}/stat").read_text().rsplit(")", 1)[1].split()[0] != "Z"
    except FileNotFoundError:
        return False


def eventually(is_so: Callable[[], bool], seconds: float = 10.0) -> bool:
    end = time.monotonic() + seconds
    while time.monotonic() < end:
        if is_so():
            return True
        time.sleep(0.02)
    return False


@pytest.fixture
def out() -> io.StringIO:
    return io.StringIO()


@pytest.fixture
def supervisor(out: io.StringIO, tmp_path: Path):
    with Supervisor(out=out, cwd=tmp_path, log_path=tmp_path / "logs" / "run.log") as supervisor:
        yield supervisor


def child(name: str, command: list[str], **options) -> Child:
    return Child(name, command, dict(os.environ), **options)


def pid_of(child: Child) -> int:
    assert child.process is not None
    return child.process.pid


def test_output_of_a_child_comes_out_line_by_line_under_its_name(supervisor, out, tmp_path) -> None:
    supervisor.start(child("web", SLEEPER))
    supervisor.wait_until(lambda: "up" in out.getvalue(), seconds=10)
    assert "web     | up\n" in out.getvalue()
    assert "web     | up\n" in (tmp_path / "logs" / "run.log").read_text()


def test_quiet_child_speaks_to_the_log_alone(supervisor, out, tmp_path) -> None:
    log = tmp_path / "logs" / "run.log"
    supervisor.start(child("broker", SLEEPER, is_quiet=True))
    supervisor.wait_until(lambda: "up" in log.read_text(), seconds=10)
    assert "broker  | up\n" in log.read_text()
    assert out.getvalue() == ""


def test_child_killed_outright_is_started_again_and_it_is_said(supervisor, out) -> None:
    worker = child("worker", SLEEPER)
    supervisor.start(worker)
    first = pid_of(worker)
    os.kill(first, signal.SIGKILL)
    assert supervisor.wait_until(lambda: worker.is_alive and pid_of(worker) != first, seconds=10)
    assert "worker has died (killed by SIGKILL); starting it again in 1 s" in out.getvalue()


def test_child_that_keeps_dying_is_started_with_growing_pauses(supervisor, out) -> None:
    supervisor.start(child("beat", [sys.executable, "-c", "raise SystemExit(3)"]))
    supervisor.wait_until(lambda: out.getvalue().count("has died") == 2, seconds=10)
    assert "(exit status 3); starting it again in 1 s" in out.getvalue()
    assert "(exit status 3); starting it again in 2 s" in out.getvalue()


def test_leaving_stops_in_reverse_order_and_leaves_nothing(out, tmp_path) -> None:
    farewell = (
        "import signal, sys, time;"
        "signal.signal(signal.SIGTERM, lambda *_: (print('bye', flush=True), sys.exit()));"
        "print('up', flush=True); time.sleep(600)"
    )
    children = [child(name, [sys.executable, "-c", farewell]) for name in ("broker", "web", "beat")]
    with Supervisor(out=out, cwd=tmp_path) as supervisor:
        for one in children:
            supervisor.start(one)
        supervisor.wait_until(lambda: out.getvalue().count("up") == 3, seconds=10)
        pids = [pid_of(one) for one in children]
    said = [line.split()[0] for line in out.getvalue().splitlines() if line.endswith("bye")]
    assert said == ["beat", "web", "broker"]
    assert not any(is_running(pid) for pid in pids)


def test_deaf_child_is_killed_when_its_time_is_over(out, tmp_path) -> None:
    deaf = child("worker", STUBBORN, stop_seconds=0.3)
    with Supervisor(out=out, cwd=tmp_path) as supervisor:
        supervisor.start(deaf)
        supervisor.wait_until(lambda: "deaf" in out.getvalue(), seconds=10)
        pid = pid_of(deaf)
    assert not is_running(pid)
    assert "worker did not stop in time; it is killed" in out.getvalue()


def test_what_a_killed_master_leaves_behind_is_ended(supervisor, out) -> None:
    master = child(
        "web",
        [
            sys.executable,
            "-c",
            "import subprocess, sys, time;"
            "p = subprocess.Popen([sys.executable, '-c', 'import time; time.sleep(600)']);"
            "print(p.pid, flush=True); time.sleep(600)",
        ],
    )
    supervisor.start(master)
    supervisor.wait_until(lambda: "|" in out.getvalue(), seconds=10)
    grandchild = int(out.getvalue().split("|")[1])
    first = pid_of(master)
    os.kill(first, signal.SIGKILL)
    assert supervisor.wait_until(lambda: "has died" in out.getvalue(), seconds=10)
    assert eventually(lambda: not is_running(grandchild))


def test_row_11_child_that_lives_but_does_not_answer_is_replaced(
    supervisor, out, monkeypatch
) -> None:
    monkeypatch.setattr("pipelinepulse.supervisor.ASK_EVERY", 0.1)
    answers = iter([True, False, False, True, False, False, False])
    worker = child("worker", SLEEPER, answers=lambda: next(answers, True))
    supervisor.start(worker)
    first = pid_of(worker)
    assert supervisor.wait_until(lambda: worker.is_alive and pid_of(worker) != first, seconds=20)
    assert "worker lives but has not answered 3 times; it is killed" in out.getvalue()
    assert next(answers, None) is None  # a single silence, or two, did not kill it
    supervisor.wait_until(lambda: False, seconds=1)
    assert out.getvalue().count("is killed") == 1


def test_signal_ends_the_wait_at_once(supervisor) -> None:
    supervisor.start(child("web", SLEEPER))
    os.kill(os.getpid(), signal.SIGTERM)
    begun = time.monotonic()
    with pytest.raises(Stopped) as stopped:
        supervisor.run_for_ever()
    assert stopped.value.signum == signal.SIGTERM
    assert time.monotonic() - begun < 1


def test_signal_reaches_a_command_as_interrupt_and_waits_for_it(supervisor, tmp_path) -> None:
    done = tmp_path / "in-order"
    command = (
        "import os, pathlib, signal, time\n"
        "try: os.kill(os.getppid(), signal.SIGTERM); time.sleep(600)\n"
        f"except KeyboardInterrupt: time.sleep(.3); pathlib.Path({str(done)!r}).touch()\n"
    )
    with pytest.raises(Stopped):
        supervisor.run_once([sys.executable, "-c", command], os.environ)
    assert done.exists()


def test_exit_status_of_a_command_is_given_back(supervisor) -> None:
    assert supervisor.run_once([sys.executable, "-c", "raise SystemExit(3)"], os.environ) == 3


@pytest.mark.skipif(sys.platform != "linux", reason="the kernel's help is Linux's")
def test_nothing_is_left_when_the_supervisor_itself_is_killed(tmp_path) -> None:
    program = (
        "import os, sys, pathlib\n"
        "from pipelinepulse.supervisor import Child, Supervisor\n"
        "with Supervisor(out=sys.stdout, cwd=pathlib.Path.cwd()) as supervisor:\n"
        f"    one = Child('web', {SLEEPER!r}, dict(os.environ))\n"
        "    supervisor.start(one)\n"
        "    print(one.process.pid, flush=True)\n"
        "    supervisor.run_for_ever()\n"
    )
    root = Path(__file__).resolve().parents[2]
    with subprocess.Popen(
        [sys.executable, "-c", program], stdout=subprocess.PIPE, text=True, cwd=root
    ) as process:
        assert process.stdout is not None
        pid = int(process.stdout.readline())
        process.kill()
    assert eventually(lambda: not is_running(pid))
