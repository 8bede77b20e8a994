"""The readers, in processes of their own: `python -m functions.worker.reader`, which `sandbox` starts."""

import importlib
import pkgutil

from functions.worker import formats
from functions.worker.chunk import Sizes, chunk
from functions.worker.forks import Json, serve
from functions.worker.parse import parse

# Which some reader would import at its first file: in each child again.
LIBRARIES = ("mammoth", "mammoth.raw_text")


def read(content: bytes, *, announced: str, filename: str, title: str, sizes: dict[str, int]) -> Json:
    """Return what a document is, and its text in passages."""
    extract = parse(content, announced=announced, filename=filename)
    passages = chunk(extract, title=title, sizes=Sizes(**sizes))
    # Thousands of passages stand under one heading: each path is told once.
    headings: dict[tuple[str, ...], int] = {}
    return {
        "media_type": extract.media_type,
        "title": extract.title,
        "pages": extract.pages,
        "passages": [
            (each.text, each.start, each.end, each.page, headings.setdefault(each.heading, len(headings)))
            for each in passages
        ],
        "headings": list(headings),
    }


if __name__ == "__main__":
    for module in pkgutil.iter_modules(formats.__path__, f"{formats.__name__}."):
        importlib.import_module(module.name)
    for library in LIBRARIES:
        importlib.import_module(library)
    serve(read)
