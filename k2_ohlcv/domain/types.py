"""The decimal types of prices and amounts, each written once.

Arrow, Polars, Iceberg and Spark forms derive from these values where they are used. Nothing here imports an
engine.
"""

from typing import NamedTuple


class ExactDecimal(NamedTuple):
    """A decimal type. Values that do not fit are refused, never rounded.

    Attributes:
        precision: digits in all.
        scale: digits after the point.
    """

    precision: int
    scale: int

    def __str__(self) -> str:
        """The type in SQL, as Spark reads it."""
        return f"decimal({self.precision},{self.scale})"


#: price x quantity is exactly a notional in every engine. Widen neither without narrowing the other.
PRICE = ExactDecimal(18, 8)
QUANTITY = ExactDecimal(19, 8)
#: The sum of the quantities of a window.
VOLUME = ExactDecimal(29, 8)
#: The sum of price x quantity of a window.
NOTIONAL = ExactDecimal(38, 16)
