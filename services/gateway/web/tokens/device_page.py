"""The page on which a person logs in for a device: plain HTML, no script, nothing from elsewhere."""

import base64
import hashlib
from html import escape

from starlette.responses import HTMLResponse, Response

_STYLE = """
body { font: 16px/1.5 system-ui, sans-serif; max-width: 26rem; margin: 12vh auto; padding: 0 1rem; color: #1a1a1a; }
label { display: block; margin-top: 1rem; }
input { font: inherit; width: 100%; padding: .4rem; box-sizing: border-box; }
#code { font-family: monospace; letter-spacing: .15em; text-transform: uppercase; }
button { font: inherit; margin-top: 1.5rem; padding: .5rem 1.5rem; }
.said { border-left: 4px solid #b00020; padding-left: .8rem; }
"""
_STYLE_HASH = base64.b64encode(hashlib.sha256(_STYLE.encode()).digest()).decode()

_HEADERS = {
    "cache-control": "no-store",
    "content-security-policy": (
        f"default-src 'none'; style-src 'sha256-{_STYLE_HASH}'; form-action 'self'; "
        "frame-ancestors 'none'; base-uri 'none'"
    ),
    "x-frame-options": "DENY",
    "x-content-type-options": "nosniff",
    # Not no-referrer: browsers say "Origin: null" to forms of such pages, and the origin is what is checked.
    "referrer-policy": "same-origin",
}

_PAGE = """<!doctype html>
<html lang="en">
<head><meta charset="utf-8"><meta name="viewport" content="width=device-width, initial-scale=1">
<title>{title}</title><style>{style}</style></head>
<body><h1>{title}</h1>
{body}
</body></html>
"""

_FORM = """{said}<p>A device or program waits for you to log in. Give a code only that your own terminal has just shown:
whoever has sent you a code will act in your name.</p>
<form method="post" action="/oauth2/device">
<label for="code">Code</label>
<input id="code" name="user_code" value="{code}" maxlength="20" required autocomplete="off" autofocus>
<label for="user">User</label>
<input id="user" name="user" value="{user}" maxlength="63" required autocomplete="username" autocapitalize="none">
<label for="password">Password</label>
<input id="password" name="password" type="password" maxlength="1024" required autocomplete="current-password">
<button type="submit">Log in</button>
</form>"""


def build_form(said: str = "", *, status: int = 200, code: str = "", user: str = "") -> Response:
    """The form, with what was wrong and what was filled in but for the password."""
    words = f'<p class="said" role="alert">{escape(said)}</p>\n' if said else ""
    return _page("Log in", _FORM.format(said=words, code=escape(code[:20]), user=escape(user[:63])), status)


def build_end() -> Response:
    """The page after it has worked."""
    return _page("Logged in", "<p>Your device goes on by itself within some seconds. You can close this page.</p>", 200)


def _page(title: str, body: str, status: int) -> Response:
    return HTMLResponse(_PAGE.format(title=escape(title), style=_STYLE, body=body), status, headers=_HEADERS)
