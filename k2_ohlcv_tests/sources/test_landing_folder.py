"""The landing folder: which files are listed, and which names are refused."""

import os
from pathlib import Path

import pytest

from k2_ohlcv.domain.errors import BadFileError
from k2_ohlcv.sources.landing_folder import find_file, is_unterminated, list_files


@pytest.fixture
def landing(tmp_path: Path) -> Path:
    folder = tmp_path / "landing"
    (folder / "X" / "AB").mkdir(parents=True)
    (folder / "X" / "AB" / "t.csv").write_text("t\n")
    (tmp_path / "secret.csv").write_text("s\n")
    return folder


def test_only_regular_files_below_the_folder_are_listed(landing: Path) -> None:
    """All other files are named with a reason. None of them stops the listing."""
    inside = landing / "X" / "AB"
    (inside / "out.csv").symlink_to(landing.parent / "secret.csv")
    (inside / "up.csv").symlink_to("../../../secret.csv")
    (inside / "within.csv").symlink_to("t.csv")
    (inside / "nothing.csv").symlink_to("gone.csv")
    (inside / "loop.csv").symlink_to("loop.csv")
    (landing / "Y").symlink_to(landing.parent)
    (landing / "Z").symlink_to(landing / "X")
    os.mkfifo(inside / "pipe.csv")
    (inside / ".hidden.csv").write_text("")
    (inside / "t.csv.part").write_text("")
    for name in (b"caf\xe9.csv", b"caf\xe9"):
        path = Path(os.fsdecode(os.fsencode(inside) + b"/" + name))
        path.mkdir() if path.suffix == "" else path.write_text("")
    (Path(os.fsdecode(os.fsencode(inside) + b"/caf\xe9")) / "t.csv").write_text("")
    (inside / "x\x1b[2J.csv").symlink_to("/etc/passwd")
    listing = list_files(landing)
    assert [path.name for path in listing.files] == ["t.csv", "within.csv"]
    words = {
        "X/AB/out.csv": "outside",
        "X/AB/up.csv": "outside",
        "X/AB/nothing.csv": "link to nothing",
        "X/AB/loop.csv": "cannot be read",
        "Y": "outside",
        "Z": "link to a folder",
        "X/AB/pipe.csv": "not a regular file",
        "X/AB/caf\\xe9.csv": "not UTF-8",
        "X/AB/caf\\xe9": "not UTF-8",
        "X/AB/x\\x1b[2J.csv": "outside",
    }
    assert set(listing.rejected) == set(words)
    for refused, word in words.items():
        assert word in listing.rejected[refused], refused


def test_the_landing_folder_may_be_a_link_or_missing(landing: Path) -> None:
    link = landing.parent / "link"
    link.symlink_to(landing)
    assert [path.name for path in list_files(link).files] == ["t.csv"]
    assert find_file(link, "X/AB/t.csv") == link / "X/AB/t.csv"
    assert list_files(landing / "missing").files == ()


@pytest.mark.parametrize(
    "name",
    ["../secret.csv", "../../../etc/passwd", "/etc/passwd", "X/../../secret.csv", "X/AB/out.csv", "a\0b"],
)
def test_a_name_that_leads_outside_is_refused(landing: Path, name: str) -> None:
    (landing / "X" / "AB" / "out.csv").symlink_to("/etc/passwd")
    with pytest.raises(BadFileError, match=r"outside|cannot be read") as caught:
        find_file(landing, name)
    assert str(caught.value).isprintable()


@pytest.mark.parametrize("name", ["X/AB/t.csv", "./X/AB/t.csv", "X/../X/AB/t.csv"])
def test_a_name_inside_is_found(landing: Path, name: str) -> None:
    path = find_file(landing, name)
    assert path is not None
    assert path.samefile(landing / "X" / "AB" / "t.csv")
    assert find_file(landing, "X/AB/gone.csv") is None
    assert find_file(landing, "X/AB") is None


@pytest.mark.parametrize(
    ("content", "unterminated"),
    [(b"a,b\n1,2", True), (b"a", True), (b"a,b\n", False), (b"", False), (b"\x1f\x8b\x08...", False)],
)
def test_plain_text_without_an_end_of_line_is_unterminated(
    tmp_path: Path, content: bytes, unterminated: bool
) -> None:
    path = tmp_path / "t"
    path.write_bytes(content)
    assert is_unterminated(path) == unterminated
    assert not is_unterminated(tmp_path / "missing")
