"""Collecting static files: once, and again only when a file has changed."""

from pathlib import Path

import pytest

from pipelinepulse.static_files import collect_if_changed


@pytest.fixture
def source(settings, tmp_path: Path) -> Path:
    """A folder of static files, collected under hashed names into another one."""
    (tmp_path / "source").mkdir()
    settings.STATICFILES_DIRS = [tmp_path / "source"]
    settings.STATICFILES_FINDERS = ["django.contrib.staticfiles.finders.FileSystemFinder"]
    settings.STATIC_ROOT = tmp_path / "collected"
    hashed = "django.contrib.staticfiles.storage.ManifestStaticFilesStorage"
    settings.STORAGES = {**settings.STORAGES, "staticfiles": {"BACKEND": hashed}}
    (tmp_path / "source" / "app.css").write_text("body { margin: 0 }")
    return tmp_path / "source"


def names(folder: Path) -> list[str]:
    return sorted(path.name for path in folder.glob("*.css"))


def test_second_start_collects_nothing(source: Path, tmp_path: Path) -> None:
    assert collect_if_changed(tmp_path / "collected") is True
    assert len(names(tmp_path / "collected")) == 2  # the plain and the hashed name
    assert collect_if_changed(tmp_path / "collected") is False


def test_changed_and_removed_files_are_noticed(source: Path, tmp_path: Path) -> None:
    collect_if_changed(tmp_path / "collected")
    (source / "app.css").write_text("body { margin: 1px }")
    (source / "new.css").write_text("p { margin: 0 }")
    assert collect_if_changed(tmp_path / "collected") is True
    assert "new.css" in names(tmp_path / "collected")
    (source / "new.css").unlink()
    assert collect_if_changed(tmp_path / "collected") is True
    assert "new.css" not in names(tmp_path / "collected")
