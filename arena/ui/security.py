"""What every answer carries and what no request may do, whoever made the route."""

from collections.abc import Iterable
from urllib.parse import urlsplit

from starlette.datastructures import Headers, MutableHeaders
from starlette.responses import JSONResponse
from starlette.types import ASGIApp, Message, Receive, Scope, Send

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
    """ASGI middleware: known hosts, own origin, closed paths, security headers on every answer.

    Args:
        app: the application behind.
        allowed_hosts: names accepted in the Host header; empty accepts all.
        public_url: origin accepted beside the Host header's own, for proxies which change that header.
    """

    def __init__(self, app: ASGIApp, allowed_hosts: Iterable[str] = (), public_url: str = "") -> None:
        self.app = app
        self.allowed_hosts = frozenset(allowed_hosts)
        self.public_netloc = urlsplit(public_url).netloc

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
            await JSONResponse({"error": message}, status_code=status)(scope, receive, send)

    def _refusal(self, scope: Scope) -> tuple[int, str] | None:
        headers = Headers(scope=scope)
        host = headers.get("host", "")
        if self.allowed_hosts and urlsplit(f"//{host}").hostname not in self.allowed_hosts:
            return 400, "This address is not one of the arena's."
        origin = headers.get("origin")
        changes = scope["type"] == "websocket" or scope["method"] not in SAFE_METHODS
        if changes and origin is not None and urlsplit(origin).netloc not in {host, self.public_netloc}:
            return 403, "Requests from other sites are refused."
        if scope["path"].startswith(CLOSED_PATHS):
            return 404, "There is nothing here."
        return None


def _with_headers(send: Send) -> Send:
    async def send_with_headers(message: Message) -> None:
        if message["type"] == "http.response.start":
            headers = MutableHeaders(scope=message)
            for name, value in SECURITY_HEADERS.items():
                headers[name] = value
        await send(message)

    return send_with_headers
