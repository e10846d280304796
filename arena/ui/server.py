"""One ASGI process: Streamlit's pages, our routes and the security headers around both."""

from pathlib import Path
from urllib.parse import urlsplit

import streamlit as st
import uvicorn
from starlette.middleware import Middleware
from starlette.requests import Request
from starlette.responses import JSONResponse
from streamlit import config

from arena.ui.routes import build_routes
from arena.ui.security import Guard, hosts_for
from arena.ui.service import Service, install

# Set here because a server which is not started by "streamlit run" reads no STREAMLIT_* variables.
OPTIONS: dict[str, object] = {
    "browser.gatherUsageStats": False,
    "client.showErrorDetails": "none",
    "client.showSidebarNavigation": False,
    "client.toolbarMode": "viewer",
    "global.developmentMode": False,
    "logger.level": "warning",
    "runner.magicEnabled": False,
    "runner.postScriptGC": False,  # a full collection on every rerun costs 40 ms and more
    "server.enableStaticServing": False,
    "server.fileWatcherType": "none",
    "server.headless": True,
    "server.maxUploadSize": 1,
    "theme.base": "light",
    "theme.primaryColor": "#1c1c1c",
}


def build_app(service: Service, *, host: str = "127.0.0.1") -> st.App:
    """Build the ASGI application over one service; a process holds one.

    Args:
        service: what is served.
        host: the address the server will be bound to, from which the accepted host names follow.
    """
    for name, value in OPTIONS.items():
        config.set_option(name, value)
    # Without it Streamlit asks an outside host for our address when it meets an unknown origin.
    config.set_option("browser.serverAddress", urlsplit(service.public_url).hostname)
    install(service)
    guard = Middleware(
        Guard, allowed_hosts=hosts_for(host, service.public_url), public_url=service.public_url
    )
    return st.App(
        Path(__file__).with_name("page.py"),
        routes=build_routes(service),
        middleware=[guard],
        exception_handlers={Exception: _unforeseen},
    )


def serve(service: Service, *, host: str, port: int) -> None:
    """Serve until interrupted. Requests are not logged: addresses hold personal links, logs hold people."""
    # uvicorn binds the socket itself: one bound by Streamlit leaves Nagle's algorithm on (+24 ms per vote).
    uvicorn.run(
        build_app(service, host=host),
        host=host,
        port=port,
        access_log=False,
        log_level="warning",
        server_header=False,
    )


def _unforeseen(request: Request, error: Exception) -> JSONResponse:
    return JSONResponse({"error": "Something went wrong here. Please try again."}, status_code=500)
