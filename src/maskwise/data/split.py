"""Pictures kept back to judge by, where a data set has no split of its own."""

import hashlib
import math
from dataclasses import replace

from maskwise.data.dataset import DataSet

TOO_FEW = 5
"""Pictures of which none is kept back: there would be nothing left to learn from, and one picture judges nothing."""


def held_out(data: DataSet, share: float, *, seed: int = 0) -> tuple[DataSet, DataSet | None]:
    """The others, and a share of the pictures, at least one. The seed and their names decide which, not their order."""
    if len(data) < TOO_FEW:
        return data, None
    count = min(len(data) - 1, max(1, math.floor(share * len(data) + 0.5)))
    back = set(sorted((record.name for record in data), key=lambda name: _place(name, seed))[:count])
    learned, judged = (tuple(r for r in data if (r.name in back) == which) for which in (False, True))
    return replace(data, records=learned), replace(data, records=judged)


def _place(name: str, seed: int) -> bytes:
    return hashlib.sha256(f"{seed} {name}".encode(errors="surrogatepass")).digest()  # names of files may be no text
