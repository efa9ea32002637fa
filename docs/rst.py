"""reStructuredText: what goes into the sources of the manual pages, and the pages made of them."""

import re
from collections.abc import Callable, Iterable, Mapping

from docutils.core import publish_string

FIELD = re.compile(r"{(\w+)}|@TPM2CLOUD_(\w+)@")


def escaped(text: str) -> str:
    """Plain text: what would be markup in it, or a link or an address, is none."""
    return re.sub(r"([\\*`_|@]|https?(?=://))", r"\\\1", text)


def with_fields(text: str) -> str:
    """Plain text, the fields of an error or a journal entry in it in capitals and emphasised."""
    parts = FIELD.split(text)
    plain, names = parts[::3], [a or b for a, b in zip(parts[1::3], parts[2::3], strict=True)]
    fields = [rf"\ *{name.upper()}*\ " for name in names]
    return "".join(a + b for a, b in zip(map(escaped, plain), [*fields, ""], strict=True))


def with_literals(text: str) -> str:
    """A comment of a configuration file: `setting` and "value" are shown as they are written."""
    parts = re.split(r'`([^`]+)`|("[^"]*")', text)
    plain, first, second = parts[::3], parts[1::3], parts[2::3]
    literals = [rf"\ ``{a or b}``\ " for a, b in zip(first, second, strict=True)]
    return "".join(a + b for a, b in zip(map(escaped, plain), [*literals, ""], strict=True))


def definitions(items: Iterable[tuple[str, str]]) -> str:
    """A list of terms; each text may have several paragraphs, and lists of its own."""
    return "\n\n".join(f"{term}\n{indented(text)}" for term, text in items)


def indented(text: str) -> str:
    return re.sub("^(?=.)", "    ", text, flags=re.MULTILINE)


def heading(text: str, underline: str = "-") -> str:
    return f"{text}\n{underline * len(text)}"


def page(source: str, parts: Mapping[str, Callable[[], str]]) -> str:
    """A manual page (man(7)); @name@ in the source stands for a part. Raises SystemMessage where
    the source is wrong."""
    text = re.sub(r"@(\w+)@", lambda found: parts[found[1]](), source)
    settings = {"halt_level": 2, "report_level": 5, "output_encoding": "unicode"}
    made: str = publish_string(text, writer="manpage", settings_overrides=settings)
    # As other pages have it; and commands that are not torn apart can be copied.
    return made.replace("\n.SH Name\n", "\n.nr HY 0\n.nh\n.ad l\n.SH NAME\n", 1)
