"""What must be true of a device without IoT Edge, of DPS and of its hub: at any moment, and when it
is registered."""

import base64
import hashlib
import hmac
from collections import Counter
from dataclasses import dataclass
from typing import Any

from tpm2_pytss.constants import TPM2_HC

from agent import pkcs11
from agent.ek import DPS_EK
from agent.state import State, read_json
from agent.steps import assigned, ldevid_key, srk
from agent.steps.assigned import Assignment, Kept
from agent.tpm import Tpm
from agent.tpm.imported import HUB_KEY
from tests.lab.device import Device
from tests.lab.dps_hubs import Hubs
from tests.lab.finished import failed_tries
from tests.lab.hub import Hub
from tests.lab.world import World

DATA = b"signed to see whose key this is"
OURS = {DPS_EK.handle, srk.HANDLE, ldevid_key.HANDLE, HUB_KEY}


@dataclass(frozen=True)
class End:
    """What is the same whatever came in between."""

    handles: set[int]
    nv: set[int]
    files: dict[str, str]


class Watched:
    """A device in a world, of a name of its own there; `other`: a hub it may be moved to. What was
    so when it was looked at before anything happened: `key`, that the hub knew; `before`, what it
    had kept; `handles`, where the TPM kept something."""

    device: Device

    def __init__(self, world: World, other: Hub, name: str) -> None:
        self.world, self.other, self.id, self.name = world, other, name, name
        self.key: bytes | None = None
        self.before, self.handles = Kept(), set[int]()

    def asked(self) -> Counter[str]:
        """DPS, by this device; and the owner's CA, which gave it a certificate."""
        asked = Counter(each["step"] for each in self.world.dps.requests(self.id))
        logins = (f"board-of-{self.name}", self.id)
        issued = self.world.issued(self.world.owner_est)
        asked["certificate"] = sum(any(who in each.subject for who in logins) for each in issued)
        return asked

    # --- what is true at any moment ---

    def consistent(self, *, old_works: bool, signs: bool) -> Kept:
        """Nobody else has run since it was cut off. `old_works`: until DPS is
        asked. `signs`: there is room in the TPM."""
        device, known = self.device, Hubs(self.world.dps.registry).of(self.id)
        kept = self._kept()
        assert failed_tries(device) == 0
        with Tpm(device.tcti) as tpm:
            assert {*tpm.handles(TPM2_HC.PERSISTENT_FIRST)} <= self.handles | OURS
            at_handle = tpm.public(HUB_KEY)
            if signs and kept.proven and kept.proven.key:
                assert self._signs(tpm, kept.proven) is not None
        blobs = [
            each.key.public for each in (*self._both(kept), *self._both(self.before)) if each.key
        ]
        assert at_handle is None or at_handle.blob in blobs
        if old_works and self.world.hub.host in known:
            assert kept.proven == self.before.proven
        self._keeps_secrets(known)
        return kept

    def _both(self, kept: Kept) -> list[Assignment]:
        return [each for each in (kept.proven, kept.candidate) if each is not None]

    def _kept(self) -> Kept:
        """The file is not there, or all of it can be read; and there is one that is proven, if
        there was."""
        state = State(self.device.state)
        kept, text = assigned.load(state), read_json(state.assignment)
        assert (text is None) == (not state.assignment.exists())
        assert len((text or {}).keys() - {"anew"}) == len(self._both(kept))
        assert (kept.proven is None) <= (self.before.proven is None)
        return kept

    def _signs(self, tpm: Tpm, one: Assignment) -> bool | None:
        """Its key works; whether it is the one that its hub knows, or the one before."""
        assert one.key is not None
        made = assigned.sign(tpm, one.key, DATA)
        entry = Hubs(self.world.dps.registry).of(self.id).get(one.hub)
        keys = [self.key, base64.b64decode(entry["key"]) if entry else None]
        return made in [hmac.digest(key, DATA, hashlib.sha256) for key in keys if key] or None

    def _keeps_secrets(self, known: dict[str, dict[str, Any]]) -> None:
        """No file has a key in the clear, whoever may read it."""
        keys = [
            self.key,
            *(base64.b64decode(each["key"]) for each in known.values() if each["key"]),
        ]
        written = [form for key in keys if key for form in _forms(key)]
        for path in self.device.directory.rglob("*"):
            if path.is_file() and self.device.tpm not in path.parents:
                data = path.read_bytes()
                assert not any(form in data for form in written), path

    def heard(self) -> list[dict[str, Any]]:
        return [m for hub in (self.world.hub, self.other) for m in hub.messages(self.id)]

    # --- how it ends ---

    def end(self) -> End:
        """What is in use is what DPS and the hub know, and nothing is left over."""
        kept = self._kept()
        [(host, entry)] = Hubs(self.world.dps.registry).of(self.id).items()
        now = kept.proven
        assert now is not None
        assert kept.candidate is None
        assert now.hub == host
        with Tpm(self.device.tcti) as tpm:
            assert not (left := tpm.loaded()), [*map(hex, left)]
            found = tpm.public(HUB_KEY)
            if now.key is None:
                assert entry["thumbprint"] == now.asked["shown"]
            else:
                assert found is not None
                assert found.blob == now.key.public
                key = base64.b64decode(entry["key"])
                assert tpm.hmac(HUB_KEY, DATA) == hmac.digest(key, DATA, hashlib.sha256)
            handles = {*tpm.handles(TPM2_HC.PERSISTENT_FIRST)}
            nv = {*tpm.nv_indices()}
        assert failed_tries(self.device) == 0
        return End(handles, nv, self._files())

    def _files(self) -> dict[str, str]:
        """But for the TPM's, and the token's lock: it holds nothing, and is taken over by the next
        who needs it."""
        top, lock = self.device.directory, f"{pkcs11.DATABASE}.lock"
        others = {self.device.tpm, self.device.pkcs11 / lock}
        return {
            str(path.relative_to(top)): oct(path.stat().st_mode)
            for path in top.rglob("*")
            if not others & {path, *path.parents}
        }


def _forms(key: bytes) -> list[bytes]:
    return [key, base64.b64encode(key), base64.urlsafe_b64encode(key), key.hex().encode()]
