"""What can be wrong with an image, one code each, how bad it is, and what to do: a rule. The rules
stand beside the checks that find them.

The remedy is written here, once: {root} in it is the image's root directory as it was given, {at}
the file or directory that the finding is about, both as seen from the builder's shell.
The manual lists them: `agent.lint.every_code()`.
"""

import shlex
from dataclasses import dataclass
from pathlib import Path
from typing import Literal

from agent.lint.image import Image, readable

ERROR: Literal["error"] = "error"  # the device will not onboard, or the image gives a secret away
WARNING: Literal["warning"] = "warning"


@dataclass(frozen=True)
class Finding:
    """`path` begins at the image's root; `remedy` is typed on the builder's machine."""

    code: str
    severity: Literal["error", "warning"]
    path: str
    message: str
    remedy: str


@dataclass(frozen=True)
class Rule:
    code: str
    severity: Literal["error", "warning"]
    meaning: str
    remedy: str

    def at(self, image: Image, path: str, message: str, **fields: object) -> Finding:
        where = {"root": quoted(image.given), "at": quoted(image.shown(path))}
        remedy = self.remedy.format(**where, **fields)
        return Finding(self.code, self.severity, readable(path), readable(message), remedy)


def quoted(path: Path) -> str:
    """For a shell; a name that a terminal would obey in the way of bash, $'...'."""
    text = str(path)
    if text.isprintable():
        return shlex.quote(text)
    escaped = readable(text.replace("\\", r"\\").replace("'", r"\'"))
    return f"$'{escaped}'"


UNSEEN = Rule(
    "unseen",
    ERROR,
    "The check could not look: what it did not see, nobody vouches for.",
    "Run it as root (sudo tpm2cloud lint-image {root}), and see what is odd with: ls -ld {at}",
)
