"""PULSE_HOME: private files, one owner at a time, socket paths that fit."""

import multiprocessing
import stat
from pathlib import Path

import pytest

from pipelinepulse import home


def test_private_file_is_readable_by_its_owner_alone(tmp_path: Path) -> None:
    home.write_private(tmp_path, "x.json", {"a": "b"})
    assert home.read_private(tmp_path, "x.json") == {"a": "b"}
    assert stat.S_IMODE((tmp_path / "x.json").stat().st_mode) == 0o600
    assert [path.name for path in tmp_path.iterdir()] == ["x.json"]


def _secrets_when_all_are_there(folder: Path, barrier, results) -> None:
    barrier.wait()
    results.put(home.secrets_of(folder)["secret_key"])


@pytest.mark.processes
def test_processes_that_start_at_once_agree_on_the_secrets(tmp_path: Path) -> None:
    context = multiprocessing.get_context("spawn")
    barrier, results = context.Barrier(4), context.Queue()
    processes = [
        context.Process(target=_secrets_when_all_are_there, args=(tmp_path, barrier, results))
        for _ in range(4)
    ]
    for process in processes:
        process.start()
    keys = {results.get(timeout=30) for _ in processes}
    for process in processes:
        process.join()
    assert len(keys) == 1
    assert [path.name for path in tmp_path.iterdir()] == [home.SECRETS]


def test_second_owner_is_told_who_is_first(tmp_path: Path) -> None:
    with home.lock(tmp_path), pytest.raises(home.HomeInUse, match=r"process \d+"):
        home.lock(tmp_path)


def test_folder_is_free_again_when_its_owner_is_gone(tmp_path: Path) -> None:
    home.lock(tmp_path).close()
    home.lock(tmp_path).close()


def test_socket_lies_in_the_home_when_its_path_fits(tmp_path: Path, monkeypatch) -> None:
    short = Path("/tmp/h")  # noqa: S108 - a path to measure, nothing is written
    assert home.socket_folder(short, "broker.sock") == short


def test_socket_of_a_deep_home_lies_in_a_private_short_folder(tmp_path: Path) -> None:
    deep = tmp_path / ("d" * 100)
    folder = home.socket_folder(deep, "broker.sock")
    try:
        assert folder == home.socket_folder(deep, "broker.sock")
        assert len(bytes(folder / "broker.sock")) < 104
        assert stat.S_IMODE(folder.stat().st_mode) == 0o700
        assert folder != home.socket_folder(tmp_path / ("e" * 100), "broker.sock")
    finally:
        folder.rmdir()
        home.socket_folder(tmp_path / ("e" * 100), "broker.sock").rmdir()
