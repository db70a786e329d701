"""Files of others are exactly those that `static/vendor/MANIFEST` names."""

from __future__ import annotations

import csv
import hashlib
from pathlib import Path

ROOT = Path(__file__).resolve().parents[2]
MANIFEST = ROOT / "static" / "vendor" / "MANIFEST"


def rows() -> list[dict[str, str]]:
    with MANIFEST.open() as file:
        return list(csv.DictReader(file, delimiter="\t"))


def test_each_file_has_the_hash_of_the_manifest() -> None:
    for row in rows():
        data = (ROOT / row["file"]).read_bytes()
        assert hashlib.sha256(data).hexdigest() == row["sha256"], row["file"]


def test_nothing_lies_there_unlisted() -> None:
    listed = {row["file"] for row in rows()}
    folders = [ROOT / "static" / "vendor", ROOT / "pipelinepulse" / "tests" / "vendor"]
    present = {
        str(path.relative_to(ROOT))
        for folder in folders
        for path in folder.iterdir()
        if path.name != "MANIFEST"
    }
    assert present == listed


def test_every_licence_is_named() -> None:
    assert all(row["licence"] for row in rows())
