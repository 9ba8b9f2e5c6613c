"""A converted column, with the reason for each row that cannot be converted."""

from dataclasses import dataclass

import numpy as np
import numpy.typing as npt
import pyarrow as pa

Int64s = npt.NDArray[np.int64]


@dataclass(frozen=True)
class ParsedColumn:
    """A converted column, with the reason for each row that cannot be converted.

    Attributes:
        values: one value per row. The value of a row with an error has no meaning.
        errors: row number -> reason.
    """

    values: pa.Array
    errors: dict[int, str]
