"""What the organiser's pages do when a button is pressed."""

from collections.abc import Callable
from typing import Any

import streamlit as st

from arena.errors import ArenaError


def guarded(action: Callable[[], Any]) -> bool:
    """Do something that may be refused; show the refusal and return whether it was done."""
    try:
        action()
    except ArenaError as error:
        st.error(str(error).replace("$", "\\$"))
        return False
    return True
