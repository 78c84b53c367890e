"""A limit on what is held at once, across requests."""

import asyncio
from collections import deque
from collections.abc import AsyncIterator
from contextlib import asynccontextmanager


class Budget:
    """So much at once. Who asks first is served first, so that something large is not passed over for ever."""

    def __init__(self, total: int) -> None:
        self.total = total
        self.held = 0
        self._waiting: deque[tuple[int, asyncio.Future[None]]] = deque()

    @asynccontextmanager
    async def hold(self, amount: int) -> AsyncIterator[None]:
        """Wait until there is room. What is more than there ever can be takes all of it."""
        amount = min(amount, self.total)
        await self._take(amount)
        try:
            yield
        finally:
            self._give(amount)

    async def _take(self, amount: int) -> None:
        turn: asyncio.Future[None] = asyncio.get_running_loop().create_future()
        self._waiting.append((amount, turn))
        self._admit()
        try:
            await turn
        except asyncio.CancelledError:
            if turn.cancelled():
                self._admit()  # the next ones, perhaps
            else:
                self._give(amount)  # room was made in the same step
            raise

    def _give(self, amount: int) -> None:
        self.held -= amount
        self._admit()

    def _admit(self) -> None:
        while self._waiting:
            amount, turn = self._waiting[0]
            if not turn.cancelled():
                if self.held + amount > self.total:
                    return
                self.held += amount
                turn.set_result(None)
            self._waiting.popleft()
