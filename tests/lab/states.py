"""What a TPM may have been used for before us: states made with tpm2-tools, as others make them.

Each maker works on a TPM without resource manager and leaves nothing loaded, unless that is the
state. The handles are where we want to put something of ours.
"""

import itertools
import re
from collections.abc import Callable
from hashlib import sha256
from pathlib import Path

from tpm2_pytss import ESAPI
from tpm2_pytss.constants import ESYS_TR, TPM2_ALG, TPM2_SE
from tpm2_pytss.types import TPMT_SYM_DEF

from tests.lab import pki
from tests.lab.tools import Tools

Maker = Callable[[Tools], None]

EK, IDEVID, SRK, LDEVID, HUB = "0x81010001", "0x81020000", "0x81000001", "0x81000002", "0x81000100"
IDEVID_NV, EK_NV, EK_NV_ECC = "0x01C90000", "0x01C00002", "0x01C00016"
PASSWORD = "s3cret"  # noqa: S105 (of the lab)

BOUND = "fixedtpm|fixedparent|sensitivedataorigin|userwithauth"
STORAGE = f"{BOUND}|restricted|decrypt"
SIGNING = f"{BOUND}|sign"
AS_EK = "fixedtpm|fixedparent|sensitivedataorigin|adminwithpolicy|restricted|decrypt"
EK_POLICY = "837197674484b3f81a90cc8d46a5d724fd52d76e06520b64f2a1da1b331469aa"
BY_PLATFORM = "ppread|ppwrite|ownerread|authread|no_da|platformcreate"
BY_OWNER = "ownerread|ownerwrite|authread|no_da"


# --- parts ---


def keep(tools: Tools, handle: str, *template: str, hierarchy: str = "o") -> None:
    """A primary key at a persistent handle."""
    tools("createprimary", "-Q", "-C", hierarchy, "-g", "sha256", "-c", "key.ctx", *template)
    tools("evictcontrol", "-Q", "-C", "o", "-c", "key.ctx", handle)
    tools("flushcontext", "-t")


def evict(tools: Tools, handle: str) -> None:
    tools("evictcontrol", "-Q", "-C", "o", "-c", handle)


def write(tools: Tools, index: str, data: bytes, *, by: str = "p") -> None:
    """An NV index of the size of its contents."""
    attributes = BY_PLATFORM if by == "p" else BY_OWNER
    (tools.directory / "nv.bin").write_bytes(data)
    tools("nvdefine", "-Q", index, "-C", by, "-s", str(len(data)), "-a", attributes)
    tools("nvwrite", "-Q", index, "-C", by, "-i", "nv.bin")


def read(tools: Tools, index: str) -> bytes:
    tools("nvread", "-Q", index, "-C", "p", "-o", "nv.bin")
    return (tools.directory / "nv.bin").read_bytes()


def unique(tools: Tools, data: bytes) -> str:
    """For an RSA key, as tpm2_createprimary wants it: the size, little-endian, then the bytes."""
    (tools.directory / "unique").write_bytes(len(data).to_bytes(2, "little") + data)
    return "unique"


# --- storage root keys ---


def srk_of_systemd(tools: Tools) -> None:
    """systemd-tpm2-setup: P-256, TCG's SRK template with an empty `unique`."""
    keep(tools, SRK, "-G", "ecc256:aes128cfb", "-a", f"{STORAGE}|noda")


def srk_of_the_seed_scripts(tools: Tools) -> None:
    """`tpm2_createprimary -C o -g sha256 -G rsa`: subject to lockout."""
    keep(tools, SRK, "-G", "rsa")


def srk_of_windows(tools: Tools) -> None:
    """RSA-2048 by the Provisioning Guidance: `unique` is 256 zero bytes."""
    zeros = unique(tools, bytes(256))
    keep(tools, SRK, "-G", "rsa2048:aes128cfb", "-a", f"{STORAGE}|noda", "-u", zeros)


def srk_of_an_oem(tools: Tools) -> None:
    """By a template of its own, with AES-256."""
    oem = unique(tools, b"Contoso OEM")
    keep(tools, SRK, "-G", "rsa2048:aes256cfb", "-a", f"{STORAGE}|noda", "-u", oem)


def srk_with_a_password(tools: Tools) -> None:
    keep(tools, SRK, "-G", "ecc256:aes128cfb", "-a", f"{STORAGE}|noda", "-p", PASSWORD)


# --- endorsement keys ---


def ek_of_the_azure_sdk(tools: Tools) -> None:
    """azure-utpm-c makes the EK with an empty `unique`, if none is there."""
    evict(tools, EK)
    (tools.directory / "policy").write_bytes(bytes.fromhex(EK_POLICY))
    template = ["-G", "rsa2048:aes128cfb", "-a", AS_EK, "-L", "policy"]
    keep(tools, EK, *template, hierarchy="e")


def ek_of_tpm2_createek(tools: Tools) -> None:
    evict(tools, EK)
    tools("createek", "-Q", "-c", EK, "-G", "rsa", "-u", "ek.pub")
    tools("flushcontext", "-t")


def no_ek(tools: Tools) -> None:
    evict(tools, EK)


def ecc_ek_only(tools: Tools) -> None:
    evict(tools, EK)
    undefine(EK_NV)(tools)


def no_ek_certificate(tools: Tools) -> None:
    for index in (EK_NV, EK_NV_ECC):
        undefine(index)(tools)


def foreign_ek(tools: Tools) -> None:
    evict(tools, EK)
    foreign(EK)(tools)


# --- others at our handles, and beside them ---


def foreign(handle: str) -> Maker:
    """A signing key of somebody's."""
    return lambda tools: keep(tools, handle, "-G", "ecc256", "-a", SIGNING)


def hub_key(tools: Tools) -> None:
    """The HMAC key by which a device is known to its IoT hub, as aziot-tpmd keeps it."""
    template = ["-G", "hmac:sha256", "-a", "userwithauth|sign|sensitivedataorigin|noda"]
    keep(tools, HUB, *template)


def earlier_life(tools: Tools) -> None:
    """A key with our mark, from before the device was flashed anew."""
    (tools.directory / "mark").write_bytes(sha256(b"tpm2cloud made this key").digest())
    keep(tools, LDEVID, "-G", "ecc256", "-a", f"{SIGNING}|noda", "-L", "mark")


def foreign_indices(tools: Tools) -> None:
    """As an application, a boot loader and an operator have them."""
    write(tools, "0x01800001", b"of the owner", by="o")
    write(tools, "0x01400001", b"of the platform")
    counter = "ownerread|ownerwrite|authread|no_da|nt=counter"
    tools("nvdefine", "-Q", "0x01800002", "-C", "o", "-s", "8", "-a", counter)
    tools("nvincrement", "-Q", "0x01800002", "-C", "o")
    tools("nvdefine", "-Q", "0x01800003", "-C", "o", "-s", "16", "-a", BY_OWNER)


# --- IDevIDs that are not whole, or not IDevIDs ---


def idevid_without_key(tools: Tools) -> None:
    evict(tools, IDEVID)


def undefine(index: str, *, by: str = "p") -> Maker:
    return lambda tools: void(tools("nvundefine", "-Q", "-C", by, index))


def idevid_without_certificate(tools: Tools) -> None:
    undefine(IDEVID_NV)(tools)


def idevid_for_another_key(tools: Tools) -> None:
    """A certificate of the right CA's, that was written into the wrong board."""
    certificate = read(tools, IDEVID_NV)
    idevid_without_certificate(tools)
    evict(tools, IDEVID)
    keep(tools, IDEVID, "-G", "rsa2048", "-a", f"{SIGNING}|decrypt|noda", hierarchy="e")
    write(tools, IDEVID_NV, certificate)


def idevid_of_the_owner(tools: Tools) -> None:
    certificate = read(tools, IDEVID_NV)
    idevid_without_certificate(tools)
    write(tools, IDEVID_NV, certificate, by="o")


def foreign_certificate(tools: Tools) -> None:
    """A certificate at the IDevID's index, of another CA and for another key."""
    stranger = pki.authority("Somebody else")
    write(tools, IDEVID_NV, pki.der(stranger.issue(pki.new_key().public_key(), "stranger")))


def data(index: str, content: bytes, *, by: str = "p") -> Maker:
    return lambda tools: write(tools, index, content, by=by)


def unwritten(index: str, size: int, *, by: str) -> Maker:
    attributes = BY_PLATFORM if by == "p" else BY_OWNER
    define = ["nvdefine", "-Q", index, "-C", by, "-s", str(size), "-a", attributes]
    return lambda tools: void(tools(*define))


def void(_: object) -> None:
    """For a lambda that is to say nothing."""


# --- who may ---


def password(*hierarchies: str) -> Maker:
    """On the owner's, endorsement's, lockout's or platform's hierarchy (the firmware's, that)."""

    def make(tools: Tools) -> None:
        for name in hierarchies:
            tools("changeauth", "-c", name, PASSWORD)

    return make


def off(hierarchy: str) -> Maker:
    enable = {"platform": "phEnable", "owner": "shEnable", "endorsement": "ehEnable"}[hierarchy]
    return lambda tools: void(tools("hierarchycontrol", "-C", "p", enable, "clear"))


def lockout(tools: Tools) -> None:
    """Three times the wrong password for a key that is subject to it."""
    tools("createprimary", "-Q", "-C", "o", "-G", "ecc", "-a", SIGNING, "-p", "right", "-c", "da")
    tools("flushcontext", "-t")
    (tools.directory / "text").write_bytes(b"text")
    for _ in range(3):
        tools.ask("sign", "-c", "da", "-p", "wrong", "-o", "signature", "text")
        tools("flushcontext", "-t")
    if not re.search(r"inLockout: +1", tools("getcap", "properties-variable")):
        raise RuntimeError("three wrong passwords made no lockout")


# --- no room ---


def no_persistent_slot(tools: Tools) -> None:
    """As many keys as the TPM takes."""
    tools("createprimary", "-Q", "-C", "o", "-G", "ecc", "-c", "key.ctx")
    tools("flushcontext", "-t")
    for handle in itertools.count(0x81000200):
        done = tools.ask("evictcontrol", "-Q", "-C", "o", "-c", "key.ctx", hex(handle))
        tools("flushcontext", "-t")
        if done.returncode:
            break


def no_nv(tools: Tools, *sizes: int) -> None:
    """Filled with indices of these sizes, one after the other."""
    index = itertools.count(0x01800100)
    for size in sizes:
        define = ["nvdefine", "-Q", "-C", "o", "-a", BY_OWNER, "-s", str(size)]
        while not tools.ask(*define, hex(next(index))).returncode:
            pass


def nv_full(tools: Tools) -> None:
    """To the last byte: no key can be kept either, for both live in the same memory."""
    no_nv(tools, 2048, 256, 16, 1)


def nv_without_room_for_a_certificate(tools: Tools) -> None:
    no_nv(tools, 2048, 200)


def no_transient_slot(tools: Tools) -> None:
    """A process that died, or will not let go; there is no resource manager."""
    for n in range(3):
        tools("createprimary", "-Q", "-C", "o", "-G", "ecc", "-c", f"left{n}.ctx")


def no_session_slot(tools: Tools) -> None:
    """The same with its sessions. tpm2-tools put theirs aside, into files; these stay."""
    with ESAPI(tools.tcti) as esys:
        cipher, kind = TPMT_SYM_DEF.parse("aes128cfb"), TPM2_SE.HMAC
        for _ in range(3):
            esys.start_auth_session(ESYS_TR.NONE, ESYS_TR.NONE, kind, cipher, TPM2_ALG.SHA256)


def nothing(tools: Tools) -> None:
    """As the factory, or the chip's maker, left it."""


def at(directory: Path, tcti: str, *makers: Maker) -> None:
    """These states, one after the other; files are in `directory`."""
    directory.mkdir(exist_ok=True)
    tools = Tools(tcti, directory)
    for make in makers:
        make(tools)
