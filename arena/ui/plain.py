"""Pages that need neither Streamlit nor a script: the form for a registration code, and plain refusals."""

import html

from starlette.responses import HTMLResponse

NO_STORE = {"Cache-Control": "no-store"}
STYLE = """
body { background: #757575; color: #fff; font: 1.25rem/1.5 sans-serif; text-align: center; padding: 20vh 1rem }
form { display: flex; flex-direction: column; align-items: center; gap: 1.2rem }
label { display: flex; flex-direction: column; gap: .4rem; text-align: left }
input, button { font: inherit; border: 2px solid #1c1c1c; border-radius: 8px; padding: .6rem .9rem }
input { width: min(20em, 80vw); background: #fff; color: #111 }
button { background: #1c1c1c; color: #fff; cursor: pointer }
a { color: inherit }
:focus-visible { outline: 3px solid #fff; outline-offset: 3px }
"""
FORM = """<form method=post action=/join>
<label>Code you were given
<input name=code required maxlength=128 autocomplete=off autocapitalize=none spellcheck=false autofocus></label>
<button>Take part</button></form>"""
AGAIN = "<p><a href=/join>Type the code again</a></p>"


def page(status: int, title: str, sentence: str, below: str = "") -> HTMLResponse:
    """Return a page with a heading and a sentence, and below them HTML of our own."""
    title, sentence = html.escape(title), html.escape(sentence)
    # Under "no-referrer", which every answer has as a header, browsers send a form without its origin.
    head = (
        f"<!doctype html><html lang=en><meta charset=utf-8><title>{title}</title>"
        "<meta name=viewport content='width=device-width, initial-scale=1'>"
        f"<meta name=referrer content=same-origin><style>{STYLE}</style>"
    )
    document = f"{head}<body><main><h1>{title}</h1><p>{sentence}</p>{below}</main>"
    return HTMLResponse(document, status, headers=NO_STORE)


def code_page() -> HTMLResponse:
    """Return the form which takes a registration code."""
    return page(
        200, "Compare videos", "You will see pairs of short videos and say which one is better.", FORM
    )


def wrong_link_page(
    sentence: str = "It may be mistyped, expired or withdrawn. Ask for a new one.",
) -> HTMLResponse:
    """Return the refusal of a link."""
    return page(403, "This link does not work", sentence)


def wrong_code_page() -> HTMLResponse:
    """Return the refusal of a code, the same whatever is wrong with it."""
    sentence = "It may be mistyped, expired or used up. Ask for a new one."
    return page(403, "This code does not work", sentence, AGAIN)
