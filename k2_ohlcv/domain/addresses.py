"""Addresses as they may be shown: without the passwords and tokens that they carry.

Every text that is shown to people or written to a log, and that may hold an address, passes here.
"""

import re

_REDACTED = "***"
#: An address in a text ends at white space, a quote or a bracket. That of a file has no secrets.
_ADDRESS_IN_TEXT = re.compile(r"(?!file:)\b[a-z][a-z0-9+.\-]*://[^\s'\"<>`]+", re.IGNORECASE)
#: A password may hold white space and quotes, but is not the number of a port.
_PASSWORD = re.compile(
    r"(?!file:)\b([a-z][a-z0-9+.\-]*://)[^\s/:@'\"<>`]*:(?!\d{1,5}(?:[/\s'\",;)]|$))[^\n@]{1,500}@",
    re.IGNORECASE,
)
_NAMED_SECRET = re.compile(
    r"((?:token|password|passwd|passphrase|pwd|\bpass|secret|credentials?|signature|"
    r"(?:access|private|api)[-_.]?key(?:[-_.]?id)?)['\"]?\s*[=:]\s*)"
    r"('(?:[^'\\]|\\.)*'|\"(?:[^\"\\]|\\.)*\"|['\"]?[^\s;&,'\")\]}]+)",
    re.IGNORECASE,
)
#: The header of a request.
_BEARER = re.compile(r"\b(bearer\s+)[\w.~+/=\-]+", re.IGNORECASE)


def redact_address(address: str) -> str:
    """One address without user, password, parameters and query, however malformed the address is."""
    head, mark, rest = _redact_malformed(address)
    scheme, slashes, place = head.rpartition("//")
    if "@" in rest:
        # A password with a mark in it, or a parameter with an @: which one cannot be told.
        return f"{scheme}{slashes}{_REDACTED}"
    if "@" in place:
        place = f"{_REDACTED}@{place.rpartition('@')[2]}"
    return _NAMED_SECRET.sub(rf"\1{_REDACTED}", f"{scheme}{slashes}{place}") + (mark and f"{mark}{_REDACTED}")


def redact_secrets(text: str) -> str:
    """A text without the secrets of the addresses in it, and of what looks like `password=...`."""
    shown = _PASSWORD.sub(rf"\1{_REDACTED}@", text)
    shown = _ADDRESS_IN_TEXT.sub(lambda found: redact_address(found[0]), shown)
    return _BEARER.sub(rf"\1{_REDACTED}", _NAMED_SECRET.sub(rf"\1{_REDACTED}", shown))


def _redact_malformed(address: str) -> tuple[str, str, str]:
    found = re.search(r"[;?#]", address)
    if found is None:
        return address, "", ""
    return address[: found.start()], found[0], address[found.end() :]
