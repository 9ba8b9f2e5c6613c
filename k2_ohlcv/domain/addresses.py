"""Redaction of passwords and tokens in addresses and in texts.

Every text for people or logs that may contain an address passes through here.
Control characters are in `printable`.
"""

import re

_REDACTED = "***"
#: An address in a text ends at white space, a quote or a bracket. File addresses contain no secrets.
_ADDRESS_IN_TEXT = re.compile(r"(?!file:)\b[a-z][a-z0-9+.\-]*://[^\s'\"<>`]+", re.IGNORECASE)
#: A password may contain white space and quotes. A port number is not a password.
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
#: The value of an HTTP authorization header.
_BEARER = re.compile(r"\b(bearer\s+)[\w.~+/=\-]+", re.IGNORECASE)


def redact_address(address: str) -> str:
    """Remove user, password, parameters and query from one address, even from a malformed address."""
    head, separator, rest = _split_at_separator(address)
    scheme, slashes, location = head.rpartition("//")
    if "@" in rest:
        # Either the password contains the separator or a parameter contains an @. Both look the same.
        return f"{scheme}{slashes}{_REDACTED}"
    if "@" in location:
        location = f"{_REDACTED}@{location.rpartition('@')[2]}"
    shown = _NAMED_SECRET.sub(rf"\1{_REDACTED}", f"{scheme}{slashes}{location}")
    return shown + (separator and f"{separator}{_REDACTED}")


def redact_secrets(text: str) -> str:
    """Remove secrets from a text: in addresses, in `password=...` pairs and in bearer tokens."""
    shown = _PASSWORD.sub(rf"\1{_REDACTED}@", text)
    shown = _ADDRESS_IN_TEXT.sub(lambda match: redact_address(match[0]), shown)
    return _BEARER.sub(rf"\1{_REDACTED}", _NAMED_SECRET.sub(rf"\1{_REDACTED}", shown))


def _split_at_separator(address: str) -> tuple[str, str, str]:
    """Split an address at its first parameter, query or fragment separator."""
    separator = re.search(r"[;?#]", address)
    if separator is None:
        return address, "", ""
    return address[: separator.start()], separator[0], address[separator.end() :]
