"""PULSE_HOME: the one folder that holds everything a run on this machine writes.

Decides where things lie in it, that private files are readable by their owner alone, and that
one run owns a folder at a time. What goes into the files is decided by `env.py` and `run.py`.
"""

import fcntl
import hashlib
import json
import os
import secrets
import tempfile
from pathlib import Path
from typing import IO, Any

from cryptography.fernet import Fernet

SECRETS = "secrets.json"
CONNECTIONS = "connections.json"
SIGN_INS = "demo-sign-ins.json"
LOCK = "run.lock"

# A unix socket's path must fit into sockaddr_un (108 bytes with its NUL); 104 on macOS.
LONGEST_SOCKET_PATH = 100


class HomeInUse(Exception):
    """Another `run` owns the folder; the message says which process."""


def read_private(home: Path, name: str) -> dict[str, Any]:
    """The JSON object kept under that name, or an empty one.

    Raises ValueError when the file is not a JSON object, OSError when it cannot be read.
    """
    try:
        content = json.loads((home / name).read_text())
    except FileNotFoundError:
        return {}
    if not isinstance(content, dict):
        raise ValueError(f"{home / name} is not a JSON object")
    return content


def write_private(home: Path, name: str, content: dict[str, Any]) -> None:
    """Replace the file in one step, readable by its owner alone."""
    _private_draft(home, name, content).replace(home / name)


def secrets_of(home: Path) -> dict[str, str]:
    """The folder's own secrets, made once: secret_key, encryption_key, webhook_token."""
    if not (home / SECRETS).exists():
        draft = _private_draft(
            home,
            SECRETS,
            {
                "secret_key": secrets.token_urlsafe(48),
                "encryption_key": Fernet.generate_key().decode(),
                "webhook_token": secrets.token_urlsafe(30),
            },
        )
        try:
            # link() refuses an existing name: of several first processes one wins, all read it.
            os.link(draft, home / SECRETS)
        except FileExistsError:
            pass
        finally:
            draft.unlink()
    return read_private(home, SECRETS)


def _private_draft(home: Path, name: str, content: dict[str, Any]) -> Path:
    handle, path = tempfile.mkstemp(prefix=f".{name}.", dir=home)  # mkstemp makes it 0600
    with os.fdopen(handle, "w") as draft:
        json.dump(content, draft, indent=1)
        draft.flush()
        os.fsync(draft.fileno())
    return Path(path)


def socket_folder(home: Path, socket_name: str) -> Path:
    """A private folder in which that socket's path is short enough: the home, or one in /tmp.

    The folder in the temporary directory is named after the home, so that a restart finds it.
    """
    if len(os.fsencode(home / socket_name)) <= LONGEST_SOCKET_PATH:
        return home
    digest = hashlib.sha256(os.fsencode(home)).hexdigest()[:16]
    folder = Path(tempfile.gettempdir()) / f"pulse-{os.getuid()}-{digest}"
    folder.mkdir(mode=0o700, exist_ok=True)
    if folder.is_symlink() or folder.stat().st_uid != os.getuid():
        raise HomeInUse(f"{folder} belongs to somebody else; choose a shorter PULSE_HOME.")
    folder.chmod(0o700)
    return folder


def lock(home: Path) -> IO[str]:
    """Own the folder until the returned file is closed or the process ends.

    Raises HomeInUse naming the process that owns it now.
    """
    file = (home / LOCK).open("a+")
    try:
        fcntl.flock(file, fcntl.LOCK_EX | fcntl.LOCK_NB)
    except OSError:
        file.seek(0)
        owner = file.read().strip() or "unknown"
        file.close()
        raise HomeInUse(
            f"{home} is in use by another run (process {owner}); stop that one, "
            "or choose another folder with PULSE_HOME=… and another PORT=…."
        ) from None
    file.truncate(0)
    file.write(f"{os.getpid()}\n")
    file.flush()
    return file
