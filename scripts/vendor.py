"""Front-end files that are not ours: fetched from npm, kept in the tree, listed in MANIFEST.

`python scripts/vendor.py` fetches the versions named below with `npm pack`, writes the files and
their MANIFEST (name, version, licence, sha256, path, source). Needed only to change a version:
the product is run and built without npm. `pipelinepulse/tests/test_vendored_files.py` compares
the files with the MANIFEST.
"""

from __future__ import annotations

import hashlib
import re
import subprocess
import sys
import tarfile
import tempfile
from collections.abc import Iterator
from dataclasses import dataclass
from pathlib import Path

ROOT = Path(__file__).resolve().parent.parent
MANIFEST = ROOT / "static" / "vendor" / "MANIFEST"


@dataclass(frozen=True)
class Package:
    """One npm package and the one file made of it."""

    name: str
    version: str
    licence: str
    source: str  # path inside the package
    target: str  # path inside this project


PACKAGES = [
    Package(
        "idiomorph",
        "0.8.0",
        "0BSD",
        "dist/idiomorph-ext.min.js",
        "static/vendor/idiomorph-ext-0.8.0.min.js",
    ),
    Package(
        "@tabler/icons",
        "3.51.0",
        "MIT",
        "icons/outline",
        "static/vendor/tabler-icons-3.51.0.svg",
    ),
    Package(
        "axe-core",
        "4.14.1",
        "MPL-2.0",
        "axe.min.js",
        "pipelinepulse/tests/vendor/axe-4.14.1.min.js",
    ),
]

# The icons in use; the sprite holds these alone.
ICONS = [
    "alert-circle",
    "alert-octagon",
    "alert-triangle",
    "arrow-down",
    "arrow-right",
    "arrow-up",
    "ban",
    "briefcase",
    "building",
    "calendar",
    "check",
    "chevron-down",
    "chevron-left",
    "chevron-right",
    "circle-check",
    "circle-x",
    "clipboard-check",
    "clock",
    "cloud-off",
    "coin",
    "download",
    "external-link",
    "flag",
    "hourglass",
    "info-circle",
    "keyboard",
    "layout-dashboard",
    "list-details",
    "logout",
    "menu-2",
    "message",
    "pencil",
    "player-pause",
    "plug-connected",
    "plug-connected-x",
    "plus",
    "refresh",
    "route",
    "search",
    "settings",
    "star",
    "trophy",
    "user",
    "user-circle",
    "world",
    "x",
]

SPRITE_NOTICE = "<!-- Icons of Tabler Icons {version}, MIT licence, (c) Pawel Kuna -->"


def fetch(package: Package, into: Path) -> tarfile.TarFile:
    """The package as npm publishes it (npm checks its integrity)."""
    spec = f"{package.name}@{package.version}"
    packed = subprocess.run(
        ["npm", "pack", "--silent", spec], cwd=into, check=True, capture_output=True, text=True
    )
    return tarfile.open(into / packed.stdout.split()[-1])


def read(archive: tarfile.TarFile, path: str) -> bytes:
    """One file of the package."""
    member = archive.extractfile(f"package/{path}")
    if member is None:
        raise FileNotFoundError(path)
    return member.read()


def symbols(archive: tarfile.TarFile, folder: str) -> Iterator[str]:
    """Each icon in use as an SVG symbol, without the invisible square it is drawn on."""
    for icon in ICONS:
        svg = read(archive, f"{folder}/{icon}.svg").decode()
        shapes = [s for s in re.findall(r"<(?!svg)[^/][^>]*/>", svg) if "M0 0h24v24H0z" not in s]
        yield f'<symbol id="{icon}" viewBox="0 0 24 24">{"".join(shapes)}</symbol>'


def content(package: Package, archive: tarfile.TarFile) -> bytes:
    """What is written to the package's target."""
    if not package.target.endswith(".svg"):
        return read(archive, package.source)
    lines = [
        SPRITE_NOTICE.format(version=package.version),
        '<svg xmlns="http://www.w3.org/2000/svg">',
        *symbols(archive, package.source),
        "</svg>",
        "",
    ]
    return "\n".join(lines).encode()


def main() -> int:
    """Fetch everything anew and write MANIFEST."""
    rows = ["name\tversion\tlicence\tsha256\tfile\tsource"]
    with tempfile.TemporaryDirectory() as folder:
        for package in PACKAGES:
            with fetch(package, Path(folder)) as archive:
                data = content(package, archive)
            target = ROOT / package.target
            target.parent.mkdir(parents=True, exist_ok=True)
            target.write_bytes(data)
            digest = hashlib.sha256(data).hexdigest()
            source = f"npm:{package.name}@{package.version}/{package.source}"
            rows.append(
                "\t".join(
                    [
                        package.name,
                        package.version,
                        package.licence,
                        digest,
                        package.target,
                        source,
                    ]
                )
            )
    MANIFEST.write_text("\n".join(rows) + "\n")
    return 0


if __name__ == "__main__":
    sys.exit(main())
