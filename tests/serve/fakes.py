"""A model that takes what is bright for objects, and servers for tests: real ones, on a free port of loopback."""

import threading
import time
from collections.abc import Iterator, Sequence
from contextlib import contextmanager
from io import BytesIO

import httpx
import numpy as np
import torch
import uvicorn
from PIL import Image
from scipy import ndimage

from maskwise.categories import Categories
from maskwise.masks import Masks
from maskwise.serve.app import create_app
from maskwise.serve.connection import Connection
from maskwise.serve.guard import Access
from maskwise.serve.limits import Limits
from maskwise.structures import Instances

CATEGORIES = Categories(names=("cell", "nucleus"), ids=(3, 7))


class Bright:
    """One instance a connected bright part: class by size, score by brightness, quality by how much of its box it
    fills."""

    name = "models/bright.safetensors"
    categories = CATEGORIES

    def __init__(self, *, seconds: float = 0.0, fails_on: int | None = None, most: int | None = None) -> None:
        self.seconds, self.fails_on, self.most = seconds, fails_on, most
        self.batches: list[int] = []
        self.may_go = threading.Event()
        self.may_go.set()

    def instances(self, pictures: Sequence[np.ndarray]) -> list[Instances]:
        self.batches.append(len(pictures))
        self.may_go.wait(20)
        time.sleep(self.seconds)
        if self.most is not None and len(pictures) > self.most:
            raise RuntimeError("CUDA out of memory. Tried to allocate 2.00 GiB")
        if self.fails_on is not None and any(int(p[0, 0, 0]) == self.fails_on for p in pictures):
            raise KeyError("the secret of the model")
        return [self._one(picture) for picture in pictures]

    def _one(self, picture: np.ndarray) -> Instances:
        grey = picture.mean(2)
        ids, count = ndimage.label(grey > 100)
        size = (picture.shape[0], picture.shape[1])
        if not count:
            return Instances.none(size)
        masks, _ = Masks.from_label_map(ids.astype(np.int32))
        area, boxes = masks.area(), masks.boxes()
        number = np.arange(1, count + 1)
        scores = torch.from_numpy(np.float32(ndimage.mean(grey, ids, number) / 255))
        quality = area / ((boxes[:, 2] - boxes[:, 0]) * (boxes[:, 3] - boxes[:, 1]))
        return Instances(
            boxes=boxes + torch.tensor([-0.5, -0.25, 0.25, 0.5]),  # models box what they look at, not the mask
            labels=(area > 60).to(torch.int64),
            scores=scores,
            quality=quality,
            mask_scores=scores * quality,
            masks=masks,
        ).ranked()


def spots(width: int = 64, height: int = 48, *, corner: int = 0) -> np.ndarray:
    """Dark, with a disc, a ring with a hole, two parts that touch at a corner, one pixel and a faint square."""
    pixels = np.full((height, width, 3), 20, np.uint8)
    y, x = np.mgrid[:height, :width]
    pixels[(x - 14) ** 2 + (y - 14) ** 2 < 64] = 250
    away = (x - 40) ** 2 + (y - 20) ** 2
    pixels[(away < 100) & (away > 20)] = 210
    pixels[34:38, 8:12] = pixels[38:42, 12:16] = 160
    pixels[44:45, 30:31] = 240
    pixels[36:44, 50:60] = 110
    pixels[0, 0] = corner
    return pixels


def as_file(pixels: np.ndarray, kind: str = "PNG", **options: object) -> bytes:
    file = BytesIO()
    Image.fromarray(pixels).save(file, kind, **options)
    return file.getvalue()


@contextmanager
def served(model: object, limits: Limits | None = None, *, access: Access | None = None) -> Iterator[httpx.Client]:
    """A client of a server that runs in a thread."""
    app = create_app(model, limits, access=access)
    config = uvicorn.Config(
        app, port=0, http=Connection, ws="none", lifespan="on", log_config=None, access_log=False, server_header=False
    )
    server = uvicorn.Server(config)
    thread = threading.Thread(target=server.run)
    thread.start()
    try:
        while not server.started:
            assert thread.is_alive(), "the server did not start"
            time.sleep(0.005)
        port = server.servers[0].sockets[0].getsockname()[1]
        with httpx.Client(base_url=f"http://127.0.0.1:{port}", timeout=20, trust_env=False) as client:
            client.app = app
            yield client
    finally:
        server.should_exit = True
        thread.join(20)
        assert not thread.is_alive()


def ask(client: httpx.Client, *files: bytes, **options: object) -> httpx.Response:
    return client.post("/v1/predict", files=[("file", ("x", file)) for file in files], data=options)


def wait_for(condition, seconds: float = 5) -> None:
    until = time.monotonic() + seconds
    while not condition():
        assert time.monotonic() < until
        time.sleep(0.005)
