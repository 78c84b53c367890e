"""Load on the server: many requests at once over loopback, until each has its answer.

    python benchmarks/serve.py --out benchmarks/results/serve.json

Some hundred clients send at the same time, round after round; who is told that there is no room (503) waits as long as
Retry-After says and sends again. Measured are the time from the first sending to the answer, waiting included, that
nothing is lost, and the memory of the server's process after each round. Without `--model` the model is a threshold on
brightness, so that the numbers are those of the server. The exit code is 1 where an answer was lost or memory grew.
"""

import argparse
import asyncio
import json
import multiprocessing
import os
import platform
import statistics
import sys
import time
from collections import Counter
from collections.abc import Sequence
from dataclasses import dataclass, field
from importlib.metadata import version
from io import BytesIO
from multiprocessing.connection import Connection
from pathlib import Path
from typing import NamedTuple

import httpx
import numpy as np
import psutil
import torch
from PIL import Image
from rich.console import Console
from rich.table import Table
from scipy import ndimage

from maskwise.categories import Categories
from maskwise.data.synthetic.scenes import Scenes
from maskwise.masks import Masks
from maskwise.structures import Instances

GROWTH = 1.05
"""Of the memory from the end of the first third of the rounds to the last one; beyond it is a leak."""


class Threshold:
    """A model that takes connected parts brighter than the mean for objects."""

    name = "threshold"
    categories = Categories(names=("bright",))

    def instances(self, pictures: Sequence[np.ndarray]) -> list[Instances]:
        return [self._one(picture.mean(2)) for picture in pictures]

    def _one(self, grey: np.ndarray) -> Instances:
        ids, count = ndimage.label(ndimage.binary_opening(grey > grey.mean(), iterations=2))
        masks, _ = Masks.from_label_map(ids.astype(np.int32))
        ones = torch.ones(count)
        return Instances(
            boxes=masks.boxes(),
            labels=torch.zeros(count, dtype=torch.int64),
            scores=ones,
            quality=ones,
            mask_scores=ones,
            masks=masks,
        )


@dataclass(slots=True)
class Tally:
    """What the clients saw."""

    seconds: list[float] = field(default_factory=list)
    codes: Counter[str] = field(default_factory=Counter)
    lost: int = 0


class Load(NamedTuple):
    """What was measured."""

    tally: Tally
    memory: list[float]
    """MiB of the server after each round."""
    seconds: float
    work: float
    """Seconds of processors that the server used."""


def main() -> int:
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    parser.add_argument("--clients", type=int, default=200, help="requests at once")
    parser.add_argument("--rounds", type=int, default=15)
    parser.add_argument("--side", type=int, default=256, help="of the square pictures")
    parser.add_argument("--model", help="file or folder of a model; a threshold if left out")
    parser.add_argument("--out", type=Path, help="write the numbers as JSON")
    options = parser.parse_args()
    torch.set_num_threads(1)
    about = machine()
    here, there = multiprocessing.Pipe()
    server = multiprocessing.get_context("spawn").Process(target=serve, args=(options.model, there))
    server.start()
    try:
        url = here.recv()
        measured = asyncio.run(load(url, psutil.Process(server.pid), options))
    finally:
        server.terminate()  # SIGTERM: it ends as it would in earnest
        server.join(30)
    result = summary(measured, options) | {"exit code of the server": server.exitcode}
    show(result)
    if options.out:
        options.out.parent.mkdir(parents=True, exist_ok=True)
        content = {"machine": about, **result}
        options.out.write_text(json.dumps(content, indent=1) + "\n")
    return int(measured.tally.lost > 0 or not result["memory is flat"] or server.exitcode != 0)


def serve(model: str | None, parent: Connection) -> None:
    """The process that is measured."""
    from maskwise.model import load as load_model
    from maskwise.serve.command import access_of, listening, run
    from maskwise.serve.limits import Limits

    with listening("127.0.0.1", 0) as listener:
        parent.send(f"http://127.0.0.1:{listener.getsockname()[1]}")
        served = Threshold() if model is None else load_model(model)
        run(served, listener, limits=Limits(), access=access_of("127.0.0.1", None, ()))


async def load(url: str, server: psutil.Process, options: argparse.Namespace) -> Load:
    """Rounds of requests."""
    scenes = Scenes(size=(options.side, options.side), count=(5, 15))
    files = [encoded(scenes.scene(i).pixels) for i in range(20)]
    tally, memory = Tally(), []
    limits = httpx.Limits(max_connections=options.clients)
    async with httpx.AsyncClient(base_url=url, limits=limits, timeout=120, trust_env=False) as client:
        await ready(client)
        began, work = time.perf_counter(), processor_seconds(server)
        for number in range(options.rounds):
            sent = [ask(client, files[(number + i) % len(files)], tally) for i in range(options.clients)]
            await asyncio.gather(*sent)
            memory.append(server.memory_info().rss / 2**20)
        return Load(tally, memory, time.perf_counter() - began, processor_seconds(server) - work)


def processor_seconds(server: psutil.Process) -> float:
    times = server.cpu_times()
    return times.user + times.system


async def ready(client: httpx.AsyncClient) -> None:
    while True:
        try:
            if (await client.get("/readyz")).status_code == 200:
                return
        except httpx.TransportError:
            pass
        await asyncio.sleep(0.1)


async def ask(client: httpx.AsyncClient, file: bytes, tally: Tally) -> None:
    """Until there is an answer."""
    began = time.perf_counter()
    while True:
        try:
            answer = await client.post("/v1/predict", files={"file": ("picture", file)})
        except httpx.TransportError as error:
            tally.codes[type(error).__name__] += 1
            tally.lost += 1
            return
        tally.codes[str(answer.status_code)] += 1
        if answer.status_code != 503:
            break
        await asyncio.sleep(float(answer.headers["retry-after"]))
    tally.seconds.append(time.perf_counter() - began)
    tally.lost += answer.status_code != 200 or "instances" not in answer.json()["pictures"][0]


def encoded(pixels: np.ndarray) -> bytes:
    file = BytesIO()
    Image.fromarray(pixels).save(file, "PNG")
    return file.getvalue()


def summary(measured: Load, options: argparse.Namespace) -> dict[str, object]:
    tally, memory = measured.tally, measured.memory
    cuts = statistics.quantiles(tally.seconds, n=100, method="inclusive")
    settled = memory[len(memory) // 3]
    return {
        "requests": options.clients * options.rounds,
        "at once": options.clients,
        "picture": f"{options.side} x {options.side}",
        "model": "threshold" if options.model is None else Path(options.model).name,
        "answers": dict(sorted(tally.codes.items())),
        "lost": tally.lost,
        "answered per second": round(len(tally.seconds) / measured.seconds, 1),
        "processor ms an answer": round(1e3 * measured.work / len(tally.seconds), 1),
        "p50 s": round(cuts[49], 3),
        "p90 s": round(cuts[89], 3),
        "p99 s": round(cuts[98], 3),
        "longest s": round(max(tally.seconds), 3),
        "memory MiB after each round": [round(value) for value in memory],
        "memory is flat": memory[-1] <= GROWTH * settled,
    }


def machine() -> dict[str, object]:
    names = ("maskwise", "fastapi", "starlette", "uvicorn", "torch", "numpy")
    packages = {name: version(name) for name in names}
    load = round(os.getloadavg()[2], 1)  # of the last quarter of an hour: what else the machine was busy with
    return {"cores": os.cpu_count(), "load average": load, "python": platform.python_version(), **packages}


def show(result: dict[str, object]) -> None:
    table = Table(box=None, show_header=False)
    for name, value in result.items():
        table.add_row(name, str(value))
    Console().print(table)


if __name__ == "__main__":
    sys.exit(main())
