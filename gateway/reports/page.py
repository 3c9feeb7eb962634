"""Page: the HTML around drawings. No script, nothing from elsewhere, every text escaped."""

from __future__ import annotations

from collections.abc import Iterable, Sequence
from html import escape
from pathlib import Path

__all__ = ["Html", "div", "figure", "figures", "html_page", "note", "section", "table", "text"]

_CONTROLS = {code: "\N{REPLACEMENT CHARACTER}" for code in range(32) if code not in (9, 10, 13)}
_CONTROLS |= dict.fromkeys(range(127, 160), "�")
# What turns text around could make a table say something else than it does.
_CONTROLS |= dict.fromkeys((*range(8234, 8239), *range(8294, 8298)), "")
TEXT_CHARACTERS_MAX = 300
_STYLE = Path(__file__).with_name("page.css").read_text(encoding="utf-8")


class Html(str):
    """Text that is HTML already; everything else is escaped."""

    __slots__ = ()


def text(value: object) -> Html:
    """Any text, safe in HTML and in attributes; cut where it is too long for a table."""
    if isinstance(value, Html):
        return value
    said = str(value).translate(_CONTROLS).encode("utf-8", "replace").decode()
    if len(said) > TEXT_CHARACTERS_MAX:
        said = said[:TEXT_CHARACTERS_MAX] + "…"
    return Html(escape(said, quote=True))


def html_page(title: str, lead: Iterable[object], parts: Iterable[Html]) -> str:
    """The whole file."""
    leads = "".join(f"<p class=lead>{text(line)}</p>" for line in lead)
    body = "\n".join(parts)
    return (
        "<!doctype html>\n<html lang=en><head><meta charset=utf-8>"
        "<meta name=viewport content='width=device-width, initial-scale=1'>"
        "<meta http-equiv=Content-Security-Policy"
        " content=\"default-src 'none'; style-src 'unsafe-inline'\">"
        f"<title>{text(title)}</title><style>{_STYLE}</style></head>\n"
        f"<body><main><header><h1>{text(title)}</h1>{leads}</header>\n{body}\n</main></body></html>\n"
    )


def section(title: str, *parts: object, lead: object = "") -> Html:
    """A heading and what belongs to it; `lead` says what is to be seen."""
    said = f"<p>{text(lead)}</p>" if lead else ""
    inner = "".join(map(text, parts))
    return Html(f"<section><h2>{text(title)}</h2>{said}{inner}</section>")


def figures(pairs: Iterable[tuple[object, object, object]]) -> Html:
    """A row of large numbers: value, what it is, a remark."""
    tiles = "".join(
        f"<div class=tile><b>{text(value)}</b><span>{text(what)}</span><i>{text(remark)}</i></div>"
        for value, what, remark in pairs
    )
    return Html(f"<div class=tiles>{tiles}</div>")


def figure(drawing: Html, caption: object) -> Html:
    """A drawing with its words."""
    return Html(f"<figure>{drawing}<figcaption>{text(caption)}</figcaption></figure>")


def note(*lines: object) -> Html:
    """Something that is easily overlooked."""
    return Html("<aside>" + "".join(f"<p>{text(line)}</p>" for line in lines) + "</aside>")


def div(kind: str, *parts: object) -> Html:
    return Html(f"<div class={kind}>{''.join(map(text, parts))}</div>")


def table(
    header: Sequence[object], rows: Iterable[Sequence[object]], *, numbers: Sequence[int] = ()
) -> Html:
    """A table, an empty header for none; `numbers` are the columns that are right-aligned."""

    def cells(kind: str, row: Sequence[object]) -> str:
        return "".join(
            f"<{kind}{' class=n' if i in numbers else ''}>{text(cell)}</{kind}>"
            for i, cell in enumerate(row)
        )

    body = "".join(f"<tr>{cells('td', row)}</tr>" for row in rows)
    head = f"<thead><tr>{cells('th', header)}</tr></thead>" if header else ""
    return Html(f"<div class=scroll><table>{head}<tbody>{body}</tbody></table></div>")
