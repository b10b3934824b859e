"""Reading zstandard files to their end, and no further than they are whole."""

import io
from typing import BinaryIO

import zstandard

_BUFFER_BYTES = 1 << 18


class ZstdReader(io.RawIOBase):
    """Frames one after another, as parallel compressors write them; a cut one is an error."""

    def __init__(self, file: BinaryIO) -> None:
        """Reads on from where `file` is, and closes it in the end."""
        self._file = file
        self._frame: zstandard.ZstdDecompressionObj | None = None
        self._compressed = b""
        self._ready = memoryview(b"")

    def readable(self) -> bool:
        """Always true: this stream is read."""
        return True

    def close(self) -> None:
        """Closes the file below too."""
        self._file.close()
        super().close()

    def readinto(self, buffer: memoryview) -> int:  # type: ignore[override]
        """Reads decompressed bytes into `buffer`.

        Raises:
            EOFError: the file is cut.
        """
        while not self._ready:
            compressed = self._compressed or self._file.read(_BUFFER_BYTES)
            if not compressed and self._frame is None:
                return 0
            if not compressed:
                raise EOFError("it ends within a frame")
            self._frame = self._frame or zstandard.ZstdDecompressor().decompressobj()
            self._ready = memoryview(self._frame.decompress(compressed))
            self._compressed = self._frame.unused_data
            if self._frame.eof:
                self._frame = None
        count = min(len(buffer), len(self._ready))
        buffer[:count], self._ready = self._ready[:count], self._ready[count:]
        return count
