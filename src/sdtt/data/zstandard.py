"""Files compressed by Zstandard (.zst), by the optional package `zstandard`."""

import io
from importlib import import_module
from pathlib import Path
from typing import Any

_CHUNK = 2**17
_LARGEST_WINDOW = 2**31
"""Bytes; what `zstd --long=31` asks for."""


def open_zstandard(path: Path) -> io.BufferedReader:
    """Open a .zst file for reading what is in it, all its frames one after another.

    A damaged frame, or one without its end, is an EOFError when it is read.

    Raises:
        ValueError: The package zstandard is missing.
    """
    try:
        package = import_module("zstandard")
    except ImportError as error:
        raise ValueError(
            f"{path} is compressed by Zstandard, which needs a package: "
            "pip install 'sdtt[zstd]', or decompress it (zstd -d)"
        ) from error
    return io.BufferedReader(_Frames(path, package), _CHUNK)


class _Frames(io.RawIOBase):
    """The content of a file's frames; the package's own reader takes a cut one for a whole one."""

    def __init__(self, path: Path, package: Any) -> None:
        self._file = path.open("rb")
        self._package = package
        self._frame: Any = None  # none is begun
        self._ready = memoryview(b"")

    def readable(self) -> bool:
        return True

    def close(self) -> None:
        self._file.close()
        super().close()

    def readinto(self, buffer: Any) -> int:
        while not self._ready:
            data = self._file.read(_CHUNK)
            if not data:
                if self._frame is not None:
                    raise EOFError("the file ends within a frame")
                return 0
            self._ready = memoryview(self._decompress(data))
        count = min(len(buffer), len(self._ready))
        buffer[:count] = self._ready[:count]
        self._ready = self._ready[count:]
        return count

    def _decompress(self, data: bytes) -> bytes:
        parts = []
        try:
            while data:
                if self._frame is None:
                    engine = self._package.ZstdDecompressor(max_window_size=_LARGEST_WINDOW)
                    self._frame = engine.decompressobj()
                parts.append(self._frame.decompress(data))
                data = self._frame.unused_data
                if self._frame.eof:
                    self._frame = None
        except self._package.ZstdError as error:
            raise EOFError(str(error)) from error
        return b"".join(parts)
