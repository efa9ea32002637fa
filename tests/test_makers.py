"""The directories of TPM makers' CA certificates, and how a root comes into one."""

import json
import subprocess
from pathlib import Path
from typing import Any

import pytest
from cryptography import x509
from cryptography.hazmat.primitives.asymmetric import ed25519, rsa

from agent import ek_path, makers, x509_der
from agent.errors import TrustUnreadable
from tests.lab import maker, pki, shapes, tree
from tests.lab.device import AGENT
from tests.lab.maker import DAY, Ca, ca_says
from tests.lab.shapes import MIDDLE, ROOT, TPM, middle

OTHER = Ca(pki.name("Other Root"))
MADE = ROOT.own()
MARK = pki.fingerprint(MADE)
PAST: Any = {"starts": -9 * DAY, "lasts": 2 * DAY}


def import_root(*arguments: str | Path) -> tuple[int, str, str]:
    """Exit status, what it says and what it complains of; the last argument is a configuration."""
    *rest, config = map(str, arguments)
    done = subprocess.run(
        [str(AGENT), "--config", config, "import-root", *rest],
        capture_output=True,
        text=True,
        timeout=60,
        check=False,
    )
    return done.returncode, done.stdout, done.stderr


@pytest.fixture
def conf(tmp_path: Path) -> Path:
    """A configuration with one directory that is not there yet."""
    path, roots = tmp_path / "config.toml", tmp_path / "tpm-roots.d"
    path.write_text(
        f'[dps]\nid_scope = "0ne"\nattestation = "tpm"\n[tpm]\nmanufacturer_roots = '
        f'["/usr/share/tpm2cloud/tpm-roots.d", {json.dumps(str(roots))}]\n'
    )
    return path


@pytest.fixture
def roots(tmp_path: Path) -> Path:
    return tmp_path / "tpm-roots.d"


def file(directory: Path, *certificates: x509.Certificate | bytes) -> Path:
    path = directory / "from-the-maker.pem"
    ders = [each if isinstance(each, bytes) else pki.der(each) for each in certificates]
    path.write_bytes(b"".join(x509_der.read(der).pem for der in ders))
    return path


# --- the directories ---


def test_a_file_holds_pem_one_or_several_or_der_and_other_names_are_not_looked_at(
    tmp_path: Path,
) -> None:
    (tmp_path / "both.pem").write_bytes(b"# a comment\r\n" + pki.pem(MADE, middle()))
    (tmp_path / "one.DER").write_bytes(pki.der(OTHER.own()))
    (tmp_path / "README").write_text("not looked at")
    (tmp_path / "broken.pem.rpmsave").write_text("neither")
    assert len(makers.known([tmp_path, tmp_path / "absent"])) == 3


@pytest.mark.parametrize(
    "data", [b"", b"junk", b"-----BEGIN CERTIFICATE-----\n", None, b"0\x80\0\0"]
)
def test_a_file_without_a_certificate_is_refused_by_name(tmp_path: Path, data: bytes) -> None:
    path = tmp_path / "ca.crt"
    path.mkdir() if data is None else path.write_bytes(data)
    with pytest.raises(TrustUnreadable, match=str(path)):
        makers.known([tmp_path])


def test_roots_are_those_that_have_issued_themselves_and_are_cas(tmp_path: Path) -> None:
    own = OTHER.issue(OTHER.name, OTHER.key.public_key(), maker.EK_SAYS)
    no_signer = ROOT.own(((x509.BasicConstraints(ca=True, path_length=None), True),
                          (maker.usage("crl_sign"), True)))  # fmt: skip
    known = [x509_der.read(pki.der(each)) for each in (MADE, middle(), own, no_signer)]
    assert makers.roots(known) == known[:1]


# --- import-root ---


def test_a_root_is_shown_and_installed_with_its_fingerprint_only(
    tmp_path: Path, conf: Path, roots: Path
) -> None:
    path = file(tmp_path, MADE)
    status, said, why = import_root(path, conf)
    assert (status, "[root-unconfirmed]" in why, roots.exists()) == (78, True, False)
    assert f"SHA-256 {MARK}" in said
    assert "CN=Lab TPM Root CA" in said
    assert "ECC secp256r1" in said
    assert f"{MADE.not_valid_after_utc:%Y-%m-%d}" in said
    assert MARK not in why  # whoever copies it from here compares it with nothing

    published = ":".join(MARK[i : i + 2] for i in range(0, 64, 2)).upper()
    status, said, why = import_root(path, "--sha256", published, conf)
    assert status == 0, why
    [installed] = roots.iterdir()
    assert f"installed: {installed}" in said
    assert installed.name == f"Lab-TPM-Root-CA-{MARK[:8]}.pem"
    assert installed.stat().st_mode & 0o777 == 0o644
    assert roots.stat().st_mode & 0o777 == 0o755
    assert makers.roots(makers.known([roots]))[0].der == pki.der(MADE)


def test_a_root_of_another_fingerprint_is_not_installed(
    tmp_path: Path, conf: Path, roots: Path
) -> None:
    status, _, why = import_root(file(tmp_path, MADE), "--sha256", "00" * 32, conf)
    assert (status, "its fingerprint is another" in why, roots.exists()) == (78, True, False)
    status, _, why = import_root(file(tmp_path, MADE), "--sha256", MARK[:40], conf)
    assert (status, "64 hexadecimal digits" in why) == (2, True)


def test_a_second_import_changes_nothing(tmp_path: Path, conf: Path, roots: Path) -> None:
    path = file(tmp_path, MADE)
    import_root(path, "--sha256", MARK, conf)
    before = [(each, each.stat().st_ino) for each in roots.iterdir()]
    status, said, _ = import_root(path, conf)
    assert (status, "already there: CN=Lab TPM Root CA" in said) == (0, True)
    assert [(each, each.stat().st_ino) for each in roots.iterdir()] == before


def test_an_intermediate_is_installed_if_it_leads_to_a_root_that_is_there(
    tmp_path: Path, conf: Path, roots: Path
) -> None:
    path = file(tmp_path, middle())
    status, _, why = import_root(path, conf)
    assert (status, "[ca-unrooted]" in why, roots.exists()) == (78, True, False)
    import_root(file(tmp_path, MADE), "--sha256", MARK, conf)
    status, said, why = import_root(file(tmp_path, middle()), conf)
    assert (status, "installed" in said) == (0, True), why
    found = ek_path.find(
        x509_der.read(pki.der(MIDDLE.ek(TPM))), [], ek_path.Trust([roots]), fetch=False
    )
    assert len(found) == 3


def test_all_of_a_bundle_is_taken_or_nothing(tmp_path: Path, conf: Path, roots: Path) -> None:
    bundle = file(tmp_path, middle(), MADE, OTHER.own())
    other = pki.fingerprint(x509.load_pem_x509_certificates(bundle.read_bytes())[2])
    status, _, why = import_root(bundle, "--sha256", MARK, conf)
    assert (status, "[root-unconfirmed]" in why, roots.exists()) == (78, True, False)
    status, said, why = import_root(bundle, "--sha256", MARK, "--sha256", other, conf)
    assert (status, said.count("installed: ")) == (0, 3), why


@pytest.mark.parametrize("shape", [shapes.nuvoton, shapes.intel, shapes.amd, shapes.p521])
def test_a_root_in_its_makers_own_encoding_is_installed_as_it_is(
    shape: Any, tmp_path: Path, conf: Path, roots: Path
) -> None:
    leaf, between, root = shape()
    mark = x509_der.read(root).fingerprint
    status, _, why = import_root(file(tmp_path, root), "--sha256", mark, conf)
    assert status == 0, why
    trust = ek_path.Trust([roots])
    beside = [x509_der.read(each) for each in between]
    assert ek_path.find(x509_der.read(leaf), beside, trust, fetch=False)[-1].der == root


def weak_rsa() -> x509.Certificate:
    key = rsa.generate_private_key(public_exponent=65537, key_size=1024)  # noqa: S505  (that is it)
    return Ca(pki.name("Weak"), key).own()


def odd_key() -> x509.Certificate:
    key = ed25519.Ed25519PrivateKey.generate()
    return ROOT.issue(pki.name("Odd"), key.public_key(), ca_says())


def by_sha1() -> bytes:
    ca = Ca(pki.name("Old"), pki.new_key("rsa2048"))
    return maker.changed(ca.own(), ca.key, maker.over_sha1)


@pytest.mark.parametrize(
    ("made", "why"),
    [
        (lambda: MIDDLE.ek(TPM), "it is no CA's"),
        (lambda: ROOT.own(**PAST), "it was valid until"),
        (lambda: ROOT.own(starts=2 * DAY), "it is valid from"),
        (weak_rsa, r"too weak, or of no known kind (RSA-1024)"),
        (odd_key, "too weak, or of no known kind (Ed25519PublicKey)"),
        (by_sha1, "it is signed over sha1"),
    ],
    ids=["no CA", "expired", "to be", "RSA-1024", "Ed25519", "SHA-1"],
)
def test_what_should_not_vouch_for_anything_is_refused_whatever_its_fingerprint(
    made: Any, why: str, tmp_path: Path, conf: Path, roots: Path
) -> None:
    path = file(tmp_path, made())
    [each] = makers.read(path)
    status, said, told = import_root(path, "--sha256", each.fingerprint, conf)
    assert (status, "[ca-refused]" in told, why in told) == (78, True, True), told
    assert each.fingerprint in said
    assert not roots.exists()


def test_a_garbled_file_or_none_is_refused(tmp_path: Path, conf: Path) -> None:
    (tmp_path / "x.pem").write_bytes(b"junk")
    for path in (tmp_path / "x.pem", tmp_path / "absent"):
        status, _, why = import_root(path, conf)
        assert (status, "[trust-unreadable]" in why) == (78, True)


def test_it_goes_where_it_is_told_and_needs_no_configuration_then(tmp_path: Path) -> None:
    into = tmp_path / "image/etc/tpm2cloud/tpm-roots.d"
    command = [str(AGENT), "import-root", str(file(tmp_path, MADE)), "--sha256", MARK]
    done = subprocess.run(
        [*command, "--into", str(into)], capture_output=True, text=True, timeout=60, check=False
    )
    assert done.returncode == 0, done.stderr
    assert len(makers.known([into])) == 1


def test_an_images_roots_are_looked_at_as_they_are(tmp_path: Path) -> None:
    image = tree.build(tmp_path / "root")
    at = image.path / "etc/tpm2cloud/tpm-roots.d"
    (at / "nuvoton.cer").write_bytes(shapes.nuvoton()[2])
    assert image.codes() == set()
    (at / "nuvoton.cer").write_bytes(shapes.nuvoton()[2][:-9])
    assert image.codes() == {"trust-unreadable"}
