"""How much is uploaded to a public page: one address may send so much an hour, after which Gradio
deletes it; a full disk would be everybody's."""

import time
from collections import defaultdict, deque

from starlette.datastructures import Headers
from starlette.responses import JSONResponse
from starlette.types import ASGIApp, Message, Receive, Scope, Send

from vgg.errors import UserError

BODY_BYTES = 32 * 1024**2  # of a call that is no upload: a drawing has 4
SECONDS = 3600.0  # for which Gradio keeps an upload


class UploadShare:
    """Stands before the page and refuses what goes over `most` bytes of an address, with a
    sentence. A sender has to say how long the upload is; the web server holds it to that."""

    def __init__(self, app: ASGIApp, most: int) -> None:
        self.app, self.most = app, most
        self._sent: dict[str, deque[tuple[float, int]]] = defaultdict(deque)

    async def __call__(self, scope: Scope, receive: Receive, send: Send) -> None:
        if scope["type"] != "http":
            return await self.app(scope, receive, send)
        length = Headers(scope=scope).get("content-length", "")
        if not scope["path"].rstrip("/").endswith("/upload"):
            if length.isdecimal() and int(length) > BODY_BYTES:
                text = str(UserError("ui.long_call", most=BODY_BYTES / 1e6))
                return await JSONResponse({"detail": text}, 413)(scope, receive, send)
            return await self.app(scope, _bounded(receive), send)
        if not length.isdecimal():
            refusal = JSONResponse({"detail": str(UserError("ui.upload_length"))}, 411)
            return await refusal(scope, receive, send)
        host = (scope.get("client") or ("",))[0]
        if self._sum(host) + int(length) > self.most:
            text = str(UserError("ui.uploads", most=self.most / 1e6))
            return await JSONResponse({"detail": text}, 413)(scope, receive, send)
        self._sent[host].append((time.monotonic(), int(length)))
        return await self.app(scope, receive, send)

    def _sum(self, host: str) -> int:
        """Bytes of the last hour."""
        now = time.monotonic()
        for name, sent in list(self._sent.items()):
            while sent and now - sent[0][0] > SECONDS:
                sent.popleft()
            if not sent:
                del self._sent[name]
        return sum(length for _, length in self._sent.get(host, ()))


def _bounded(receive: Receive) -> Receive:
    """Ends a call whose sender does not say how long it is, and goes on sending."""
    left = BODY_BYTES

    async def bounded() -> Message:
        nonlocal left
        message = await receive()
        left -= len(message.get("body", b""))
        return message if left >= 0 else {"type": "http.disconnect"}

    return bounded
