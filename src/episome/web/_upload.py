"""Uploads go to disk as they come, whole or piece by piece; memory stays as it is."""

from __future__ import annotations

import asyncio
import contextlib
from pathlib import Path
from typing import TYPE_CHECKING, BinaryIO

from python_multipart.multipart import MultipartParser, parse_options_header
from starlette.requests import ClientDisconnect, Request

from episome.errors import EpisomeError, InputFileError
from episome.web._errors import too_large, wrong_form

if TYPE_CHECKING:
    from collections.abc import AsyncIterator

    from episome.web._store import File, Store

__all__ = ["append", "receive_form"]

#: Bytes that a form may have beside its file.
ROOM = 1 << 16
#: Seconds for which a refused body is read and thrown away.
LINGER = 0.8
#: Uploads to which a piece is being added: never two at once.
_open: set[str] = set()


def slow() -> EpisomeError:
    """Return the answer to an upload that stands still."""
    return InputFileError(
        "E-W08",
        "the upload stood still",
        why="its connection is wanted by others",
        fix="send it again; what arrived in pieces is kept for an hour",
    )


async def chunks(request: Request, idle: float) -> AsyncIterator[bytes]:
    """Yield the body as it comes.

    Raises
    ------
    InputFileError
        Nothing came for too long (E-W08).
    """
    stream = request.stream().__aiter__()
    while True:
        try:
            chunk = await asyncio.wait_for(anext(stream), idle)
        except StopAsyncIteration:
            return
        except TimeoutError as error:
            raise slow() from error
        yield chunk


async def linger(request: Request) -> None:
    """Let a sender come to its end, for a moment: it reads the answer only then."""
    with contextlib.suppress(EpisomeError, ClientDisconnect, TimeoutError, RuntimeError):
        async with asyncio.timeout(LINGER):
            async for _ in chunks(request, LINGER / 4):
                pass


async def append(store: Store, file: File, request: Request, offset: int) -> File:
    """Add a piece to an upload.

    Raises
    ------
    InputFileError
        It starts elsewhere than the last one ended (E-W07, with ``offset`` in the details), is
        larger than was said (E-W01), or stands still (E-W08).
    """
    if offset != file.received or file.complete or file.id in _open:
        raise InputFileError(
            "E-W07",
            f"the next piece starts at byte {file.received:,}, not at {offset:,}, or on its way",
            fix="ask for the offset, and send the file from there",
            details={"offset": file.received},
        )
    done = offset
    _open.add(file.id)
    try:
        with Path(file.path).open("r+b") as handle:
            handle.truncate(offset)
            handle.seek(offset)
            async for chunk in chunks(request, store.settings.idle):
                if done + len(chunk) > file.size:
                    raise too_large(store.settings.max_upload)
                handle.write(chunk)
                done += len(chunk)
    except ClientDisconnect:
        pass  # what came is kept: the sender goes on from there
    except EpisomeError:
        await linger(request)
        raise
    finally:
        _open.discard(file.id)
        store.received(file.id, done)
    return store.file(file.owner, file.id)


class _Form:
    """The one file of a form, written as its bytes come."""

    def __init__(self, store: Store, owner: str, boundary: bytes) -> None:
        self.store, self.owner = store, owner
        self.file: File | None = None
        self.done = 0
        self._handle: BinaryIO | None = None
        self._field, self._value = b"", b""
        self._header: dict[bytes, bytes] = {}
        self._writing = False
        self._parser = MultipartParser(
            boundary,
            {
                "on_part_begin": self._begin,
                "on_header_field": self._header_field,
                "on_header_value": self._header_value,
                "on_header_end": self._header_end,
                "on_headers_finished": self._headers,
                "on_part_data": self._data,
                "on_part_end": self._end,
            },
        )

    def feed(self, chunk: bytes) -> None:
        self._parser.write(chunk)

    def close(self) -> None:
        if self._handle is not None:
            self._handle.close()

    def _begin(self) -> None:
        self._header, self._writing = {}, False

    def _header_field(self, data: bytes, start: int, end: int) -> None:
        self._field += data[start:end]

    def _header_value(self, data: bytes, start: int, end: int) -> None:
        self._value += data[start:end]

    def _header_end(self) -> None:
        self._header[self._field.lower()] = self._value
        self._field = self._value = b""

    def _headers(self) -> None:
        options = parse_options_header(self._header.get(b"content-disposition", b""))[1]
        name = options.get(b"filename", b"").decode("utf-8", "replace")
        if options.get(b"name") != b"file" or not name or self.file is not None:
            return
        self.file = self.store.new_file(self.owner, name, 0)
        self._handle = Path(self.file.path).open("wb")  # noqa: SIM115 - closed by close()
        self._writing = True

    def _data(self, data: bytes, start: int, end: int) -> None:
        if not self._writing or self._handle is None:
            return
        self.done += end - start
        if self.done > self.store.settings.max_upload:
            raise too_large(self.store.settings.max_upload)
        self._handle.write(data[start:end])

    def _end(self) -> None:
        self._writing = False


async def receive_form(store: Store, owner: str, request: Request) -> File:
    """Write the file of a form to disk.

    Raises
    ------
    EpisomeError
        No file was chosen (E-W14), it is too large (E-W01) or of a kind that is not read (E-W15),
        there is no room (E-W02, E-W03), or it stands still (E-W08). Nothing is kept then.
    """
    try:
        return await _received(store, owner, request)
    except EpisomeError:
        await linger(request)
        raise


async def _received(store: Store, owner: str, request: Request) -> File:
    kind, options = parse_options_header(request.headers.get("content-type", ""))
    length = request.headers.get("content-length", "")
    store.check_room(max(int(length) - ROOM, 0) if length.isdigit() else 0)
    if kind != b"multipart/form-data" or b"boundary" not in options:
        raise wrong_form(what="this is no form with a file", fix="use the form of the start page")
    form = _Form(store, owner, options[b"boundary"])
    kept = False
    try:
        async for chunk in chunks(request, store.settings.idle):
            form.feed(chunk)
        if form.file is None or form.done == 0:
            raise wrong_form(what="no file was chosen", fix="choose a file, then press Upload")
        store.received(form.file.id, form.done, form.done)
        kept = True
    finally:
        form.close()
        if not kept and form.file is not None:
            store.delete_file(owner, form.file.id)
    return store.file(owner, form.file.id)
