"""Which files we take, by what a browser says of them: its media type, or else the filename's ending.

Browsers guess, each in its own way, and often say nothing. What they say only decides whether an upload is worth a try:
the worker reads what the bytes are.
"""

from pathlib import PurePath

from agentkit.errors import UnsupportedMediaType

_OFFICE = "application/vnd.openxmlformats-officedocument"

KINDS: dict[str, tuple[str, ...]] = {
    "application/pdf": (".pdf",),
    f"{_OFFICE}.wordprocessingml.document": (".docx",),
    f"{_OFFICE}.presentationml.presentation": (".pptx",),
    f"{_OFFICE}.spreadsheetml.sheet": (".xlsx",),
    "text/csv": (".csv", ".tsv"),
    "text/html": (".html", ".htm", ".xhtml"),
    "text/markdown": (".md", ".markdown"),
    "text/plain": (".txt", ".text", ".log"),
    "application/json": (".json", ".jsonl", ".ndjson"),
    "application/epub+zip": (".epub",),
    "message/rfc822": (".eml",),
}
"""Each media type that we take, and the endings of its files' names."""
MEDIA_TYPES = tuple(KINDS)
ENDINGS = {ending: media_type for media_type, endings in KINDS.items() for ending in endings}
# Other names of ours.
ALIASES = {
    **dict.fromkeys(["application/x-pdf", "application/acrobat"], "application/pdf"),
    **dict.fromkeys(["application/csv", "application/x-csv", "text/x-csv", "text/tab-separated-values"], "text/csv"),
    "application/xhtml+xml": "text/html",
    **dict.fromkeys(["text/x-markdown", "text/x-web-markdown"], "text/markdown"),
    **dict.fromkeys(["text/json", "application/jsonl", "application/x-ndjson"], "application/json"),
    "application/epub": "application/epub+zip",
}
# What is said of files of any kind; Windows takes CSV for Excel's, and Office's files for what they are packed in.
SAYS_NOTHING = {
    *("", "application/octet-stream", "binary/octet-stream", "application/unknown"),
    *("application/zip", "application/x-zip", "application/x-zip-compressed"),
    *("application/vnd.ms-excel", "application/msexcel", "application/x-download", "application/force-download"),
}


def media_type(announced: str, filename: str) -> str:
    """Return the media type of a file that is called so; raises UnsupportedMediaType for none of ours."""
    said = announced.partition(";")[0].strip().lower()
    said = ALIASES.get(said, said)
    if said in KINDS:
        return said
    guessed = ENDINGS.get(PurePath(filename).suffix.lower())
    if guessed and (said in SAYS_NOTHING or said.startswith("text/")):
        return guessed
    endings = ", ".join(sorted(ENDINGS))
    raise UnsupportedMediaType(f"We do not read files of that kind, but those that end in {endings}.")
