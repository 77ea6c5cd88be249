"""Hooks of the documentation site: docstrings are written for Sphinx's roles too, which Markdown does not know."""

import re

_ROLE = re.compile(r":(?:class|func|meth|data|mod|attr|exc):<code>~?([^<]*)</code>")


def on_page_content(html: str, **_: object) -> str:
    """``:class:`~a.b.Name``` is shown as ``Name``."""
    return _ROLE.sub(lambda found: f"<code>{found[1].rpartition('.')[2]}</code>", html)
