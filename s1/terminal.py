"""Text from models, files and the command line: shown safely on a terminal, made valid Unicode, or a file name."""

from __future__ import annotations

import hashlib
import re

CONTROL = re.compile("[\0-\x08\x0b-\x1f\x7f-\x9f]")
"""Every control character but the tab and the newline. A terminal obeys some of them."""
SURROGATE = re.compile("[\ud800-\udfff]")


def visible(text: object) -> str:
    r"""The text with its control characters shown as `cat -v` shows them.

    >>> visible("a\x1b[2J\x9b\x7f\tb\n")
    'a^[[2JM-^[^?\tb\n'
    """
    return CONTROL.sub(_caret, valid_text(str(text)))


def valid_text(text: str) -> str:
    """The text with the replacement character for each lone surrogate, which UTF-8 cannot hold.

    Two that belong together, as a server may send them in two events, become their character.
    """
    if not SURROGATE.search(text):
        return text
    return text.encode("utf-16-le", "surrogatepass").decode("utf-16-le", "replace")


def file_name(text: str) -> str:
    """A name for a file or folder: letters, digits, "-" and ".", never hidden, at most 200 characters.

    >>> file_name("../a, b_c")
    'a-b-c'
    """
    name = re.sub(r"[^A-Za-z0-9.]+", "-", text).strip("-.") or "run"
    if len(name) > 200:  # file systems end at 255 bytes
        name = f"{name[:180]}-{hashlib.sha256(valid_text(text).encode()).hexdigest()[:12]}"
    return name


def _caret(match: re.Match[str]) -> str:
    code = ord(match.group())
    return ("M-" if code > 0x7F else "") + ("^?" if code == 0x7F else "^" + chr(0x40 + code % 0x80))
