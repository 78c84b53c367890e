"""The model's thread: what it puts together, and what it survives."""

import asyncio
import random
import threading
import time

import numpy as np
import pytest
from hypothesis import given
from hypothesis import strategies as st
from serve.fakes import Bright, as_file, ask, served, spots, wait_for

from maskwise.predict import Options as Wishes
from maskwise.predict import predict
from maskwise.predictions import memory
from maskwise.predictions.memory import Limit
from maskwise.serve.batching import Batcher, Unwanted, fit_together
from maskwise.serve.budget import Budget
from maskwise.serve.failure import Failure
from maskwise.serve.limits import Limits
from maskwise.serve.metrics import Metrics


def batched(model: Bright, pictures: list[np.ndarray], **limits: float) -> list:
    """Submitted while the model is held by a first picture, so that they wait together."""
    batcher = Batcher(model, Limits(**{"max_wait_ms": 1.0, **limits}), Metrics())
    batcher.start()
    model.may_go.clear()
    batcher.submit(spots(8, 8), "first")
    while not model.batches:
        pass
    futures = [batcher.submit(picture, str(i)) for i, picture in enumerate(pictures)]
    model.may_go.set()
    batcher.stop(10)
    return futures


def test_pictures_of_one_size_are_predicted_on_together_and_come_back_to_whom_they_belong():
    """Of one only: padded to another's size, a picture would have an answer that depends on who else asks."""
    model = Bright()
    widths = [200, 64, 60, 64, 60, 64]
    found = [future.result(10).instances for future in batched(model, [spots(width, 48) for width in widths])]
    assert [instances.masks.size for instances in found] == [(48, width) for width in widths]
    assert model.batches == [1, 1, 3, 2]


def test_batches_have_a_limit():
    model = Bright()
    batched(model, [spots()] * 5, max_batch=2)
    assert model.batches == [1, 2, 2, 1]


def test_where_memory_lacks_batches_are_halved():
    model = Bright(most=2)
    for future in batched(model, [spots()] * 6):
        assert len(future.result(10).instances) > 0
    assert model.batches == [1, 6, 3, 1, 2, 3, 1, 2]


def test_a_picture_that_is_too_much_alone_fails_alone():
    model = Bright(most=0)
    for future in batched(model, [spots()] * 2):
        with pytest.raises(Failure) as told:
            future.result(10)
        assert (told.value.status_code, told.value.code) == (500, "out_of_memory")


def test_a_picture_on_which_the_model_fails_costs_only_itself():
    futures = batched(Bright(fails_on=99), [spots(), spots(corner=99), spots()])
    assert len(futures[0].result(10)) == len(futures[2].result(10)) > 0
    with pytest.raises(Failure, match="failed on this picture"):
        futures[1].result(10)


def test_a_model_that_ends_its_thread_or_miscounts_does_not():
    class Wild(Bright):
        def instances(self, pictures):
            super().instances(pictures)
            raise SystemExit("away")

    class Forgetful(Bright):
        def instances(self, pictures):
            return super().instances(pictures)[1:]

    for model in (Wild(), Forgetful()):
        for future in batched(model, [spots()] * 2):
            with pytest.raises(Failure, match="failed on this picture"):
                future.result(10)


def test_what_waits_when_the_server_stops_is_still_answered_and_nothing_new_is_taken():
    model = Bright()
    batcher = Batcher(model, Limits(), Metrics())
    batcher.start()
    futures = [batcher.submit(spots(), "x") for _ in range(10)]
    batcher.stop(10)
    assert all(len(future.result(0).instances) for future in futures)
    assert batcher.trouble() == "the model's thread is not running"
    with pytest.raises(Failure, match="being stopped"):
        batcher.submit(spots(), "late")


def test_cancelled_pictures_are_passed_over():
    model = Bright()
    model.may_go.clear()
    batcher = Batcher(model, Limits(max_batch=1), Metrics())
    batcher.start()
    kept, dropped = batcher.submit(spots(), "a"), batcher.submit(spots(), "b")
    while not model.batches:
        pass
    assert dropped.cancel()
    assert batcher.waiting == 0, "its pixels are given back now, not when its turn comes"
    model.may_go.set()
    batcher.stop(10)
    assert len(kept.result(0).instances) > 0
    assert model.batches == [1]


def test_a_client_that_leaves_an_idle_model_does_not_stop_it():
    """While it waits for more pictures the only one is taken back."""
    batcher = Batcher(Bright(), Limits(max_wait_ms=20.0), Metrics())
    batcher.start()
    for _ in range(5):
        assert batcher.submit(spots(), "gone").cancel()
        time.sleep(0.04)
    assert batcher.trouble() is None
    assert len(batcher.submit(spots(), "stays").result(10).instances) > 0
    batcher.stop(10)
    assert not batcher.is_alive


def test_where_the_models_thread_has_ended_the_probes_say_so(monkeypatch):
    def broken(_batcher):
        raise OSError("what should not happen")

    monkeypatch.setattr(Batcher, "_next_batch", broken)
    monkeypatch.setattr(threading, "excepthook", lambda _: None)
    with served(Bright()) as client:
        wait_for(lambda: client.get("/healthz").status_code == 503)
        assert "the model's thread has ended" in client.get("/healthz").text
        assert client.get("/readyz").status_code == 503
        client.app.state.service.draining = True
        assert client.get("/healthz").status_code == 200, "it ends on its own: no reason to kill it"


# Large pictures


class Looking(Bright):
    """Remembers what it was shown."""

    def __init__(self, **options) -> None:
        super().__init__(**options)
        self.sizes: list[tuple[int, int]] = []

    def instances(self, pictures):
        self.sizes += [picture.shape[:2] for picture in pictures]
        return super().instances(pictures)


@pytest.fixture
def small_tiles(monkeypatch):
    """What is large, and a tile, for tests that cannot wait for millions of pixels."""
    monkeypatch.setattr(memory, "MOST_SEEN", 80_000)
    monkeypatch.setattr(memory, "TILE", 256)


def large() -> np.ndarray:
    """Spots everywhere, also where tiles meet."""
    return np.tile(spots(), (12, 10, 1))


def test_a_large_picture_is_looked_at_in_tiles_and_gives_what_the_command_line_gives(small_tiles):
    model = Looking()
    [future, other] = batched(model, [large(), spots()])
    found = future.result(20)
    assert len(other.result(20).instances) > 0
    assert len(model.sizes) > 4
    assert max(map(max, model.sizes)) == 256
    assert max(model.batches) == 1
    asked = predict(model, large(), Wishes(min_score=0.0)).instances
    assert found.instances.masks.rle() == asked.masks.rle()


def test_pictures_together_are_no_more_than_one_may_be(small_tiles):
    model = Looking()
    for future in batched(model, [spots(200, 200)] * 4):
        future.result(20)
    assert model.batches == [1, 2, 2]


def test_a_large_picture_that_nobody_waits_for_is_given_up_between_tiles(small_tiles):
    model = Looking()
    batcher = Batcher(model, Limits(), Metrics())
    batcher.start()
    model.may_go.clear()
    future = batcher.submit(large(), "large")
    while not model.batches:
        pass
    assert not future.cancel(), "it is being looked at"
    after = batcher.submit(spots(), "after")
    model.may_go.set()
    assert len(after.result(20).instances) > 0
    assert model.sizes == [(256, 256), (48, 64)]
    batcher.stop(10)


def test_after_the_time_for_an_answer_the_model_is_free_for_others(small_tiles):
    """Of nine tiles it has seen some. Others may have to ask again on a machine that is busy."""
    model = Looking(seconds=0.4)
    with served(model, Limits(timeout=1.0)) as client:
        answer = ask(client, as_file(large()))
        assert (answer.status_code, answer.json()["error"]["code"]) == (504, "timeout")
        assert any(ask(client, as_file(spots())).status_code == 200 for _ in range(10))
        assert model.sizes.count((256, 256)) < 9


def test_a_crowded_picture_that_nobody_waits_for_costs_its_neighbours_nothing():
    """Two are looked at together; both hold more than the model gives, and would be looked at in tiles."""

    class Few(Looking):
        most_instances = 1

        def up_to(self, _most):
            return self

        def instances(self, pictures):
            if len(pictures) == 2:
                futures[0].cancel()
            return super().instances(pictures)

    model = Few()
    model.may_go.clear()
    batcher = Batcher(model, Limits(), Metrics())
    batcher.start()
    batcher.submit(spots(), "before")
    while not model.batches:
        pass
    futures = [batcher.submit(large(), name, limit=Limit(most=1)) for name in ("unwanted", "wanted")]
    model.may_go.set()
    with pytest.raises(Unwanted):
        futures[0].result(20)
    assert futures[1].result(20).tile is not None
    assert 2 in model.batches
    batcher.stop(10)


def test_where_memory_lacks_a_single_picture_is_cut(monkeypatch):
    class Little(Looking):
        def instances(self, pictures):
            if max(pictures[0].shape) > 330:
                raise RuntimeError("CUDA out of memory. Tried to allocate 2.00 GiB")
            return super().instances(pictures)

    model = Little()
    [future] = batched(model, [large()])
    assert len(future.result(20).instances) > 0
    assert max(map(max, model.sizes)) <= 330


# The most that a model gives


@pytest.mark.parametrize(
    ("asked", "most", "told"),
    [({}, 6, 6), ({}, 7, None), ({"min_score": 0.5}, 6, None), ({"min_quality": 1.0}, 6, 6)],
)
def test_an_answer_says_where_there_may_be_more_than_the_model_gives(asked, most, told):
    class Few(Bright):
        most_instances = most

        def up_to(self, _most):
            return self

    with served(Few()) as client:
        asked = {"min_score": 0.0, **asked}
        answer = ask(client, as_file(spots()), as_file(np.zeros((8, 8, 3), np.uint8)), **asked)
        assert [picture.get("limit_reached") for picture in answer.json()["pictures"]] == [told, None]
        table = ask(client, as_file(spots()), format="csv", **asked)
        assert table.headers.get("maskwise-limit-reached") == (None if told is None else str(told))


def test_the_picture_that_fails_is_told_and_the_server_goes_on():
    with served(Bright(fails_on=99)) as client:
        answer = ask(client, as_file(spots(corner=99)))
        assert (answer.status_code, answer.json()["error"]["code"]) == (500, "model_failed")
        assert "secret" not in answer.text
        assert "Traceback" not in answer.text
        both = ask(client, as_file(spots()), as_file(spots(corner=99))).json()["pictures"]
        assert len(both[0]["instances"]) > 0
        assert both[1]["error"]["code"] == "model_failed"
        assert client.get("/readyz").status_code == 200


def test_requests_of_several_clients_meet_in_one_batch():
    model = Bright()
    with served(model, Limits(max_wait_ms=400)) as client:
        threads = [threading.Thread(target=ask, args=(client, as_file(spots()))) for _ in range(8)]
        for thread in threads:
            thread.start()
        for thread in threads:
            thread.join(10)
    assert model.batches == [8]


@given(st.tuples(st.integers(1, 6000), st.integers(1, 6000)), st.integers(1, 8), st.booleans())
def test_a_batch_is_of_one_size_and_small_enough(size, count, other):
    sizes = [size] * count + [(size[0] + 1, size[1])] * other
    assert fit_together(sizes) == (not other and count * size[0] * size[1] <= memory.MOST_SEEN)


@given(st.lists(st.integers(1, 15), min_size=1, max_size=12), st.integers(0, 2**31))
def test_a_budget_is_never_exceeded_whoever_gives_up(amounts, seed):
    chance = random.Random(seed)

    async def use() -> None:
        budget, most = Budget(10), 0

        async def one(amount: int) -> None:
            nonlocal most
            async with budget.hold(amount):
                most = max(most, budget.held)
                assert budget.held <= 10
                await asyncio.sleep(0)

        tasks = [asyncio.create_task(one(amount)) for amount in amounts]
        for task in tasks:
            if chance.random() < 0.5:
                await asyncio.sleep(0)
            if chance.random() < 0.3:
                task.cancel()
        await asyncio.gather(*tasks, return_exceptions=True)
        assert budget.held == 0
        async with asyncio.timeout(1), budget.hold(10):
            assert budget.held == 10

    asyncio.run(use())


def test_a_large_picture_is_not_passed_over():
    async def order() -> list[str]:
        budget, done = Budget(10), []

        async def one(name: str, amount: int) -> None:
            async with budget.hold(amount):
                await asyncio.sleep(0.001)
                done.append(name)

        await asyncio.gather(one("small", 6), one("large", 10), one("late", 4))
        return done

    assert asyncio.run(order()) == ["small", "large", "late"]
