"""What a reset does, in order: who might use the keys is stopped; the keys go, first of the TPM,
then of the token, then what is kept of them in files; then certificates; then configurations, and
passwords of the TPM's; the state last. Each step looks first, and may be cut off anywhere.
"""

import os
import shutil
from collections.abc import Callable, Iterable, Iterator, Sequence
from functools import partial
from hashlib import sha256
from pathlib import Path

from agent import aziot, aziot_config, aziot_ours, pkcs11, store
from agent.config import Config
from agent.health import services, told
from agent.reset.mark import Mark
from agent.state import State
from agent.steps import Step, authorization, forgetting, idevid, ldevid_key
from agent.steps.aziot import file
from agent.steps.token import made
from agent.tpm import Tpm

TELEMETRY = ("tpm2cloud-telemetry.socket", "tpm2cloud-telemetry.service")
EDGE = tuple(f"aziot-{name}.service" for name in ("keyd", "certd", "identityd", "tpmd", "edged"))
Paths = Callable[[], Iterable[Path]]  # what is there when it is asked
NAMES = {ldevid_key.HANDLE: "ldevid-key", idevid.HANDLE: "idevid-key"}


def steps(conf: Config, tpm: Tpm | None, state: State, mark: Mark) -> list[Step]:
    """All but what comes last, `configuration`. Without a TPM, what is on the disk, but for what
    is needed to go on when it answers again."""
    return [*_keys(conf, tpm, state, mark), *_rest(conf, tpm, state, mark)]


def _keys(conf: Config, tpm: Tpm | None, state: State, mark: Mark) -> Iterator[Step]:
    edge = forgetting.has_edge(conf, state)
    yield _telemetry()
    if edge:
        yield _iotedge(conf)
    if tpm:
        yield from (_key(tpm, handle, name) for handle, name in mark.keys.items())
    yield _token(conf, state)
    yield _gone("wrapped-keys", lambda: [*_wrapped(state), *_edge(conf, edge, forgetting.KEYS)])


def _rest(conf: Config, tpm: Tpm | None, state: State, mark: Mark) -> Iterator[Step]:
    if tpm:
        yield from (_index(tpm, index, digest) for index, digest in mark.indices.items())
    burnt = []
    if tpm and mark.wishes.burn_idevid:
        burnt = [conf.idevid.certificate, state.idevid_issued]
    edge = forgetting.has_edge(conf, state)
    kept = partial(_edge, conf, edge, forgetting.CERTIFICATES)
    yield _gone("certificates", lambda: [*_certificates(state), *burnt, *kept()])
    if edge:
        yield _aziot_config(conf, _ours(conf, state, mark))
    if tpm:
        yield _passwords(tpm, state, elsewhere=mark.elsewhere)
    names = partial(_edge, conf, edge, forgetting.NAMES)
    which = [state.tpm] if tpm else []
    yield _gone("state", lambda: [*names(), *_state(conf, state), *which])


def _edge(conf: Config, edge: bool, of: forgetting.Names) -> Iterable[Path]:
    return forgetting.left(conf, of) if edge else ()


# --- who might use the keys ---


def _telemetry() -> Step:
    """It holds a line to the hub, and no lock of ours."""

    def done() -> str | None:
        return None if _running(TELEMETRY) else "nobody sends to the hub"

    return Step("telemetry", done, lambda: services.stop(_running(TELEMETRY)))


def _iotedge(conf: Config) -> Step:
    """Without the files that `iotedge config apply` made, its units do not start again."""

    def done() -> str | None:
        return None if forgetting.applied(conf) or _running(EDGE) else "it is down, and stays so"

    def apply() -> None:
        for path in forgetting.applied(conf):
            store.remove(path)
        if _running(EDGE):
            aziot.stop(conf.aziot.timeout.total_seconds())

    return Step("iotedge", done, apply)


def _running(units: Sequence[str]) -> list[str]:
    """Where there is no systemd, nobody runs units."""
    return services.running(units) if shutil.which("systemctl") else []


# --- keys ---


def _key(tpm: Tpm, handle: int, name: str) -> Step:
    def done() -> str | None:
        found = tpm.public(handle)
        return f"not at {handle:#x}" if found is None or found.name.hex() != name else None

    return Step(
        NAMES.get(handle, "hub-key"), done, lambda: tpm.give_up(handle, bytes.fromhex(name))
    )


def _token(conf: Config, state: State) -> Step:
    def done() -> str | None:
        which = made(conf.pkcs11, state)
        for where, label in which:
            if pkcs11.look(where, label) or store.exists(forgetting.unfinished(where)):
                return None
        return ", ".join(f"no '{label}' in {where}" for where, label in which)

    return Step("token", done, partial(forgetting.token, conf, state))


def _wrapped(state: State) -> list[Path]:
    """Keys that only this TPM can load, and the PINs."""
    return [state.ldevid_key, state.other.ldevid_key, state.pins, state.assignment]


# --- certificates, configurations, state ---


def _index(tpm: Tpm, index: int, digest: str) -> Step:
    def done() -> str | None:
        data = tpm.nv_read(index)
        there = data is not None and sha256(data).hexdigest() == digest
        return None if there else f"not at NV {index:#x}"

    return Step("idevid-cert", done, lambda: tpm.nv_undefine(index))


def _certificates(state: State) -> list[Path]:
    slots = (state, state.other)
    of_slots = [p for s in slots for p in (s.ldevid_cert, s.ldevid_next, s.ldevid_issued)]
    return [*of_slots, *_below(state.anchors)]


def _below(directory: Path) -> list[Path]:
    with store.permitted(directory):
        return sorted(directory.iterdir()) if directory.is_dir() else []


def _ours(conf: Config, state: State, mark: Mark) -> aziot_ours.Ours:
    """Who the device was, the mark still knows when the rest has gone."""
    asked = mark.hand_over["registration"] or {}
    named = (asked.get("id"), asked.get("id_scope"))
    return aziot_ours.Ours(
        who=(str(named[0]), str(named[1])) if all(named) else None,
        tokens=frozenset(label for _, label in made(conf.pkcs11, state)),
        est=frozenset([conf.operational.url] if conf.operational and conf.operational.url else []),
        state=state.directory,
        edge_ca=conf.edge_ca is not None,
    )


def _aziot_config(conf: Config, ours: aziot_ours.Ours) -> Step:
    """What IoT Edge's owner had in it besides stays: a copy of hers from before may hold an older
    identity, and one of an edit between has ours; so has what a killed run left of any."""
    path = file(conf)
    ends = (".before-tpm2cloud", ".previous")
    whole = [path, *(path.with_name(f"{path.name}{end}") for end in ends)]
    copies = [*whole[1:], *map(store.part_of, whole)]

    def rest(existing: bytes) -> bytes:
        return aziot_config.released(existing, path, aziot_ours.areas(existing, ours))

    def done() -> str | None:
        existing = store.read(path)
        clean = existing is None or rest(existing) == existing
        return f"nothing of ours in {path}" if clean and not _there(copies) else None

    def apply() -> None:
        existing = store.read(path)
        if existing is not None and (left := rest(existing)) != existing:
            store.write(path, left) if left else store.remove(path)
        for copy in _there(copies):
            store.remove(copy)

    return Step("aziot-config", done, apply)


def _passwords(tpm: Tpm, state: State, *, elsewhere: bool) -> Step:
    """Those of the TPM's hierarchies that we have set, once nothing needs them any more. Another
    TPM's are its own."""

    def done() -> str | None:
        return None if authorization.left(state) else "none is ours"

    def release() -> None:
        if elsewhere:
            authorization.forget(state)
        else:
            authorization.released(tpm, state)

    return Step("authorization", done, release)


def _state(conf: Config, state: State) -> list[Path]:
    shown = [told.summary_file(), *filter(None, [conf.health.textfile])]
    return [*state.identity, state.loaded_before_login, *shown]


def _gone(name: str, paths: Paths) -> Step:
    def done() -> str | None:
        return None if _there(paths()) else "nothing is left"

    def apply() -> None:
        for path in _there(paths()):
            remove(path)

    return Step(name, done, apply)


def remove(path: Path) -> None:
    """A file, or a directory and all that is in it."""
    if path.is_dir() and not path.is_symlink():
        store.empty(path.parent, [path.name])
    else:
        store.remove(path)


def _there(paths: Iterable[Path]) -> list[Path]:
    found = []
    for path in dict.fromkeys(paths):
        with store.permitted(path):
            found += [path] if os.path.lexists(path) else []
    return found


def configuration(mark: Mark) -> Step:
    """Whom the device is provisioned for, and the passwords for that: from then on nobody knows
    where anything is."""
    return _gone("configuration", lambda: mark.files)
