"""The fingerprint of the trades that candles are computed from: the table, its columns and its time unit.

A watermark is valid only for the same fingerprint. Another table, column or time unit gives other trades
under the same snapshot id. The watermark itself is in `watermark`.
"""

import json
from typing import Any

from pyiceberg.table import Table

from k2_ohlcv.domain.candle import VALUE_COLUMNS
from k2_ohlcv.lake.trade_columns import read_field_ids, trades_time_unit


def trades_fingerprint(trades: Table) -> str:
    """The fingerprint of the loaded trades table, as JSON with sorted keys."""
    fingerprint = {
        "table": str(trades.metadata.table_uuid),
        "fields": read_field_ids(trades),
        "unit": trades_time_unit(trades),
        "candles": list(VALUE_COLUMNS),
    }
    return json.dumps(fingerprint, sort_keys=True, separators=(",", ":"))


def describe_difference(before: str, after: str) -> str | None:
    """Describe the difference of two fingerprints; None where they are equal."""
    if before == after:
        return None
    old, new = _parse(before), _parse(after)
    if old is None or new is None:
        return "the watermark does not name its trades table and columns"
    reasons = []
    if old["table"] != new["table"]:
        reasons.append(f"the trades table is another table ({new['table']}, not {old['table']})")
    columns = sorted({*old["fields"], *new["fields"]})
    changed = [c for c in columns if old["fields"].get(c) != new["fields"].get(c)]
    if changed and old["table"] == new["table"]:
        reasons.append(f"{', '.join(changed)} of the trades are read from other columns")
    if old["unit"] != new["unit"]:
        reasons.append(f"the time unit of the trades is {new['unit']}, not {old['unit']}")
    if old["candles"] != new["candles"]:
        reasons.append("the candle table has other value columns")
    return "; ".join(reasons) or "the trades are read in another way"


def _parse(text: str) -> dict[str, Any] | None:
    try:
        state = json.loads(text)
    except ValueError:
        return None
    return state if isinstance(state, dict) and {"table", "fields", "unit", "candles"} <= set(state) else None
