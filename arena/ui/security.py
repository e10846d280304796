"""What every answer carries and what no request may do, whoever made the route."""

import hashlib
import logging
from collections.abc import Iterable
from urllib.parse import urlsplit

from starlette.datastructures import Headers, MutableHeaders
from starlette.responses import JSONResponse
from starlette.types import ASGIApp, Message, Receive, Scope, Send

from arena.ui.limits import TokenBuckets

logger = logging.getLogger(__name__)

CONTENT_SECURITY_POLICY = "; ".join(
    (
        "default-src 'self'",
        "script-src 'self' blob: 'unsafe-inline' 'wasm-unsafe-eval'",
        "style-src 'self' 'unsafe-inline'",
        "img-src 'self' data: blob:",
        "font-src 'self' data:",
        "media-src 'self'",
        "connect-src 'self'",
        "worker-src 'self' blob:",
        "object-src 'none'",
        "base-uri 'self'",
        "form-action 'self'",
        "frame-ancestors 'none'",
    )
)
SECURITY_HEADERS = {
    "Content-Security-Policy": CONTENT_SECURITY_POLICY,
    "Cross-Origin-Opener-Policy": "same-origin",
    "Cross-Origin-Resource-Policy": "same-origin",
    "Permissions-Policy": "camera=(), geolocation=(), microphone=()",
    "Referrer-Policy": "no-referrer",
    "X-Content-Type-Options": "nosniff",
    "X-Frame-Options": "DENY",
}
# Streamlit answers these to everybody; the arena has no use for any of them.
CLOSED_PATHS = ("/_stcore/metrics", "/_stcore/upload_file", "/_stcore/agent")
LIMITED_PATHS = ("/api/", "/join", "/organiser/")
MAX_REQUEST_BYTES = 64 * 1024
SESSION_RATE, SESSION_BURST = 20.0, 60.0
ADDRESS_RATE, ADDRESS_BURST = 300.0, 600.0
SAFE_METHODS = frozenset({"GET", "HEAD", "OPTIONS"})
LOOPBACK = frozenset({"127.0.0.1", "localhost", "::1"})


def hosts_for(host: str, public_url: str) -> frozenset[str]:
    """Return the host names a browser may use for a server bound to ``host``; empty means any.

    A server on the loopback interface answers to its own names only, which stops DNS rebinding. One which is
    bound to a whole network cannot know its names unless ``public_url`` tells them.
    """
    public = urlsplit(public_url).hostname or ""
    if host in LOOPBACK:
        return LOOPBACK | {public}
    return frozenset() if public in LOOPBACK | {host} else frozenset({host, public}) | LOOPBACK


class Guard:
    """ASGI middleware: known hosts, own origin, closed paths, limits on size and pace, headers on every answer.

    Args:
        app: the application behind.
        allowed_hosts: names accepted in the Host header; empty accepts all.
        public_url: origin accepted beside the Host header's own, for proxies which change that header.
    """

    def __init__(self, app: ASGIApp, allowed_hosts: Iterable[str] = (), public_url: str = "") -> None:
        self.app = app
        self.allowed_hosts = frozenset(allowed_hosts)
        self.public_netloc = urlsplit(public_url).netloc
        self.sessions = TokenBuckets(SESSION_RATE, SESSION_BURST)
        self.addresses = TokenBuckets(ADDRESS_RATE, ADDRESS_BURST)

    async def __call__(self, scope: Scope, receive: Receive, send: Send) -> None:
        if scope["type"] not in {"http", "websocket"}:
            await self.app(scope, receive, send)
            return
        send = _with_headers(send)
        refusal = self._refusal(scope)
        if refusal is None:
            await self.app(scope, receive, send)
        elif scope["type"] == "websocket":
            await send({"type": "websocket.close", "code": 1008, "reason": refusal[1]})
        else:
            status, message = refusal
            logger.info("refused with %d: %s", status, message)
            headers = {"Retry-After": "1"} if status == 429 else None
            answer = JSONResponse({"error": message}, status_code=status, headers=headers)
            await answer(scope, receive, send)

    def _refusal(self, scope: Scope) -> tuple[int, str] | None:
        headers = Headers(scope=scope)
        if scope["type"] == "http" and self._too_many(scope, headers):
            return 429, "Too many requests. Please wait a moment."
        length = headers.get("content-length", "0")
        if not length.isdecimal() or int(length) > MAX_REQUEST_BYTES:
            return 413, f"Requests may hold at most {MAX_REQUEST_BYTES} bytes."
        host = headers.get("host", "")
        if self.allowed_hosts and urlsplit(f"//{host}").hostname not in self.allowed_hosts:
            return 400, "This address is not one of the arena's."
        origin = headers.get("origin")
        changes = scope["type"] == "websocket" or scope["method"] not in SAFE_METHODS
        own = {host, self.public_netloc} - {""}
        if changes and origin is not None and urlsplit(origin).netloc not in own:
            return 403, "Requests from other sites are refused."
        if scope["path"].startswith(CLOSED_PATHS):
            return 404, "There is nothing here."
        return None

    def _too_many(self, scope: Scope, headers: Headers) -> bool:
        """Say whether this session or address has used up its requests; addresses are not written anywhere."""
        if not scope["path"].startswith(LIMITED_PATHS):
            return False
        client = scope.get("client")
        cookie = headers.get("cookie", "")
        waits = [self.addresses.wait(str(client[0]) if client else "")]
        if cookie:
            waits.append(self.sessions.wait(hashlib.sha256(cookie.encode()).hexdigest()))
        return any(waits)


def _with_headers(send: Send) -> Send:
    async def send_with_headers(message: Message) -> None:
        if message["type"] == "http.response.start":
            headers = MutableHeaders(scope=message)
            for name, value in SECURITY_HEADERS.items():
                headers[name] = value
        await send(message)

    return send_with_headers
