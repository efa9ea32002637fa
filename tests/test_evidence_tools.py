"""The evidence in the hands of tools that share nothing with us: openssl and tpm2-tools."""

from hashlib import sha256
from pathlib import Path

import pytest
from cryptography.hazmat.primitives.asymmetric.utils import encode_dss_signature
from cryptography.x509 import load_pem_x509_certificates

from agent import evidence, tcg_csr
from agent.tcg_csr import Csr
from agent.tpm import Tpm
from agent.tpm.templates import KeyType
from tests.lab import boards, process, swtpm
from tests.lab.boards import EKS
from tests.lab.tools import Tools
from tests.lab.verifier import Verifier

KINDS: tuple[KeyType, ...] = ("ecc256", "rsa2048")
IDEVID, IAK, EK = 0x81020000, 0x81020001, 0x81010001
# TCG "TPM 2.0 Keys for Device Identity and Attestation", 7.3.6.4: the branch of the keys' policies
# that an NV index of the platform's maker holds.
IAK_NV_BRANCH = "101e689dadf145222412c05b76e14532af1e5c74208e0ae7cdb0cff1906c8a09"
IDEVID_NV_BRANCH = "629c50b05f1adb5b4297feb241549d4217a1c792c162feb861022def88fa9501"
SECRET = b"thirty-two bytes, as AES-256 is."


def evidence_of(tpm: Tpm, kind: KeyType, ek: str = "EK-RSA2048") -> tuple[bytes, Csr]:
    """A request, also taken apart."""
    if tpm.public(IDEVID) is None:
        with tpm.idevid(kind) as key:
            tpm.persist(key, IDEVID)
    certificate = tpm.nv_read(EKS[ek])
    assert certificate is not None
    data = evidence.tcg_csr(tpm, kind, boards.MODEL, "0001", certificate, IDEVID)
    return data, tcg_csr.decode(data)


def put(directory: Path, **files: bytes) -> None:
    for name, data in files.items():
        (directory / name).write_bytes(data)


def pem(tools: Tools, tpmt: bytes) -> str:
    put(tools.directory, tpmt=tpmt)
    return tools("print", "-t", "TPMT_PUBLIC", "tpmt", "-f", "pem")


def verified(directory: Path, key: str, data: bytes, signature: bytes, *options: str) -> bool:
    put(directory, key=key.encode(), data=data, signature=signature)
    files = (
        "-verify",
        directory / "key",
        "-signature",
        directory / "signature",
        directory / "data",
    )
    return "Verified OK" in process.ask("openssl", "dgst", "-sha256", *options, *files).stdout


def bare(tpmt_signature: bytes) -> tuple[bytes, list[str]]:
    """What openssl takes of a TPMT_SIGNATURE, and the options for it."""
    if tpmt_signature[:4].hex() == "0018000b":  # ECDSA, SHA-256
        size = int.from_bytes(tpmt_signature[4:6], "big")
        r, s = tpmt_signature[6 : 6 + size], tpmt_signature[8 + size :]
        return encode_dss_signature(int.from_bytes(r, "big"), int.from_bytes(s, "big")), []
    assert tpmt_signature[:4].hex() == "0016000b"  # RSAPSS, SHA-256
    pss = ["-sigopt", "rsa_padding_mode:pss", "-sigopt", "rsa_pss_saltlen:auto"]
    return tpmt_signature[6:], pss


@pytest.mark.parametrize("kind", KINDS)
def test_openssl_verifies_each_signature(tpm: Tpm, tools: Tools, kind: KeyType) -> None:
    _, csr = evidence_of(tpm, kind)
    content, directory = csr.content, tools.directory
    iak, idevid = pem(tools, content.iak), pem(tools, content.idevid)
    for said, signature in (
        (content.iak_created, content.iak_created_signature),
        (content.idevid_certified, content.idevid_certified_signature),
    ):
        value, options = bare(signature)
        assert verified(directory, iak, said, value, *options)
        assert not verified(directory, iak, said[:-1], value, *options)
    put(directory, der=csr.signature)
    parsed = process.run("openssl", "asn1parse", "-inform", "der", "-in", directory / "der")
    assert ("ecdsa-with-SHA256" if kind == "ecc256" else "sha256WithRSAEncryption") in parsed
    *_, bits = parsed.strip().splitlines()
    assert "BIT STRING" in bits
    at, header = int(bits.split(":")[0]), int(bits.split("hl=")[1].split()[0])
    value = csr.signature[at + header + 1 :]
    assert verified(directory, idevid, csr.signed, value)
    assert not verified(directory, idevid, csr.signed + b"\0", value)


@pytest.mark.parametrize("kind", KINDS)
def test_tpm2_tools_read_the_same_keys(tpm: Tpm, tools: Tools, kind: KeyType) -> None:
    _, csr = evidence_of(tpm, kind)
    put(tools.directory, iak=csr.content.iak)
    tools("readpublic", "-c", hex(IDEVID), "-f", "tpmt", "-o", "tpmt", "-n", "name", "-q", "whole")
    assert (tools.directory / "tpmt").read_bytes() == csr.content.idevid
    for each in ("name", "whole"):
        assert (tools.directory / each).read_bytes() in csr.content.idevid_certified
    printed = tools("print", "-t", "TPMT_PUBLIC", "iak")
    always = "fixedtpm|fixedparent|sensitivedataorigin|userwithauth|adminwithpolicy|restricted|sign"
    assert f"value: {always}" in printed


def test_tpm2_certify_says_the_same(tpm: Tpm, tools: Tools) -> None:
    """All but the clock, and what the caller wanted in it."""
    _, csr = evidence_of(tpm, "ecc256")
    with tpm.iak("ecc256") as iak:
        tpm.persist(iak, IAK)
    satisfied(tools, "idevid", "TPM2_CC_Certify", IDEVID_NV_BRANCH)
    keys = ("-c", hex(IDEVID), "-P", "session:idevid", "-C", hex(IAK))
    tools("certify", *keys, "-g", "sha256", "-o", "said", "-s", "signature")
    said, ours = (tools.directory / "said").read_bytes(), csr.content.idevid_certified
    signer, about = 6 + 2 + 34, 2 * (2 + 34)
    assert said[:signer] == ours[:signer]
    assert said[-about:] == ours[-about:]


@pytest.mark.parametrize("kind", KINDS)
def test_we_answer_a_ca_that_has_tpm2_makecredential(tpm: Tpm, tools: Tools, kind: KeyType) -> None:
    """All it needs is the EK's certificate, and the name of the IAK."""
    _, csr = evidence_of(tpm, kind)
    put(tools.directory, ek=csr.content.ek_certificate, secret=SECRET)
    der = tools.directory / "ek"
    key = process.run("openssl", "x509", "-inform", "der", "-in", der, "-noout", "-pubkey")
    put(tools.directory, pem=key.encode())
    name = (b"\0\x0b" + sha256(csr.content.iak).digest()).hex()
    wanted = ("-u", "pem", "-G", "rsa", "-s", "secret", "-n", name, "-o", "challenge")
    tools("makecredential", "-T", "none", *wanted)
    challenge = (tools.directory / "challenge").read_bytes()
    assert evidence.answer(tpm, kind, challenge) == SECRET


@pytest.mark.parametrize("kind", KINDS)
def test_tpm2_activatecredential_answers_the_labs_ca(
    tpm: Tpm, tools: Tools, factory_fresh: Path, kind: KeyType
) -> None:
    """So the CA's challenge is what the TPM's world takes for one. The IAK's policy is satisfied
    with tpm2-tools, too: its branches are computed by them."""
    ca = factory_fresh / "ca"
    roots = load_pem_x509_certificates(swtpm.roots(ca).read_bytes())
    between = load_pem_x509_certificates((ca / "issuercert.pem").read_bytes())
    verifier = Verifier(roots, between, {"0001": boards.MODEL})
    data, _ = evidence_of(tpm, kind)
    number, challenge = verifier.challenge(data)
    put(tools.directory, challenge=challenge)
    with tpm.iak(kind) as iak:
        tpm.persist(iak, IAK)
    satisfied(tools, "iak", "TPM2_CC_ActivateCredential", IAK_NV_BRANCH)
    policy_session(tools, "ek")
    keys = ("-c", hex(IAK), "-p", "session:iak", "-C", hex(EK), "-P", "session:ek")
    tools("activatecredential", *keys, "-i", "challenge", "-o", "answer")
    answer = (tools.directory / "answer").read_bytes()
    assert verifier.release(number, answer).product == (boards.MODEL, "0001")


def policy_session(
    tools: Tools, name: str, command: str = "", kind: str = "--policy-session"
) -> None:
    """PolicySecret(endorsement), then PolicyCommandCode; the digest is left in NAME.policy."""
    tools("startauthsession", *([kind] if kind else []), "-S", name)
    tools("policysecret", "-S", name, "-c", "e", "-L", f"{name}.policy")
    if command:
        tools("policycommandcode", "-S", name, "-L", f"{name}.policy", command)


def satisfied(tools: Tools, session: str, command: str, nv_branch: str) -> None:
    """A session that satisfies the policy of an IDevID or IAK for one command."""
    commands = {"use": "", "certify": "TPM2_CC_Certify", "activate": "TPM2_CC_ActivateCredential"}
    for name, each in commands.items():
        policy_session(tools, name, each, kind="")  # on trial: for the digest alone
        tools("flushcontext", name)
    put(tools.directory, **{"nv.policy": bytes.fromhex(nv_branch)})
    branches = ",".join(f"{name}.policy" for name in (*commands, "nv"))
    policy_session(tools, session, command)
    tools("policyor", "-S", session, "-l", f"sha256:{branches}")


@pytest.mark.parametrize("kind", KINDS)
def test_the_iak_quotes_as_an_attestation_key_does(tpm: Tpm, tools: Tools, kind: KeyType) -> None:
    """tpm2_checkquote of tpm2-tools 5.4 does not know RSAPSS; openssl does."""
    with tpm.iak(kind) as iak:
        tpm.persist(iak, IAK)
    scheme = ("--scheme", "ecdsa" if kind == "ecc256" else "rsapss")
    files = ("-m", "said", "-s", "signature", "-o", "pcrs", "-g", "sha256")
    tools("quote", "-c", hex(IAK), "-l", "sha256:0,7", "-q", "00112233", *files, *scheme)
    assert "extraData: 00112233" in tools("print", "-t", "TPMS_ATTEST", "said")
    said, signature = ((tools.directory / name).read_bytes() for name in ("said", "signature"))
    value, options = bare(signature)
    assert verified(tools.directory, pem(tools, iak.public.tpmt), said, value, *options)
    if kind == "ecc256":
        tools("readpublic", "-c", hex(IAK), "-f", "pem", "-o", "pem")
        put(tools.directory, tss=signature)
        check = ("-u", "pem", "-m", "said", "-s", "tss", "-f", "pcrs", "-g", "sha256")
        assert tools.ask("checkquote", *check, "-q", "00112233").returncode == 0
        assert tools.ask("checkquote", *check, "-q", "44556677").returncode != 0
