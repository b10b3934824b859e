"""Replies kept on disk, for many processes at once, as JSON."""

import asyncio
import hashlib
import json
import logging
import sqlite3
from typing import Any

import diskcache
from diskcache.core import MODE_PICKLE

from ur2.errors import InputError

logger = logging.getLogger(__name__)

FAILURES = (sqlite3.Error, diskcache.Timeout, OSError, ValueError)


class _PlainDisk(diskcache.JSONDisk):  # type: ignore[misc]
    """JSON only: an entry that somebody else wrote as a pickle is refused, not loaded."""

    def get(self, key: Any, raw: bool) -> Any:
        if not raw:
            raise ValueError("the key is a pickle")
        return super().get(key, raw)

    def fetch(self, mode: int, filename: str | None, value: Any, read: bool) -> Any:
        if mode == MODE_PICKLE:
            raise ValueError("the entry is a pickle")
        return super().fetch(mode, filename, value, read)


class DiskCache:
    """A folder of values by the content of what was asked; light and picklable until first used.

    Whatever goes wrong with an entry costs a request, not the run: it is logged, and missing.
    """

    def __init__(self, folder: str | None, *, where: str, expire_s: float | None = None) -> None:
        """Opens nothing.

        Args:
            folder: where entries live; None keeps none.
            where: the key of `folder` in the config, for messages.
            expire_s: how long an entry counts; None for ever.
        """
        self._folder = folder
        self._where = where
        self._expire_s = expire_s
        self._entries: Any = None

    def open(self) -> None:
        """Makes or opens the folder.

        Raises:
            InputError: it is no cache, or cannot be written.
        """
        if self._folder is None or self._entries is not None:
            return
        try:
            self._entries = diskcache.Cache(self._folder, disk=_PlainDisk)
        except FAILURES as error:
            raise InputError(f"{self._where}: '{self._folder}' cannot be used: {error}") from error

    async def get(self, key: str) -> Any:
        """The value kept under `key`, or None."""
        return await self._run("get", key)

    async def put(self, key: str, value: Any) -> None:
        """Keeps a value that JSON can hold."""
        await self._run("set", key, value, self._expire_s)

    def close(self) -> None:
        """Lets go of the files; a later use opens them again."""
        if self._entries is not None:
            self._entries.close()
            self._entries = None

    async def _run(self, method: str, *arguments: Any) -> Any:
        self.open()
        if self._entries is None:
            return None
        try:
            return await asyncio.to_thread(getattr(self._entries, method), *arguments)
        except FAILURES as error:
            logger.warning("%s: an entry could not be used: %s", self._where, error)
            return None


def content_key(request: Any) -> str:
    """The same for equal requests, on every machine."""
    return hashlib.sha256(json.dumps(request, sort_keys=True).encode()).hexdigest()
