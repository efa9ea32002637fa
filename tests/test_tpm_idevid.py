"""TCG's IDevID and IAK: the keys that anybody else makes from the same templates, and nothing that
happens to a device in the field stops them from signing."""

import shutil
from pathlib import Path

import pytest
from cryptography.hazmat.primitives.asymmetric.ec import EllipticCurvePublicKey

from agent.errors import TpmAuth, TpmDisabled, TpmError, TpmFull, TpmLockout
from agent.tpm import Public, Tpm
from agent.tpm.templates import KeyType
from tests.lab import swtpm
from tests.lab.tools import Tools

IDEVID, EK = 0x81020000, 0x81010001
DIGEST = bytes(32)
KINDS: tuple[KeyType, ...] = ("ecc256", "rsa2048")
# TCG TPM 2.0 Keys for Device Identity and Attestation 1.0, 7.3.4 and 7.3.6
DEVICE = "fixedtpm|fixedparent|sensitivedataorigin|userwithauth|adminwithpolicy|sign"
SIGNING = "ad6b3a2284fd698a0710bf5cc1b9bdf15e2532e3f601fa4b93a6a8fa8de579ea"
ATTESTING = "5437182326e414fca797d5f174615a1641f61255797c3a2b22c21d120b2d1e07"


def made_by_tools(tools: Tools, algorithm: str, attributes: str, policy: str, text: str) -> bytes:
    """The name of the primary key that tpm2-tools make; text is `unique` (ECC: x, then y)."""
    unique = text.encode() * (2 if algorithm.startswith("ecc") else 1)
    template = ("-G", algorithm, "-g", "sha256", "-a", attributes, "-L", policy)
    tools("createprimary", "-C", "e", *template, "-u", "-", "-c", "key", stdin=unique)
    tools("readpublic", "-c", "key", "-n", "name")
    tools("flushcontext", "-t")
    return (tools.directory / "name").read_bytes()


@pytest.mark.parametrize("algorithm", ["ecc256:ecdsa-sha256:null", "rsa2048:null:null"])
def test_the_idevid_is_the_one_that_tpm2_tools_make(tpm: Tpm, tools: Tools, algorithm: str) -> None:
    kind: KeyType = "ecc256" if algorithm.startswith("ecc256") else "rsa2048"
    with tpm.idevid(kind) as made:
        assert made.public.signs
    assert made.public.name == made_by_tools(tools, algorithm, DEVICE, SIGNING, "IDEVID")


@pytest.mark.parametrize("algorithm", ["ecc256:ecdsa-sha256:null", "rsa2048:rsapss-sha256:null"])
def test_so_is_the_iak(tpm: Tpm, tools: Tools, algorithm: str) -> None:
    kind: KeyType = "ecc256" if algorithm.startswith("ecc256") else "rsa2048"
    with tpm.iak(kind) as made:
        assert made.public.attests
        assert not made.public.signs
    attributes = f"{DEVICE}|restricted"
    assert made.public.name == made_by_tools(tools, algorithm, attributes, ATTESTING, "IAK")


@pytest.mark.parametrize(("index", "policy"), [(0x01C90010, SIGNING), (0x01C90018, ATTESTING)])
def test_their_policies_are_what_tpm2_tools_come_to(tools: Tools, index: int, policy: str) -> None:
    """7.3.6: use, certify and activate with the endorsement password, or what an index allows."""
    secret = ("policysecret", "-S", "s", "-c", "e")
    trial(tools, "user", secret)
    certify = ("policycommandcode", "-S", "s", "TPM2_CC_Certify")
    activate = ("policycommandcode", "-S", "s", "TPM2_CC_ActivateCredential")
    trial(tools, "certify", secret, certify)
    trial(tools, "activate", secret, activate)
    manufacturers_index(tools, index, secret)
    trial(tools, "nv", ("policyauthorizenv", "-S", "s", hex(index)))
    trial(tools, "all", ("policyor", "-S", "s", "sha256:user,certify,activate,nv"))
    assert (tools.directory / "all").read_bytes().hex() == policy


def trial(tools: Tools, name: str, *commands: tuple[str, ...]) -> None:
    tools("startauthsession", "-S", "s", "-g", "sha256")
    for command in commands:
        last = ("-L", name) if command is commands[-1] else ()
        tools(*command[:3], *last, *command[3:])
    tools("flushcontext", "s")


def manufacturers_index(tools: Tools, index: int, secret: tuple[str, ...]) -> None:
    """7.3.5.2: room for a policy digest with its algorithm, written once."""
    attributes = "policywrite|writeall|ppread|ownerread|authread|policyread|no_da"
    define = ("-C", "o", "-g", "sha256", "-a", attributes, "-L", "user", "-s", "34")
    tools("nvdefine", hex(index), *define)
    tools("startauthsession", "-S", "s", "-g", "sha256", "--policy-session")
    tools(*secret)
    tools("nvwrite", "-P", "session:s", "-i", "-", hex(index), stdin=bytes(34))
    tools("flushcontext", "s")


@pytest.mark.parametrize("kind", KINDS)
def test_a_key_below_the_ek_is_as_the_shell_scripts_make_it(tpm: Tpm, kind: KeyType) -> None:
    with tpm.ek_child(EK, kind) as first, tpm.ek_child(EK, kind) as second:
        assert first.public.attributes == (0x60472 if kind == "rsa2048" else 0x40472)
        assert first.public.policy == b""
        assert first.public.key != second.public.key
        tpm.persist(first, IDEVID)
    assert len(tpm.sign(IDEVID, DIGEST, "sha256")) > 64
    assert tpm.loaded() == set()


def test_a_key_below_an_elliptic_ek(tpm: Tpm) -> None:
    with tpm.ek_child(0x81010016, "ecc256") as key:
        assert isinstance(key.public.key, EllipticCurvePublicKey)
    assert tpm.loaded() == set()


def test_the_azure_c_tools_ek_is_another_than_the_makers(tpm: Tpm, tools: Tools) -> None:
    attributes = "fixedtpm|fixedparent|sensitivedataorigin|adminwithpolicy|restricted|decrypt"
    policy = "837197674484b3f81a90cc8d46a5d724fd52d76e06520b64f2a1da1b331469aa"
    with tpm.ek("EK-RSA2048", azure=True) as azure:
        pass
    assert azure.public.name == made_by_tools(
        tools, "rsa2048:null:aes128cfb", attributes, policy, ""
    )
    with tpm.ek("EK-RSA2048") as makers:
        assert makers.public == tpm.public(EK)
        assert makers.public.name != azure.public.name


def test_an_ek_of_the_high_range_needs_no_certificate_to_be_made(tpm: Tpm) -> None:
    with tpm.ek("EK-HIGH-RSA2048") as high, tpm.ek("EK-HIGH-ECC384") as elliptic:
        assert high.public.key != public(tpm, EK).key
        assert elliptic.public == tpm.public(0x81010016)


def public(tpm: Tpm, handle: int) -> Public:
    found = tpm.public(handle)
    assert found is not None
    return found


# --- in the field ---


def kept_idevid(tpm: Tpm, kind: KeyType = "ecc256") -> Public:
    with tpm.idevid(kind) as made:
        tpm.persist(made, IDEVID)
    return made.public


def test_power_cuts_after_its_use_never_lock_the_tpm(factory_fresh: Path, tmp_path: Path) -> None:
    """TCG's template has no noDA, so a power cut after the use of its password would count as a
    wrong one; its policy is used instead."""
    state = tmp_path / "cut"
    shutil.copytree(factory_fresh / "state", state)
    for cut in range(4):  # the fourth would find the TPM locked
        chip = swtpm.start(state)
        try:
            with Tpm(swtpm.tcti(state)) as tpm:
                assert tpm.budget().lockout_counter == 0
                if cut == 0:
                    kept_idevid(tpm)
                assert tpm.sign(IDEVID, DIGEST, "sha256")
                with tpm.iak("ecc256") as iak:
                    assert tpm.certify(IDEVID, iak, b"cut")
                chip.kill()
        finally:
            chip.kill()
            chip.wait()


def lock_out(tools: Tools) -> None:
    """Three wrong passwords, for something that is nobody's."""
    define = ("-C", "o", "-s", "4", "-a", "authread|authwrite", "-p", "right")
    tools("nvdefine", "0x01500000", *define)
    for _ in range(3):
        tools.ask("nvread", "0x01500000", "-C", "0x01500000", "-P", "wrong")


@pytest.mark.parametrize("kind", KINDS)
def test_it_signs_in_a_lockout(tpm: Tpm, tools: Tools, kind: KeyType) -> None:
    kept_idevid(tpm, kind)
    lock_out(tools)
    budget = tpm.budget()
    assert budget.in_lockout
    assert (budget.lockout_counter, budget.lockout_max) == (3, 3)
    assert tpm.sign(IDEVID, DIGEST, "sha256")
    with tpm.iak("ecc256") as iak:
        assert tpm.certify(IDEVID, iak, b"locked")


def test_an_endorsement_password_is_needed_to_make_it_and_not_to_sign(
    tpm: Tpm, tools: Tools
) -> None:
    first = kept_idevid(tpm)
    tools("changeauth", "-c", "e", "secret")
    assert tpm.budget().passwords == {"endorsement"}
    assert tpm.sign(IDEVID, DIGEST, "sha256")
    with pytest.raises(TpmAuth, match="make the IDevID"), tpm.idevid("ecc256"):
        pass
    with pytest.raises(TpmAuth, match="below 0x81010001"), tpm.ek_child(EK, "ecc256"):
        pass
    assert tpm.loaded() == set()
    with Tpm(tpm.tcti, {"endorsement": b"secret"}) as knowing:
        with knowing.idevid("ecc256") as again, knowing.ek_child(EK, "ecc256"):
            assert again.public == first
        assert knowing.sign(IDEVID, DIGEST, "sha256")
        assert knowing.loaded() == set()


def test_with_that_password_and_without_it_a_lockout_is_a_lockout(tpm: Tpm, tools: Tools) -> None:
    """Its own password is all that is left, and that is what a lockout locks."""
    kept_idevid(tpm)
    tools("changeauth", "-c", "e", "secret")
    lock_out(tools)
    with pytest.raises(TpmLockout, match="sign with 0x81020000"):
        tpm.sign(IDEVID, DIGEST, "sha256")
    with Tpm(tpm.tcti, {"endorsement": b"secret"}) as knowing:
        assert knowing.sign(IDEVID, DIGEST, "sha256")


def test_a_switched_off_endorsement_hierarchy_is_named(tpm: Tpm, tools: Tools) -> None:
    tools("hierarchycontrol", "-C", "p", "ehEnable", "clear")
    assert tpm.budget().disabled == {"endorsement"}
    with pytest.raises(TpmDisabled, match="make the IAK"), tpm.iak("ecc256"):
        pass


def test_tcgs_elliptic_idevid_signs_digests_of_sha_256_only(tpm: Tpm) -> None:
    kept_idevid(tpm)
    with pytest.raises(TpmError, match="sign with 0x81020000"):
        tpm.sign(IDEVID, bytes(48), "sha384")
    assert tpm.loaded() == set()


def test_a_tpm_whose_persistent_handles_are_all_taken(tpm: Tpm) -> None:
    free = tpm.budget().persistent_available
    with tpm.idevid("ecc256") as key:
        for handle in range(0x81000100, 0x81000100 + free):
            tpm.persist(key, handle)
        assert tpm.budget().persistent_available == 0
        with pytest.raises(TpmFull, match="keep a key at 0x81020000") as e:
            tpm.persist(key, IDEVID)
    assert "handles-persistent" in e.value.remedy
    assert tpm.loaded() == set()
