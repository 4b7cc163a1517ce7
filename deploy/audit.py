"""`make audit`: the pinned requirements in, known vulnerabilities out, by pip-audit and the advisories that PyPI gives.

Exit status: 0 nothing is known, 1 something is, 77 the advisories can't be asked from here. pip-audit by itself calls
it "no known vulnerabilities" where an index has no advisories at all, as a mirror may not.
"""

from __future__ import annotations

import json
import subprocess
import sys
from pathlib import Path
from typing import Any

PINS = Path(__file__).parent / "requirements"
SKIPPED = 77


def report_on(pins: Path) -> dict[str, Any]:
    """What pip-audit says about a file of pins; without dependencies where it could ask nobody."""
    command = [sys.executable, "-m", "pip_audit", "--requirement", str(pins), "--no-deps", "--disable-pip"]
    done = subprocess.run([*command, "--format", "json", "--progress-spinner", "off"], capture_output=True, text=True)
    if not done.stdout.strip():
        print(done.stderr.strip().splitlines()[-1] if done.stderr.strip() else "pip-audit said nothing")
        return {"dependencies": []}
    return dict(json.loads(done.stdout))


def verdict(name: str, report: dict[str, Any]) -> tuple[int, list[str]]:
    """The exit status for one report, and lines that say why."""
    packages = report["dependencies"]
    asked = [package for package in packages if "skip_reason" not in package]
    if not asked:
        return SKIPPED, [f"{name}: not audited: there are no advisories to be had from here"]
    lines = [
        f"{name}: {package['name']} {package['version']}: {found['id']}"
        f" (fixed in {', '.join(found['fix_versions']) or 'no version yet'})"
        for package in asked
        for found in package["vulns"]
    ]
    unknown = sorted(package["name"] for package in packages if "skip_reason" in package)
    if unknown:
        lines.append(f"{name}: nothing can be learnt about {', '.join(unknown)}")
    bad = any(package["vulns"] for package in asked)
    return int(bad), [*lines, f"{name}: {len(asked)} packages audited, {'see above' if bad else 'nothing known'}"]


def main() -> int:
    statuses = []
    for pins in (PINS / "serve.txt", PINS / "dev.txt"):
        status, lines = verdict(pins.name, report_on(pins))
        print("\n".join(lines))
        statuses.append(status)
    return 1 if 1 in statuses else max(statuses)


if __name__ == "__main__":
    sys.exit(main())
