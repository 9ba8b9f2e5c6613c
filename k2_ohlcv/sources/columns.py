"""A converted column and the reasons why rows of it are unusable."""

from dataclasses import dataclass

import numpy as np
import numpy.typing as npt
import pyarrow as pa

Int64s = npt.NDArray[np.int64]


@dataclass(frozen=True)
class ParsedColumn:
    """A converted column, and why rows of it are unusable.

    Attributes:
        values: as many values as there were rows; a row at fault has any value.
        errors: row number -> reason.
    """

    values: pa.Array
    errors: dict[int, str]
