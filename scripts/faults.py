"""`make faults`: the rows of docs/FAULTS.md that no test carries the number of.

A test names its rows in its own name: `test_row_27_…`, `test_rows_44_46_…`. Exit 1 if a row has
neither a test nor a reason in its last column.
"""

import re
import sys
from pathlib import Path

ROOT = Path(__file__).resolve().parents[1]
APPS = ("crm", "o2r", "health", "pipelinepulse")
ROW = re.compile(r"^\| *(\d+) *\|(.+)\|(.+)\|(.*)\|$", re.MULTILINE)
NAME = re.compile(r"^ *def test_\w*?rows?_(\d+(?:_(?:and_)?\d+)*)", re.MULTILINE)


def rows() -> dict[int, tuple[str, str]]:
    """Number → what happens, and why there is no test (empty: there must be one)."""
    text = (ROOT / "docs" / "FAULTS.md").read_text()
    return {int(n): (fault.strip(), why.strip()) for n, fault, _, why in ROW.findall(text)}


def tested() -> dict[int, int]:
    """Number → how many tests carry it."""
    found: dict[int, int] = {}
    for app in APPS:
        for path in (ROOT / app).rglob("test_*.py"):
            for numbers in NAME.findall(path.read_text()):
                for number in re.findall(r"\d+", numbers):
                    found[int(number)] = found.get(int(number), 0) + 1
    return found


def main() -> int:
    wanted, has = rows(), tested()
    open_rows = [n for n, (_, why) in wanted.items() if not why and n not in has]
    reasons = [n for n, (_, why) in wanted.items() if why and n not in has]
    strangers = sorted(set(has) - set(wanted))
    for number in open_rows:
        print(f"no test     {number:3}  {wanted[number][0]}")
    for number in reasons:
        print(f"by reason   {number:3}  {wanted[number][0]}: {wanted[number][1]}")
    for number in strangers:
        print(f"no such row {number:3}")
    print(
        f"{len(wanted)} rows: {len(wanted) - len(open_rows) - len(reasons)} with tests "
        f"({sum(has.values())} of them), {len(reasons)} by reason, {len(open_rows)} open"
    )
    return 1 if open_rows or strangers else 0


if __name__ == "__main__":
    sys.exit(main())
