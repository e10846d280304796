"""The voter's page as a Streamlit component: markup, style and script from ``assets``."""

from functools import cache
from pathlib import Path
from typing import Any

import streamlit as st

ASSETS = Path(__file__).with_name("assets")
SCRIPTS = ("outbox.js", "players.js", "magnifier.js", "voting.js")


@cache
def _component() -> Any:
    html, css = ((ASSETS / f"voting.{kind}").read_text("utf-8") for kind in ("html", "css"))
    js = "".join((ASSETS / name).read_text("utf-8") for name in SCRIPTS)
    return st.components.v2.component("magicvideo.voting", html=html, css=css, js=js)


def voting() -> None:
    """Draw the voter's page over the whole window; everything it shows comes over our own routes."""
    _component()(key="voting")
