"""The prior states of a TPM, and what is to become of each: at the factory, and at a first boot."""

from collections.abc import Mapping
from dataclasses import dataclass, field
from typing import Any

from tests.lab import states as s
from tests.lab.factory import Board

VIRGIN, SEEDED, READABLE = Board(virgin=True), Board(), Board(readable=True)
SCRIPTS = {"profile": "ek-child", "key": "rsa2048"}  # as the shell scripts make an IDevID
OURS = frozenset({int(s.LDEVID, 16)})
MADE = OURS | {int(s.SRK, 16)}


@dataclass(frozen=True, kw_only=True)
class Prior:
    """A state, and the verdicts on it: 'refused: CODE', 'waits: CODE' (it passes by itself);
    'adopted', 'side-stepped' or 'untouched', and after a colon what is said then. Empty: not asked.

    `line`: of `manufacture`, on `blank`; `then`: of a first boot after that; `boot`: of a first
    boot of `board`, whose IDevID the shell scripts made. `passwords`: those that are set; `given`:
    those that we are told, as credentials. `replaced`: what was ours. `made`: what a first boot has
    made before it comes to what it refuses. `file`: the line keeps a certificate without room in
    the TPM in a file.
    """

    makers: tuple[s.Maker, ...]
    line: str = ""
    then: str = ""
    boot: str = ""
    blank: Board = VIRGIN
    board: Board = SEEDED
    idevid: Mapping[str, Any] = field(default_factory=dict)
    passwords: tuple[str, ...] = ()
    given: tuple[str, ...] = ()
    replaced: frozenset[int] = frozenset()
    made: frozenset[int] = frozenset()
    issued_by: str = "static"
    file: bool = False


def srk(maker: s.Maker) -> Prior:
    there = "adopted: already done: 0x81000001"
    return Prior(makers=(maker,), line="untouched", then=there, boot=there)


def beside(*makers: s.Maker, **more: Any) -> Prior:
    """Of no concern to us."""
    return Prior(makers=makers, line="untouched", then="untouched", boot="untouched", **more)


def never(code: str, *makers: s.Maker, **more: Any) -> Prior:
    return Prior(makers=makers, line=f"refused: {code}", boot=f"refused: {code}", **more)


def index(*makers: s.Maker) -> Prior:
    """Something that is no IDevID certificate, at its index."""
    return Prior(makers=makers, line="refused: nv-occupied", boot="refused: idevid-", board=VIRGIN)


def locked(*names: str, **more: Any) -> Prior:
    return Prior(makers=(s.password(*names),), passwords=names, **more)


FULL = "side-stepped: because the TPM had no room"
OWNERS = "side-stepped: which is the owner's"
KEPT = "adopted: already done: 0x81020000"
PRIORS = {
    # the SRK
    "SRK by systemd": srk(s.srk_of_systemd),
    "SRK by the shell scripts": srk(s.srk_of_the_seed_scripts),
    "SRK by Windows": srk(s.srk_of_windows),
    "SRK by an OEM": srk(s.srk_of_an_oem),
    "SRK with a password": Prior(
        makers=(s.srk_with_a_password,),
        line="untouched",
        then="refused: srk-password",
        boot="refused: srk-password",
    ),
    "foreign key at the SRK's handle": Prior(
        makers=(s.foreign(s.SRK),),
        line="untouched",
        then="refused: handle-occupied",
        boot="refused: handle-occupied",
    ),
    # the EK
    "EK by the Azure C SDK": never("handle-occupied", s.ek_of_the_azure_sdk),
    "EK by tpm2_createek": Prior(
        makers=(s.ek_of_tpm2_createek,),
        line="adopted: already done: 0x81010001",
        then="adopted: already done: 0x81010001",
        boot="adopted: already done: 0x81010001",
    ),
    "no EK kept": Prior(
        makers=(s.no_ek,),
        line="untouched: done: 0x81010001",
        then="untouched: already done: 0x81010001",
        boot="untouched: done: 0x81010001",
    ),
    "ECC EK only": Prior(
        makers=(s.ecc_ek_only,),
        line="side-stepped: 0x81010016 ECC secp384r1",
        then="side-stepped: 0x81010016 ECC secp384r1",
        boot="side-stepped: 0x81010016 ECC secp384r1",
    ),
    "no EK certificate": never("ek-cert-absent", s.no_ek_certificate),
    "foreign key at the EK's handle": never("handle-occupied", s.foreign_ek),
    # the LDevID, and what is beside it
    "foreign key at the LDevID's handle": Prior(
        makers=(s.foreign(s.LDEVID),),
        line="untouched",
        then="refused: ldevid-key-lost",
        boot="refused: ldevid-key-lost",
        made=frozenset({int(s.SRK, 16)}),
    ),
    "LDevID key of an earlier life": Prior(
        makers=(s.earlier_life,),
        line="untouched",
        then="untouched: is replaced",
        boot="untouched: is replaced",
        replaced=OURS,
    ),
    "hub key by aziot-tpmd": beside(s.hub_key),
    "foreign NV indices around": beside(s.foreign_indices),
    # the IDevID
    "IDevID by the shell scripts": Prior(
        makers=(), line=KEPT, then=KEPT, boot="adopted", blank=SEEDED, idevid=SCRIPTS
    ),
    "... and another profile is asked for": Prior(
        makers=(), line="refused: idevid-key-other", blank=SEEDED
    ),
    "IDevID key without certificate": Prior(
        makers=(s.idevid_without_certificate,),
        line=KEPT,
        then="adopted",
        boot="refused: idevid-absent",
        blank=SEEDED,
        idevid=SCRIPTS,
    ),
    "IDevID certificate without key": Prior(
        makers=(s.idevid_without_key,),
        line="refused: nv-occupied",
        boot="refused: idevid-absent",
        blank=SEEDED,
        idevid=SCRIPTS,
    ),
    "IDevID certificate of another key": Prior(
        makers=(s.idevid_for_another_key,),
        line="refused: idevid-key-other",
        boot="refused: idevid-mismatch",
        blank=SEEDED,
        idevid={"profile": "tcg", "key": "rsa2048"},
    ),
    "IDevID certificate in an owner's index": Prior(
        makers=(s.idevid_of_the_owner,),
        line=KEPT,
        then="adopted",
        boot="adopted",
        blank=SEEDED,
        idevid=SCRIPTS,
    ),
    "foreign key at the IDevID's handle": Prior(
        makers=(s.foreign(s.IDEVID),),
        line="refused: idevid-key-other",
        boot="refused: idevid-absent",
        board=VIRGIN,
    ),
    "IDevID's index: foreign data": index(s.data(s.IDEVID_NV, b"whatever")),
    "... the owner's": index(s.data(s.IDEVID_NV, b"whatever", by="o")),
    "... only 0xff": index(s.data(s.IDEVID_NV, b"\xff" * 700)),
    "... of another size, not written": index(s.unwritten(s.IDEVID_NV, 64, by="p")),
    "... the owner's, not written": index(s.unwritten(s.IDEVID_NV, 2000, by="o")),
    "... a stranger's certificate": index(s.foreign_certificate),
    # who may
    "owner password": locked("owner", line="refused: tpm-auth", boot="refused: tpm-auth"),
    "... which we are told": locked(
        "owner", line="untouched", then="untouched", boot="untouched", given=("owner",)
    ),
    "endorsement password": locked(
        "endorsement", line="refused: tpm-auth", boot="refused: tpm-auth"
    ),
    "... that we are told": locked(
        "endorsement", line="untouched", then="untouched", boot="untouched", given=("endorsement",)
    ),
    "lockout password": locked("lockout", line="untouched", then="untouched", boot="untouched"),
    "platform password": locked(
        "platform", line=OWNERS, then="untouched", boot="refused: nv-locked"
    ),
    "... but the IDevID is readable by all": locked(
        "platform", boot="adopted: already done: 0x81020000", board=READABLE
    ),
    "... and the factory is told it": locked(
        "platform", line="untouched", then="untouched", given=("platform",)
    ),
    "all passwords, all told": locked(
        "owner", "endorsement", "lockout", "platform",
        line="untouched", then="untouched", given=("owner", "endorsement", "platform"),
    ),
    "platform hierarchy off": Prior(
        makers=(s.off("platform"),), line=OWNERS, then="untouched", boot="refused: nv-locked"
    ),
    "owner hierarchy off": never("tpm-hierarchy-disabled", s.off("owner")),
    "endorsement hierarchy off": never("tpm-hierarchy-disabled", s.off("endorsement")),
    "dictionary-attack lockout": beside(s.lockout),
    "... and IoT Edge makes keys of its own": Prior(
        makers=(s.lockout,), boot="waits: iotedge-failed", made=MADE, issued_by="est"
    ),
    # no room
    "no free persistent slot": never("tpm-full", s.no_persistent_slot),
    "NV full": Prior(
        makers=(s.nv_full,), line=FULL, then="untouched", boot="untouched", file=True
    ),
    "NV full, and no file": Prior(
        makers=(s.nv_full,), line="refused: nv-full", made=frozenset({0x81020000})
    ),
    "NV without room for a certificate": Prior(
        makers=(s.nv_without_room_for_a_certificate,), line=FULL, then="untouched", file=True
    ),
    "transient slots full": never("tpm-full", s.no_transient_slot),
    "session slots full": never("tpm-full", s.no_session_slot),
}  # fmt: skip
