"""What the documentation tells to type: the fenced blocks of README and docs/*.md, and the examples
of tpm2cloud(8), command by command."""

import re
import subprocess
from collections.abc import Iterator
from dataclasses import dataclass
from functools import cache
from pathlib import Path

from tests.lab.process import TOP

LANGUAGES = {"sh", "toml", "text", "bash", "python", "ini"}  # bash: a file that others execute
MANUAL = "tpm2cloud.8.rst"


@dataclass(frozen=True)
class Block:
    page: str  # README.md, enrolment.md, ...
    line: int
    language: str
    text: str


@dataclass(frozen=True)
class Command:
    """`text`: as it stands there, continuation lines and all, without the comment behind it."""

    page: str
    line: int
    text: str

    @property
    def words(self) -> str:
        """On one line, to be told from others by."""
        return " ".join(self.text.replace("\\\n", " ").split())


def pages() -> list[Path]:
    return [TOP / "README.md", *sorted((TOP / "docs").glob("*.md"))]


def blocks(page: Path) -> Iterator[Block]:
    """The fenced blocks of a page; a fence that is not closed is none."""
    lines = page.read_text().splitlines()
    begun: int | None = None
    for number, line in enumerate(lines):
        if not line.startswith("```"):
            continue
        if begun is None:
            begun = number
        else:
            text = "\n".join(lines[begun + 1 : number]) + "\n"
            yield Block(page.name, begun + 2, lines[begun][3:], text)
            begun = None


def shell(page: Path, title: str) -> str:
    """The commands of a section, as they stand there."""
    text = page.read_text().splitlines()
    begin = text.index(title)
    end = next((n for n in range(begin + 1, len(text)) if text[n].startswith("## ")), len(text))
    return "\n".join(
        block.text for block in blocks(page) if block.language == "sh" and begin < block.line <= end
    )


def heading(command: Command) -> str:
    """The section of its page that it is in, as it is written there."""
    page = next(page for page in pages() if page.name == command.page)
    above = page.read_text().splitlines()[: command.line]
    return next(line for line in reversed(above) if re.match("#+ ", line))


def indented(page: Path) -> list[int]:
    """Lines that Markdown takes for code although no fence is around them."""
    fenced, found, before = False, [], ""
    for number, line in enumerate(page.read_text().splitlines(), 1):
        if line.startswith("```"):
            fenced = not fenced
        elif not fenced and line.startswith("    ") and not before:
            found.append(number)
        before = line.strip()
    return found


def examples() -> Iterator[Block]:
    """The literal blocks of the manual's EXAMPLES."""
    text = (TOP / "docs" / MANUAL).read_text()
    section = text.partition("\nEXAMPLES\n")[2].partition("\nSEE ALSO\n")[0]
    line = text.partition("\nEXAMPLES\n")[0].count("\n") + 2
    for found in re.finditer(r"^::\n\n((?: {4}.*\n)+)", section, re.MULTILINE):
        inner = re.sub(r"^ {4}", "", found[1], flags=re.MULTILINE)
        yield Block(MANUAL, line + section[: found.start(1)].count("\n"), "sh", inner)


def commands(block: Block) -> Iterator[Command]:
    """What bash would take one by one; raises ValueError if the last one has no end."""
    pending: list[str] = []
    for number, line in enumerate(block.text.splitlines()):
        if not pending and (not line.strip() or line.startswith("#")):
            continue
        pending.append(line)
        if _whole(text := "\n".join(pending)):
            begun = block.line + number - len(pending) + 1
            yield Command(block.page, begun, re.sub(r"\s+#\s.*$", "", text))
            pending = []
    if pending:
        raise ValueError(f"{block.page}:{block.line}: no command: {pending}")


def _whole(text: str) -> bool:
    """bash accepts it, and waits for no more of it."""
    if text.endswith("\\"):
        return False
    done = subprocess.run(["bash", "-n"], input=text, text=True, capture_output=True, check=False)
    return done.returncode == 0 and not done.stderr


@cache
def every_command() -> list[Command]:
    """Of all pages and the manual, in order."""
    every = [*(block for page in pages() for block in blocks(page)), *examples()]
    return [each for block in every if block.language == "sh" for each in commands(block)]
