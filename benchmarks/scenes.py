"""How many scenes a second one core makes: 128 x 128 with four objects. Prints a table, writes results/scenes.json."""

import json
import time
from pathlib import Path

import torch

from maskwise.data.synthetic.scenes import Scenes

FILE = Path(__file__).parent / "results" / "scenes.json"
LEAST = 150
"""Still scenes a second; fewer is a failure."""

STREAMS = {
    "still": Scenes(count=(4, 4)),
    "still, no clutter": Scenes(count=(4, 4), clutter=0),
    "clip": Scenes(count=(4, 4), mode="clip"),
    "salient": Scenes(mode="salient"),
    "parts": Scenes(count=(4, 4), mode="parts"),
}


def per_second(scenes: Scenes, *, count: int = 50, repeats: int = 12) -> float:
    """Each scene by its fastest making, so that other processes on the machine matter little."""
    fastest = [float("inf")] * count
    for _ in range(repeats):
        for i in range(count):
            start = time.perf_counter()
            scenes.scene(i)
            fastest[i] = min(fastest[i], time.perf_counter() - start)
    return count / sum(fastest)


def main() -> None:
    torch.set_num_threads(1)
    rates = {name: round(per_second(scenes)) for name, scenes in STREAMS.items()}
    for name, rate in rates.items():
        print(f"{name:20} {rate:5} scenes/s")
    FILE.parent.mkdir(exist_ok=True)
    FILE.write_text(json.dumps({"what": "scenes of 128 x 128 a second, one core", "rates": rates}, indent=2) + "\n")
    if rates["still"] < LEAST:
        raise SystemExit(f"expected at least {LEAST} still scenes a second, got {rates['still']}")


if __name__ == "__main__":
    main()
