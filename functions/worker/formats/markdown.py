"""Markdown (CommonMark with tables) to pieces of text, without its markup."""

from functools import cache

from markdown_it import MarkdownIt
from markdown_it.token import Token

from functions.worker.extract import Kind, Piece, table_row
from functions.worker.formats import hypertext


def pieces(text: str) -> list[Piece]:  # noqa: C901  # a case for each kind of token
    """Return the headings, paragraphs, list items, table rows and code of a Markdown text."""
    found: list[Piece] = []
    around: list[Token] = []
    marker = ""
    columns: list[str] = []
    cells: list[str] = []
    for token in _reader().parse(text):
        if token.nesting == 1:
            around.append(token)
        elif token.nesting == -1:
            around.pop()
        match token.type:
            case "list_item_open":
                marker = f"{token.info}{token.markup} " if token.info else "- "
            case "tr_open":
                cells = []
            case "thead_close":
                columns = cells
            case "tr_close" if around[-1].type == "tbody_open":
                found.append(table_row(columns, cells))
            case "inline" if around[-1].type in {"th_open", "td_open"}:
                cells.append(_words(token))
            case "inline" if around[-1].type == "heading_open":
                found.append(Piece(_words(token), Kind.HEADING, level=int(around[-1].tag[1])))
            case "inline":
                in_list = any(outer.type == "list_item_open" for outer in around)
                found.append(Piece(marker + _words(token), Kind.ITEM if in_list else Kind.PARAGRAPH))
                marker = ""
            case "fence" | "code_block":
                found.append(Piece(token.content))
            case "html_block":
                found += hypertext.pieces(token.content)
    return found


@cache
def _reader() -> MarkdownIt:
    # What nests deeper than this it leaves out, with a word to nobody; a list is two levels.
    return MarkdownIt("commonmark", {"maxNesting": 50}).enable("table")


def _words(inline: Token) -> str:
    """Return what a reader sees of a run of text; an image is its description."""
    return "".join(_seen(token) for token in inline.children or ())


def _seen(token: Token) -> str:
    match token.type:
        case "text" | "code_inline" | "image":
            return token.content
        case "softbreak":
            return " "
        case "hardbreak":
            return "\n"
        case "html_inline" if token.content.lower().startswith("<br"):
            return "\n"
    return ""
