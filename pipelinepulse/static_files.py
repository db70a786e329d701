"""Static files of a run: collected under hashed names, again only when something has changed."""

import hashlib
import shutil
from pathlib import Path

from django.contrib.staticfiles.finders import get_finders
from django.core.management import call_command

STAMP = ".collected-from"


def collect_if_changed(root: Path) -> bool:
    """Collect into that folder unless it holds exactly these files; True if it was done."""
    fingerprint = _fingerprint()
    stamp = root / STAMP
    if stamp.exists() and stamp.read_text() == fingerprint:
        return False
    # Emptied first: a file that is gone must not be served any more.
    shutil.rmtree(root, ignore_errors=True)
    call_command("collectstatic", interactive=False, verbosity=0)
    stamp.write_text(fingerprint)
    return True


def _fingerprint() -> str:
    digest = hashlib.sha256()
    for finder in get_finders():
        for path, storage in finder.list([]):
            size, changed = storage.size(path), storage.get_modified_time(path)
            digest.update(f"{path}\0{size}\0{changed}\n".encode())
    return digest.hexdigest()
