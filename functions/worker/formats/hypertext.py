"""HTML to pieces of text: what a reader sees of the page's body, without scripts, navigation and markup."""

from collections.abc import Iterator
from dataclasses import replace

from selectolax.lexbor import LexborHTMLParser, LexborNode

from functions.worker.extract import Extract, Kind, Piece, assemble, mended, table_row

UNSEEN = {
    *("head", "script", "style", "noscript", "template", "nav", "svg", "iframe", "object", "select", "button"),
    *("-comment", "!doctype"),
}
INLINE = {
    *("a", "abbr", "b", "bdi", "bdo", "cite", "code", "data", "del", "dfn", "em", "font", "i", "ins", "kbd", "label"),
    *("mark", "q", "s", "samp", "small", "span", "strong", "sub", "sup", "time", "tt", "u", "var", "wbr"),
}
HEADINGS = {f"h{level}": level for level in range(1, 7)}
# Stands for <br> until blanks are collapsed; HTML itself cannot hold it.
BREAK = "\v"


def read(text: str) -> Extract:
    """Return the text of a page, and its title."""
    page = LexborHTMLParser(text)
    title = page.css_first("head > title")
    words = " ".join(mended(title.text()).split()) if title else ""
    return replace(assemble(_Page().read(page.body) if page.body else []), title=words or None)


def pieces(text: str) -> list[Piece]:
    """Return the headings, paragraphs, list items, table rows and preformatted text of a page or a part of one."""
    body = LexborHTMLParser(text).body
    return _Page().read(body) if body else []


class _Page:
    """One walk through a page: text is collected until a block begins or ends."""

    def __init__(self) -> None:
        self.found: list[Piece] = []
        self.words: list[str] = []
        self.inside = {"li": 0, "pre": 0, "td": 0}
        self.cells: list[str] = []
        self.columns: list[str] = []

    def read(self, body: LexborNode) -> list[Piece]:
        """Return the pieces below that node."""
        for node, entering in _walk(body):
            match node.tag:
                case "-text":
                    self.words += [node.text_content or ""] if entering else []
                case "img":
                    self.words += [node.attributes.get("alt") or ""] if entering else []
                case "br":
                    self.words += [BREAK] if entering else []
                case str(tag) if tag not in INLINE:
                    self._enter(tag) if entering else self._leave(tag)
        self._flush()
        return self.found

    def _enter(self, tag: str) -> None:
        if not self.inside["td"]:
            self._flush()
            if tag == "table":
                self.columns = []
            if tag == "tr":
                self.cells = []
        # A cell is one text, whatever stands in it.
        self.words.append(" ")
        self._count(tag, 1)
        if tag == "li":
            self.words.append("- ")

    def _leave(self, tag: str) -> None:
        in_cell = self.inside["td"] - (tag in {"td", "th"})
        if in_cell:
            self.words.append(" ")
        elif tag in {"td", "th"}:
            self.cells.append(self._taken())
            self.columns += self.cells[-1:] if tag == "th" else []
        elif tag == "tr":
            # A row of nothing but names says what the columns are.
            if self.cells != self.columns:
                self.found.append(table_row(self.columns, self.cells))
        else:
            level = HEADINGS.get(tag, 0)
            self._flush(Kind.HEADING if level else None, level)
        self._count(tag, -1)

    def _count(self, tag: str, step: int) -> None:
        tag = "td" if tag == "th" else tag
        if tag in self.inside:
            self.inside[tag] += step

    def _flush(self, kind: Kind | None = None, level: int = 0) -> None:
        text = self._taken()
        if text.strip(" -\n"):
            self.found.append(Piece(text, kind or (Kind.ITEM if self.inside["li"] else Kind.PARAGRAPH), level))

    def _taken(self) -> str:
        """Return the text so far with its blanks as a browser shows them, and begin anew."""
        text, self.words = "".join(self.words), []
        if self.inside["pre"]:
            return text.replace(BREAK, "\n")
        return "\n".join(" ".join(line.split()) for line in text.split(BREAK)).strip()


def _walk(body: LexborNode) -> Iterator[tuple[LexborNode, bool]]:
    """Yield every node below, on entering and on leaving it; without recursion, as pages nest as deep as they like."""
    stack = [(body, True)]
    while stack:
        node, entering = stack.pop()
        if node.tag in UNSEEN:
            continue
        yield node, entering
        if entering:
            stack.append((node, False))
            stack += [(child, True) for child in reversed(list(node.iter(include_text=True)))]
