"""Redaction of secrets in addresses and in texts, malformed ones included."""

import pytest
from hypothesis import given
from hypothesis import strategies as st

from k2_ohlcv.domain.addresses import redact_address, redact_secrets

ADDRESSES = [
    "sc://host:15002/;token=SECRET",
    "sc://host:15002/;use_ssl=true;token=SECRET;user_id=me",
    "sc://host:15002;token=SECRET",
    "sc://host:port/;token=SECRET",
    "sc:/host;token=SECRET",
    "SC://host/;TOKEN=SECRET",
    "sc://host:15002/token=SECRET",
    "sc://me:SECRET@host:15002",
    "sc://host:15002/;token=SECRET@more-SECRET",
    "sc://host:15002/;token=a SECRET with spaces",
    "me:SECRET@host",
    "token=SECRET",
    "postgresql+psycopg2://me:SECRET@db:5432/k2",
    "postgresql://me:SEC/SECRET@db/k2",
    "postgresql://me:?SECRET@db/k2",
    "postgresql://me@db/k2?password=SECRET",
    "http://catalog/v1?sig=SECRET",
    "https://me:SECRET@@host/",
]


@pytest.mark.parametrize("address", ADDRESSES)
def test_an_address_is_shown_without_its_secret(address: str) -> None:
    assert "SECRET" not in redact_address(address)
    assert "***" in redact_address(address)


@pytest.mark.parametrize("address", [a for a in ADDRESSES if " " not in a and "://" in a])
def test_a_text_is_shown_without_the_secret_of_its_address(address: str) -> None:
    redacted = redact_secrets(f"cannot connect to '{address}' (refused): correct {address}, or unset it")
    assert "SECRET" not in redacted
    assert redacted.startswith("cannot connect to '")
    assert redacted.endswith("or unset it")


@pytest.mark.parametrize(
    "text",
    [
        "postgresql://me:a SECRET@db/k2: refused",
        "postgresql://me:it's SECRET@db/k2: refused",
        "postgresql://me:<SECRET@db/k2: refused",
        "Authorization: Bearer SECRET",
        "{'s3.access-key-id': 'SECRET', 'api_key': 'SECRET'}",
        r'"password": "a\"SECRET"',
        'token="SECRET',
        "passphrase=SECRET pass=SECRET private_key: SECRET",
    ],
)
def test_secrets_with_quotes_or_blanks_and_of_other_names_are_redacted(text: str) -> None:
    redacted = redact_secrets(text)
    assert "SECRET" not in redacted
    assert "***" in redacted


@pytest.mark.parametrize(
    "text",
    [
        "http://127.0.0.1:3000/dagster, and mail me@here",
        "sc://host:15002",
        "SPARK_REMOTE='yarn' is not known: it is sc://host:port or local[N], or unset for Sail",
        "file:///tmp/a folder;of mine/with?marks#and@all: Permission denied",
        "http://127.0.0.1:3000/dagster",
        "no Spark Connect server answers at 127.0.0.1:9 ([Errno 111] Connection refused). Start it.",
    ],
)
def test_a_text_without_a_secret_stays_as_it_is(text: str) -> None:
    assert redact_secrets(text) == text


@given(st.text(alphabet="abc:/@;?#=.[] '\"", max_size=20), st.text(alphabet="ab@;?#/:", max_size=5))
def test_a_token_at_the_end_is_never_shown(start: str, end: str) -> None:
    """Neither the text before the parameters nor punctuation in the token matters."""
    assert "SECRET" not in redact_address(f"sc://{start};token={end}SECRET")
