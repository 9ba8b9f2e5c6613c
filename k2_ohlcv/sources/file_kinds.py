"""Detects the kind of a file from its first bytes. Unsupported kinds are named in error messages."""

ZIP, GZIP, PARQUET, TEXT = "zip", "gzip", "parquet", "text"

#: Every kind is recognisable from this many bytes.
HEAD_BYTES = 512
_SUPPORTED = ((b"PK\x03\x04", ZIP), (b"PK\x05\x06", ZIP), (b"\x1f\x8b", GZIP), (b"PAR1", PARQUET))

_TO_CONVERT = "convert it to CSV or Parquet first"
_TO_UNPACK = "unpack it, or pack it as gzip or zip, first"
# The first bytes of a file, the kind of the file, and the remedy.
_UNSUPPORTED = (
    (b"ARROW1", "an Arrow (feather) file", _TO_CONVERT),
    (b"FEA1", "a feather file", _TO_CONVERT),
    (b"\xff\xff\xff\xff", "an Arrow stream", _TO_CONVERT),
    (b"Obj\x01", "an Avro file", _TO_CONVERT),
    (b"SQLite format 3\x00", "an SQLite database", _TO_CONVERT),
    (b"\x89HDF\r\n\x1a\n", "an HDF5 file", _TO_CONVERT),
    (b"%PDF-", "a PDF document", _TO_CONVERT),
    (b"PARE", "an encrypted Parquet file", "decrypt it first"),
    (b"\x28\xb5\x2f\xfd", "zstd compressed", _TO_UNPACK),
    (b"\xfd7zXZ\x00", "xz compressed", _TO_UNPACK),
    (b"\x04\x22\x4d\x18", "lz4 compressed", _TO_UNPACK),
    (b"7z\xbc\xaf\x27\x1c", "a 7z archive", _TO_UNPACK),
    (b"Rar!\x1a\x07", "a rar archive", _TO_UNPACK),
    (b"\xff\xfe", "UTF-16 text", "save it as UTF-8"),
    (b"\xfe\xff", "UTF-16 text", "save it as UTF-8"),
)
_TAR_OFFSET = 257


def detect_file_kind(head: bytes) -> str:
    """Detect how to read a file: as zip, gzip, Parquet or text."""
    return next((kind for magic, kind in _SUPPORTED if head.startswith(magic)), TEXT)


def describe_unsupported(head: bytes) -> tuple[str, str] | None:
    """Describe a file of an unsupported kind, with the remedy. None if the file may be text.

    Args:
        head: the first `HEAD_BYTES` of the file, or the whole file if it is shorter.
    """
    for magic, kind, remedy in _UNSUPPORTED:
        if head.startswith(magic):
            return kind, remedy
    # The magic bytes of these kinds are letters, and a table of text may begin with the same letters.
    if head.startswith(b"BZh") and head[4:10] == b"1AY&SY":
        return "bzip2 compressed", _TO_UNPACK
    if head.startswith(b"ORC") and head[3:4] and not b" " <= head[3:4] <= b"~":
        return "an ORC file", _TO_CONVERT
    if head[_TAR_OFFSET : _TAR_OFFSET + 5] == b"ustar":
        return "a tar archive", _TO_UNPACK
    return None
