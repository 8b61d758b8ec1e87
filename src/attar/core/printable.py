"""Make text from data safe to print: names of files and classes may contain terminal escapes and markup."""

import re

_OBEYED = re.compile("[\x00-\x08\x0b-\x1f\x7f-\x9f\u200b\u200e\u200f\u2028-\u202e\u2060-\u2069\ufeff\ud800-\udfff]")
"""Control characters, invisible and reordering marks, and bytes that are not UTF-8; except tabs and line ends."""
_MARKUP = re.compile(r"([\\`\[\]|])")


def printable(text: str) -> str:
    """Return the text with every terminal control character escaped, as in ``\\x1b[31m``."""
    return _OBEYED.sub(lambda found: _written(found[0]), text)


def one_line(text: str) -> str:
    """Return the printable text on one line: line ends and tabs are escaped, too."""
    return printable(text).replace("\n", "\\n").replace("\t", "\\t")


def markdown(text: str) -> str:
    """Return the text on one line, escaped so that Markdown and HTML show it literally."""
    plain = one_line(text).replace("&", "&amp;").replace("<", "&lt;").replace(">", "&gt;")
    return _MARKUP.sub(r"\\\1", plain)


def _written(character: str) -> str:
    code = ord(character)
    if 0xDC80 <= code <= 0xDCFF:  # a byte of a name that is not UTF-8
        return f"\\x{code - 0xDC00:02x}"
    return f"\\x{code:02x}" if code < 256 else f"\\u{code:04x}"
