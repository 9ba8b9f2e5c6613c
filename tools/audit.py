"""Compares the pinned dependencies with the OSV database of known vulnerabilities: `make audit`.

It needs the standard library alone. pip-audit does the same with twelve further packages, which would be
pinned and audited too. Exit codes: 0 none known or no answer, 1 at least one is known.
"""

import json
import re
import sys
from pathlib import Path
from urllib.error import URLError
from urllib.request import Request, urlopen

SERVICE = "https://api.osv.dev/v1/querybatch"
#: Seconds to wait for the service. Without an answer `make lint` goes on.
_TIMEOUT = 5.0
_PIN = re.compile(r"^([A-Za-z0-9][A-Za-z0-9._-]*)==([^\s;]+)")


def read_pins(requirements: Path) -> list[tuple[str, str]]:
    """The packages of a requirements file, with their exact versions."""
    return [
        (found[1], found[2]) for line in requirements.read_text().splitlines() if (found := _PIN.match(line))
    ]


def find_vulnerabilities(pins: list[tuple[str, str]], service: str) -> dict[str, list[str]]:
    """The ids of known vulnerabilities, by `name==version`.

    Raises:
        OSError: the service does not answer.
        ValueError: its answer is no JSON of the known form.
    """
    queries = [{"package": {"name": name, "ecosystem": "PyPI"}, "version": version} for name, version in pins]
    body = json.dumps({"queries": queries}).encode()
    request = Request(service, body, {"Content-Type": "application/json"})  # noqa: S310 # the address is ours
    with urlopen(request, timeout=_TIMEOUT) as answer:  # noqa: S310 # the address is ours
        results = json.load(answer).get("results")
    if not isinstance(results, list) or len(results) != len(pins):
        raise ValueError("the answer does not have one result a package")
    return {
        f"{name}=={version}": [known["id"] for known in result["vulns"]]
        for (name, version), result in zip(pins, results, strict=True)
        if result and result.get("vulns")
    }


def main(arguments: list[str]) -> int:
    """Audit a requirements file, and print the result."""
    requirements = Path(arguments[0] if arguments else "requirements.txt")
    service = arguments[1] if len(arguments) > 1 else SERVICE
    pins = read_pins(requirements)
    try:
        found = find_vulnerabilities(pins, service)
    except (URLError, OSError, ValueError, AttributeError, KeyError) as error:
        print(f"audit: SKIPPED, as the service of advisories gives no answer ({error})")
        return 0
    for package, ids in found.items():
        print(f"audit: {package} has known vulnerabilities: {', '.join(ids)}")
    print(f"audit: {len(pins)} packages compared, {len(found)} with known vulnerabilities")
    return 1 if found else 0


if __name__ == "__main__":
    sys.exit(main(sys.argv[1:]))
