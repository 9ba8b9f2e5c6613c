"""What was read of a trades table to make candles: which table, which columns, and which time unit.

A watermark counts only for the same fingerprint. Another table, another column or another unit under the same
snapshot id would be other trades.
"""

import json
from typing import Any

from pyiceberg.table import Table

from k2_ohlcv.domain.candle import VALUE_COLUMNS
from k2_ohlcv.lake.trade_columns import read_field_ids, trades_time_unit


def trades_fingerprint(trades: Table) -> str:
    """The fingerprint of a trades table as it is read now, as JSON with sorted keys."""
    read = {
        "table": str(trades.metadata.table_uuid),
        "fields": read_field_ids(trades),
        "unit": trades_time_unit(trades),
        "candles": list(VALUE_COLUMNS),
    }
    return json.dumps(read, sort_keys=True, separators=(",", ":"))


def describe_difference(before: str, after: str) -> str | None:
    """In what two fingerprints differ, in words; None where they are equal."""
    if before == after:
        return None
    old, new = _parsed(before), _parsed(after)
    if old is None or new is None:
        return "the watermark does not say which trades table and columns it was made from"
    reasons = []
    if old["table"] != new["table"]:
        reasons.append(f"the trades table is another one ({new['table']}, not {old['table']})")
    columns = sorted({*old["fields"], *new["fields"]})
    other = [c for c in columns if old["fields"].get(c) != new["fields"].get(c)]
    if other and old["table"] == new["table"]:
        reasons.append(f"{', '.join(other)} of the trades are read from other columns")
    if old["unit"] != new["unit"]:
        reasons.append(f"the time of the trades counts in {new['unit']}, not in {old['unit']}")
    if old["candles"] != new["candles"]:
        reasons.append("the candles have other columns to fill")
    return "; ".join(reasons) or "the trades are read in another way"


def _parsed(text: str) -> dict[str, Any] | None:
    try:
        found = json.loads(text)
    except ValueError:
        return None
    return found if isinstance(found, dict) and {"table", "fields", "unit", "candles"} <= set(found) else None
