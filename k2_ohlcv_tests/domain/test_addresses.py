"""Addresses are shown without their secrets, whatever is wrong with them."""

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
def test_no_secret_of_an_address_is_shown(address: str) -> None:
    assert "SECRET" not in redact_address(address)
    assert "***" in redact_address(address)


@pytest.mark.parametrize("address", [a for a in ADDRESSES if " " not in a and "://" in a])
def test_nor_in_a_text(address: str) -> None:
    said = redact_secrets(f"cannot connect to '{address}' (refused): correct {address}, or unset it")
    assert "SECRET" not in said
    assert said.startswith("cannot connect to '")
    assert said.endswith("or unset it")


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
def test_nor_where_it_holds_what_ends_an_address_or_is_named_otherwise(text: str) -> None:
    said = redact_secrets(text)
    assert "SECRET" not in said
    assert "***" in said


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
def test_what_has_no_secret_stays(text: str) -> None:
    assert redact_secrets(text) == text


@given(st.text(alphabet="abc:/@;?#=.[] '\"", max_size=20), st.text(alphabet="ab@;?#/:", max_size=5))
def test_a_token_at_the_end_never_shows(start: str, end: str) -> None:
    """Whatever stands before the parameters, and whatever marks the token itself has."""
    assert "SECRET" not in redact_address(f"sc://{start};token={end}SECRET")
