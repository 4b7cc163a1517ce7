"""What `make audit` makes of pip-audit's reports: a finding fails, silence is not taken for an all-clear."""

from __future__ import annotations

from typing import Any

from deploy.audit import SKIPPED, verdict

SOUND: dict[str, Any] = {"name": "attrs", "version": "26.1.0", "vulns": []}
UNSOUND = {
    "name": "pillow",
    "version": "9.0.0",
    "vulns": [{"id": "PYSEC-2022-42979", "fix_versions": ["9.3.0"], "aliases": ["CVE-2022-45198"], "description": "…"}],
}
UNKNOWN = {"name": "torch", "skip_reason": "Dependency not found on PyPI and could not be audited: torch (2.15.0)"}


def test_a_known_vulnerability_fails_and_is_named_with_the_version_that_mends_it() -> None:
    status, lines = verdict("serve.txt", {"dependencies": [SOUND, UNSOUND]})
    assert status == 1
    assert "serve.txt: pillow 9.0.0: PYSEC-2022-42979 (fixed in 9.3.0)" in lines


def test_an_index_without_advisories_is_no_all_clear() -> None:
    assert verdict("serve.txt", {"dependencies": [UNKNOWN, UNKNOWN]})[0] == SKIPPED
    assert verdict("serve.txt", {"dependencies": []})[0] == SKIPPED


def test_packages_nothing_is_known_about_are_named_beside_those_that_were_audited() -> None:
    status, lines = verdict("dev.txt", {"dependencies": [SOUND, UNKNOWN]})
    assert status == 0
    assert lines == ["dev.txt: nothing can be learnt about torch", "dev.txt: 1 packages audited, nothing known"]
