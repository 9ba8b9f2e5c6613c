"""The decimal types of prices and amounts, each defined once.

Other modules derive their Arrow, Polars, Iceberg and Spark types from these values. This module imports no
engine.
"""

from typing import NamedTuple


class ExactDecimal(NamedTuple):
    """A decimal type. A value that does not fit is rejected, never rounded.

    Attributes:
        precision: total number of digits.
        scale: digits after the decimal point.
    """

    precision: int
    scale: int

    def __str__(self) -> str:
        """Return the SQL name of the type, as Spark expects it."""
        return f"decimal({self.precision},{self.scale})"


#: price x quantity fits a notional exactly in every engine. Widen one type only if you narrow the other.
PRICE = ExactDecimal(18, 8)
QUANTITY = ExactDecimal(19, 8)
#: The sum of quantity over the trades of a window.
VOLUME = ExactDecimal(29, 8)
#: The sum of price x quantity over the trades of a window.
NOTIONAL = ExactDecimal(38, 16)
