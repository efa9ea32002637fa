"""How many processes a run had, and whom it talked to, from the output of strace -f."""

import re
from collections.abc import Iterable, Iterator
from pathlib import Path

CALL = re.compile(r"(execve|v?fork|clone3?)\((.*)\) += (\d+)$")
NETWORK = re.compile(r"\b(socket|connect|sendto|sendmsg)\(.*\bAF_(INET6?|PACKET|NETLINK)\b")


def processes(trace: Iterable[str]) -> tuple[int, int]:
    """Processes (threads do not count) and programs (successful execve) below the first process,
    without every `iotedge` and what is below it."""
    parent: dict[int, int] = {}
    executed: list[tuple[int, str]] = []
    threads = set()
    for pid, call, arguments, result in _calls(trace):
        if call == "execve":
            executed.append((pid, arguments.split('"')[1]))
            continue
        parent[result] = pid
        if "CLONE_THREAD" in arguments:
            threads.add(result)
    edge = {pid for pid, program in executed if Path(program).name == "iotedge"}
    ours = {pid for pid in parent if not edge & {pid, *_ancestors(pid, parent)}}
    return len(ours - threads), sum(pid in ours for pid, _ in executed)


def network(trace: Iterable[str]) -> list[str]:
    """What would reach beyond this machine, or find the way there: sockets of any such kind, those
    for asking a name server among them. TPM and services are at Unix sockets."""
    return [line for line in trace if NETWORK.search(line)]


def _ancestors(pid: int, parent: dict[int, int]) -> Iterator[int]:
    while pid in parent:
        pid = parent[pid]
        yield pid


def _calls(trace: Iterable[str]) -> Iterator[tuple[int, str, str, int]]:
    """(pid, call, arguments, result) of the calls that succeeded, the two halves of interrupted
    ones joined."""
    begun: dict[str, str] = {}
    for line in trace:
        pid, text = line.split(maxsplit=1)
        if text.endswith("<unfinished ...>"):
            begun[pid] = text.removesuffix("<unfinished ...>")
        elif text.startswith("<... "):
            text = begun.pop(pid, "") + text.partition("resumed>")[2]
        if found := CALL.match(text.strip()):
            yield int(pid), found[1], found[2], int(found[3])
