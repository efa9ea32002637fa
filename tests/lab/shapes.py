"""EK certificates with all that is above them: as real makers write them, and as nobody should."""

from datetime import UTC, datetime
from itertools import pairwise
from typing import Any

from cryptography import x509
from cryptography.hazmat.primitives.asymmetric import ec, rsa

from tests.lab import maker, pki
from tests.lab.maker import Ca, ca_says

KEY = pki.new_key("rsa2048")
TPM = KEY.public_key()
ROOT, MIDDLE = Ca(pki.name("Lab TPM Root CA", C="XX")), Ca(pki.name("Lab TPM EK CA 01", C="XX"))
RSA = Ca(pki.name("Lab RSA Root CA"), pki.new_key("rsa2048"))
POLICY = x509.CertificatePolicies(
    [x509.PolicyInformation(x509.ObjectIdentifier("2.23.133.1.1"), None)]
)
UNKNOWN = x509.UnrecognizedExtension(x509.ObjectIdentifier("1.2.3.4"), b"\x05\x00")
Path3 = tuple[bytes, list[bytes], bytes]  # EK certificate, intermediates, root


def middle(*more: tuple[x509.ExtensionType, bool], **how: Any) -> x509.Certificate:
    says = (*ca_says(0), *more)
    return ROOT.issue(MIDDLE.name, MIDDLE.key.public_key(), says, **how)


def plain(
    leaf: x509.Certificate | None = None,
    between: x509.Certificate | None = None,
    root: x509.Certificate | None = None,
) -> Path3:
    return (
        pki.der(leaf or MIDDLE.ek(TPM)),
        [pki.der(between or middle())],
        pki.der(root or ROOT.own()),
    )


# --- as real makers write them ---


def infineon() -> Path3:
    """Two levels, an EKU in the CA's certificate, policies that are not critical."""
    own_use = x509.ExtendedKeyUsage([maker.EK])
    return plain(MIDDLE.ek(TPM, (POLICY, False)), middle((own_use, False), (POLICY, False)))


def st() -> Path3:
    """certificatePolicies that are critical."""
    return plain(MIDDLE.ek(TPM, (POLICY, True)), middle((POLICY, True)))


def amd() -> Path3:
    """GeneralizedTime before 2050."""
    leaf, between = MIDDLE.ek(TPM), middle()
    made = maker.changed(between, ROOT.key, maker.generalized_time)
    root = maker.changed(ROOT.own(), ROOT.key, maker.generalized_time)
    return maker.changed(leaf, MIDDLE.key, maker.generalized_time), [made], root


def nuvoton() -> Path3:
    """By a root itself, whose name is one SET, and unsorted, as is the TPM's."""
    ca = Ca(maker.one_set("Lab Technology Corporation", "Lab TPM Root CA 2111", "TW"))
    leaf = maker.changed(ca.ek(TPM), ca.key, maker.unsorted_names)
    return leaf, [], maker.changed(ca.own(), ca.key, maker.unsorted_names)


def intel() -> Path3:
    """Defaults are written out; NULL parameters of ECDSA in the root."""
    leaf = maker.changed(MIDDLE.ek(TPM), MIDDLE.key, maker.written_defaults)
    between = maker.changed(middle(), ROOT.key, maker.written_defaults)
    return leaf, [between], maker.changed(ROOT.own(), ROOT.key, maker.null_parameters)


def forever() -> Path3:
    """Valid to the end of the year 9999, as swtpm's are, and ST's newer roots."""
    rest = datetime(9999, 12, 31, tzinfo=UTC) - datetime.now(UTC)
    return plain(MIDDLE.ek(TPM, lasts=rest), root=ROOT.own(lasts=rest))


def silent() -> Path3:
    """An EK certificate that says nothing of what it is for, neither a TPM's name."""
    return plain(MIDDLE.issue(pki.name("a TPM"), TPM, ()))


def pss() -> Path3:
    leaf = RSA.issue(x509.Name([]), TPM, maker.EK_SAYS, pss=True)
    return pki.der(leaf), [], pki.der(RSA.own())


def p521() -> Path3:
    ca = Ca(pki.name("Lab ECC521 RootCA"), ec.generate_private_key(ec.SECP521R1()))
    return pki.der(ca.ek(TPM)), [], pki.der(ca.own())


def deep() -> Path3:
    """Intel's on-die CA has four levels."""
    cas = [ROOT, *(Ca(pki.name(f"Kernel CA {n}")) for n in range(4))]
    made = [
        pki.der(above.issue(below.name, below.key.public_key(), ca_says()))
        for above, below in pairwise(cas)
    ]
    return pki.der(cas[-1].ek(TPM)), made[::-1], pki.der(ROOT.own())


def negative_serial() -> Path3:
    leaf = maker.changed(MIDDLE.ek(TPM), MIDDLE.key, maker.negative_serial)
    return leaf, *plain()[1:]


# --- to be refused ---


def sha1() -> Path3:
    """As TPMs of before about 2013 have them, most of them TPM 1.2."""
    return maker.changed(RSA.ek(TPM), RSA.key, maker.over_sha1), [], pki.der(RSA.own())


def rsa1024() -> Path3:
    weak = Ca(pki.name("Weak"), rsa.generate_private_key(public_exponent=65537, key_size=1024))  # noqa: S505  (that is it)
    between = ROOT.issue(weak.name, weak.key.public_key(), ca_says())
    return plain(weak.ek(TPM), between)


def too_long() -> Path3:
    below = Ca(pki.name("Below"))
    between = MIDDLE.issue(below.name, below.key.public_key(), ca_says())
    leaf, ours, root = plain(below.ek(TPM))
    return leaf, [pki.der(between), *ours], root


def by_no_ca() -> Path3:
    leaf = Ca(x509.Name([x509.NameAttribute(x509.NameOID.COMMON_NAME, "a TPM")]), KEY)
    between = MIDDLE.issue(leaf.name, TPM, maker.EK_SAYS)
    _, ours, root = plain()
    return pki.der(leaf.ek(pki.new_key().public_key())), [pki.der(between), *ours], root


def may_not_issue() -> Path3:
    says = (
        (x509.BasicConstraints(ca=True, path_length=None), True),
        (maker.usage("crl_sign"), True),
    )
    return plain(between=ROOT.issue(MIDDLE.name, MIDDLE.key.public_key(), says))


def unknown_critical() -> Path3:
    return plain(MIDDLE.ek(TPM, (UNKNOWN, True)))


def another_of_that_name() -> Path3:
    return plain(Ca(MIDDLE.name).ek(TPM))


def other_names_only() -> Path3:
    permitted = x509.NameConstraints([x509.DirectoryName(pki.name("Others"))], None)
    return plain(MIDDLE.ek(TPM), middle((permitted, True)))
