"""systemd's files in an image: units, drop-ins, presets (systemd.unit(5), systemd.preset(5))."""

import fnmatch
import re
from collections.abc import Iterator

from agent.lint.image import Image

VENDOR = ("/usr/local/lib/systemd", "/usr/lib/systemd", "/lib/systemd")
DIRECTORIES = ("/etc/systemd/system", *(f"{at}/system" for at in VENDOR))
PRESETS = ("/etc/systemd/system-preset", *(f"{at}/system-preset" for at in VENDOR))


def fragment(image: Image, unit: str) -> str | None:
    """The unit's file: the first one there is."""
    paths = (f"{directory}/{unit}" for directory in DIRECTORIES)
    return next((path for path in paths if image.stat(path, link=True)), None)


def masked(image: Image, path: str) -> bool:
    """A link to /dev/null, which need not be in the image, or an empty file."""
    found = image.stat(path)
    return image.real(path) == image.real("/dev/null") or bool(found and not found.st_size)


def drop_ins(image: Image, unit: str) -> list[str]:
    """Those in force, in order; the admin's hide a vendor's of the same name, and those of a
    service alone the ones of all whose names begin alike (a-b.service.d, a-.service.d)."""
    stem, _, kind = unit.rpartition(".")
    starts = [f"{stem[: at + 1]}.{kind}" for at, sign in enumerate(stem) if sign == "-"]
    found: dict[str, str] = {}
    for directory in DIRECTORIES:
        for below in [unit, *reversed(starts)]:
            for name in image.names(f"{directory}/{below}.d"):
                if name.endswith(".conf"):
                    found.setdefault(name, f"{directory}/{below}.d/{name}")
    return [path for _, path in sorted(found.items()) if not masked(image, path)]


def settings(image: Image, unit: str, key: str) -> list[tuple[str, str]]:
    """The values that a list setting like Environment= has been given, each with its file."""
    own = fragment(image, unit)
    found: list[tuple[str, str]] = []
    for path in [*([own] if own else []), *drop_ins(image, unit)]:
        text = re.sub(r"\\\n", " ", image.text(path) or "")
        for value in re.findall(rf"^{key}[ \t]*=[ \t]*(.*?)[ \t]*$", text, re.MULTILINE):
            found = [*found, (value, path)] if value else []
    return found


def every(image: Image) -> Iterator[str]:
    """All unit files and drop-ins."""
    for directory in DIRECTORIES:
        yield from (f"{directory}/{name}" for name in image.names(directory))
        yield from image.matching(f"{directory}/*/*.conf")


def enabled(image: Image, unit: str) -> bool:
    """Does anything want it? A link's name is what counts, not where it leads to."""
    for directory in DIRECTORIES:
        for name in image.names(directory):
            wants = name.endswith((".wants", ".requires"))
            if wants and unit in image.names(f"{directory}/{name}"):
                return True
    return False


def preset(image: Image, unit: str) -> tuple[bool, str | None]:
    """Whether presets enable it, and the file that says so; without a word they do."""
    for path in _preset_files(image):
        for line in (image.text(path) or "").splitlines():
            verb, _, rest = line.strip().partition(" ")
            pattern = (rest.split() or [""])[0]
            known = verb in ("enable", "disable", "ignore")
            if known and fnmatch.fnmatchcase(unit, pattern):
                return verb == "enable", path
    return True, None


def _preset_files(image: Image) -> list[str]:
    found: dict[str, str] = {}
    for directory in PRESETS:
        for name in image.names(directory):
            if name.endswith(".preset"):
                found.setdefault(name, f"{directory}/{name}")
    return [path for _, path in sorted(found.items()) if not masked(image, path)]
