"""The OpenAPI schema is valid, and nothing in it was guessed."""

from pathlib import Path

from django.core.management import call_command


def test_the_schema_is_valid_without_a_warning(tmp_path: Path) -> None:
    out = tmp_path / "schema.yml"
    call_command("spectacular", "--validate", "--fail-on-warn", "--file", str(out))
    assert "/api/o2r/dashboard" in out.read_text()
