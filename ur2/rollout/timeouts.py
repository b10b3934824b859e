"""Time limits that stand still while those who should meet them are asleep."""

import asyncio
from collections.abc import AsyncIterator
from contextlib import asynccontextmanager


class PausableTimeouts:
    """Limits of one event loop, all of which pause and go on together."""

    def __init__(self) -> None:
        self._left_s: dict[asyncio.Timeout, float] = {}
        """Seconds left of each limit, at the last pause or at its start."""
        self._paused = False

    @asynccontextmanager
    async def limit(self, limit_s: float) -> AsyncIterator[None]:
        """Limits a block like `asyncio.timeout`, without the time of pauses."""
        async with asyncio.timeout(None if self._paused else limit_s) as limit:
            self._left_s[limit] = limit_s
            try:
                yield
            finally:
                del self._left_s[limit]

    def pause(self) -> None:
        """Stops the clock; without effect while it stands."""
        if not self._paused:
            self._paused, now_s = True, asyncio.get_running_loop().time()
            for limit in self._running():
                self._left_s[limit] = (limit.when() or now_s) - now_s
                limit.reschedule(None)

    def go_on(self) -> None:
        """Starts the clock again; without effect while it runs."""
        if self._paused:
            self._paused, now_s = False, asyncio.get_running_loop().time()
            for limit in self._running():
                limit.reschedule(now_s + self._left_s[limit])

    def _running(self) -> list[asyncio.Timeout]:
        return [limit for limit in self._left_s if not limit.expired()]
