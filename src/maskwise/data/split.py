"""Pictures kept back to judge by, where a data set has no split of its own."""

import hashlib
import math
import re
from collections import Counter
from collections.abc import Collection, Mapping
from dataclasses import replace

from maskwise.data.dataset import DataSet
from maskwise.data.tiles import cut_from

TOO_FEW = 5
"""Pictures of which none is kept back: there would be nothing left to learn from, and one picture judges nothing."""


def held_out(
    data: DataSet, share: float, *, seed: int = 0, by: str | None = None, known: Collection[str] = ()
) -> tuple[DataSet, DataSet | None]:
    """The others, and a share of the pictures, at least one. The seed and their names decide which, not their order.

    Pictures of the same thing, as `kin` tells, are all held out or none is: what is judged by must be news. How many
    they are is then as near to the share as things in their drawn order bring it. `known`: names of pictures that have
    been learned from before; neither they nor others of the same thing are news.
    """
    of = {record.name: kin(record.name, by) for record in data}
    counts = Counter(of.values())
    if len(data) < TOO_FEW:
        return data, None
    if len(counts) < 2:
        if by is not None:
            raise ValueError(f"held_out_by: {by!r} finds the same in the names of all pictures, {next(iter(counts))!r}")
        return data, None
    seen = {of[name] for name in known if name in of}
    news = {thing: count for thing, count in counts.items() if thing not in seen}
    if not news:
        return data, None
    wanted = min(len(data) - 1, max(1, math.floor(share * len(data) + 0.5)))
    back = _chosen(news, wanted, seed, most=min(len(news), len(counts) - 1))
    learned, judged = ([name for name, thing in of.items() if (thing in back) == which] for which in (False, True))
    return only(data, learned), only(data, judged)


def only(data: DataSet, names: Collection[str]) -> DataSet:
    """The pictures of these names."""
    wanted = set(names)
    return replace(data, records=tuple(record for record in data if record.name in wanted))


def kin(name: str, by: str | None = None) -> str:
    """The same of pictures of the same thing: what the expression `by` finds in their names, its first group if it has
    one; without it, the picture that tiles were cut from, and of others their own name."""
    if by is None:
        return cut_from(name) or name
    found = re.search(by, name)
    if not (thing := found and found[1 if found.re.groups else 0]):
        raise ValueError(f"held_out_by: {by!r} finds nothing in the name of the picture {name!r}")
    return thing


def _chosen(counts: Mapping[str, int], wanted: int, seed: int, *, most: int) -> set[str]:
    """In a drawn order each that brings their number nearer to what is wanted; where none does, the smallest."""
    in_turn = sorted(counts, key=lambda thing: _place(thing, seed))
    back, count = set(), 0
    for thing in in_turn:
        if abs(count + counts[thing] - wanted) < abs(count - wanted) and len(back) < most:
            back.add(thing)
            count += counts[thing]
    return back or {min(in_turn, key=lambda thing: counts[thing])}


def _place(name: str, seed: int) -> bytes:
    return hashlib.sha256(f"{seed} {name}".encode(errors="surrogatepass")).digest()  # names of files may be no text
