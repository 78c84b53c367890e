"""Pictures kept back to judge by, where a data set has no split of its own."""

import hashlib
import math
import re
from collections import Counter
from collections.abc import Mapping
from dataclasses import replace

from maskwise.data.dataset import DataSet
from maskwise.data.tiles import cut_from

TOO_FEW = 5
"""Pictures of which none is kept back: there would be nothing left to learn from, and one picture judges nothing."""


def held_out(data: DataSet, share: float, *, seed: int = 0, by: str | None = None) -> tuple[DataSet, DataSet | None]:
    """The others, and a share of the pictures, at least one. The seed and their names decide which, not their order.

    Pictures of the same thing, as `kin` tells, are all held out or none is: what is judged by must be news. So the
    share may be a little smaller, or larger where the first of them is.
    """
    of = {record.name: kin(record.name, by) for record in data}
    counts = Counter(of.values())
    if none_held_out(len(data), len(counts)):
        return data, None
    most = min(len(data) - 1, max(1, math.floor(share * len(data) + 0.5)))
    back = _chosen(counts, most, seed)
    learned, judged = (tuple(r for r in data if (of[r.name] in back) == which) for which in (False, True))
    return replace(data, records=learned), replace(data, records=judged)


def none_held_out(pictures: int, things: int) -> str | None:
    """Why, of so many pictures of so many things."""
    if pictures < TOO_FEW:
        return f"there are fewer than {TOO_FEW}"
    return "all are tiles of one picture" if things < 2 else None


def kin(name: str, by: str | None = None) -> str:
    """The same of pictures of the same thing: what the expression `by` finds in their names, its first group if it has
    one; without it, the picture that tiles were cut from, and of others their own name."""
    if by is None:
        return cut_from(name) or name
    if (found := re.search(by, name)) is None:
        raise ValueError(f"held_out_by: {by!r} finds nothing in the name of the picture {name!r}")
    return found[1 if found.re.groups else 0] or ""


def _chosen(counts: Mapping[str, int], most: int, seed: int) -> set[str]:
    """In a drawn order each that still fits; where none does, the smallest."""
    in_turn = sorted(counts, key=lambda key: _place(key, seed))
    back, left = set(), most
    for key in in_turn:
        if counts[key] <= left:
            back.add(key)
            left -= counts[key]
    return back or {min(in_turn, key=lambda key: counts[key])}


def _place(name: str, seed: int) -> bytes:
    return hashlib.sha256(f"{seed} {name}".encode(errors="surrogatepass")).digest()  # names of files may be no text
