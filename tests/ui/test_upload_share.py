"""One address sends so much an hour to a public page, and says before how much it sends."""

import asyncio
from typing import Any

import pytest
from starlette.types import Message

from vgg.ui.server import upload_share
from vgg.ui.server.upload_share import UploadShare


async def page(scope: Any, receive: Any, send: Any) -> None:
    await send({"type": "http.response.start", "status": 200, "headers": []})


def status(share: UploadShare, length: str | None, path: str = "/gradio_api/upload") -> int:
    """What a request from one address is answered with."""
    sent: list[Message] = []
    headers = [] if length is None else [(b"content-length", length.encode())]
    scope = {"type": "http", "path": path, "headers": headers, "client": ("far", 1)}

    async def send(message: Message) -> None:
        sent.append(message)

    async def receive() -> Message:
        return {"type": "http.request", "body": bytes(1024**2), "more_body": True}

    asyncio.run(share(scope, receive, send))
    return int(sent[0]["status"])


def test_so_much_an_hour_and_no_more(monkeypatch: pytest.MonkeyPatch) -> None:
    now = [0.0]
    monkeypatch.setattr(upload_share.time, "monotonic", lambda: now[0])
    share = UploadShare(page, 100)
    assert [status(share, "60"), status(share, "60"), status(share, "40")] == [200, 413, 200]
    assert status(share, "1") == 413
    assert status(share, "1", "/gradio_api/queue/join") == 200, "uploads alone are counted"
    now[0] = 3601.0
    assert status(share, "100") == 200


def test_no_other_call_is_longer_than_a_page_sends() -> None:
    join = "/gradio_api/queue/join"
    assert status(UploadShare(page, 100), str(upload_share.BODY_BYTES + 1), join) == 413

    async def read_all(scope: Any, receive: Any, send: Any) -> None:
        while (await receive())["type"] == "http.request":
            pass  # without an end: the test's sender never ends, and says no length
        await page(scope, receive, send)

    assert status(UploadShare(read_all, 100), None, join) == 200


@pytest.mark.parametrize("length", [None, "", "-5", "many", "1e9"])
def test_an_upload_without_a_length_is_refused(length: str | None) -> None:
    assert status(UploadShare(page, 100), length) == 411
