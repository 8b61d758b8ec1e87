"""Text from data made safe to show: names of files and classes may hold anything, terminal escapes and markup too."""

import re

_OBEYED = re.compile("[\x00-\x08\x0b-\x1f\x7f-\x9f\u200b\u200e\u200f\u2028-\u202e\u2060-\u2069\ufeff\ud800-\udfff]")
"""Control characters, marks that hide or reorder text, and bytes that are not UTF-8; not tabs and line ends."""
_MARKUP = re.compile(r"([\\`\[\]|])")


def printable(text: str) -> str:
    """The text with every character that a terminal would obey written out, as in ``\\x1b[31m``."""
    return _OBEYED.sub(lambda found: _written(found[0]), text)


def one_line(text: str) -> str:
    """The same on one line: line ends and tabs are written out, too."""
    return printable(text).replace("\n", "\\n").replace("\t", "\\t")


def markdown(text: str) -> str:
    """The text on one line, so that Markdown and HTML show it as it is: no tags, links, code or table cells."""
    plain = one_line(text).replace("&", "&amp;").replace("<", "&lt;").replace(">", "&gt;")
    return _MARKUP.sub(r"\\\1", plain)


def _written(character: str) -> str:
    code = ord(character)
    if 0xDC80 <= code <= 0xDCFF:  # a byte of a name that is not UTF-8
        return f"\\x{code - 0xDC00:02x}"
    return f"\\x{code:02x}" if code < 256 else f"\\u{code:04x}"
