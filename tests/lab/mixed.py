"""Evidence that is genuine in its parts, but not as a whole; handed in by board `a`.

Each is correctly signed by an IDevID key that the one who hands it in has, where that can be.
"""

from agent.tpm import templates
from tests.lab.boards import HANDLES, OWNERS, Scene

THE_IAK = ("iak", "iak_ticket", "iak_created", "iak_created_signature")
CREATED = ("iak_created", "iak_created_signature")
CERTIFIED = ("idevid_certified", "idevid_certified_signature")


# --- two TPMs ---


def ek_of_another(scene: Scene) -> bytes:
    return scene.a.altered(ek_certificate=scene.b.ek_certificate())


def all_but_the_ek(scene: Scene) -> bytes:
    """The other board is in on it: it has signed for our EK."""
    return scene.b.altered(serial=b"0001", ek_certificate=scene.a.ek_certificate())


def iak_of_another(scene: Scene) -> bytes:
    return scene.a.altered(**scene.b.some("iak"))


def swapped_iak(scene: Scene) -> bytes:
    return scene.a.altered(**scene.b.some(*THE_IAK))


def swapped_iak_that_certifies_its_own(scene: Scene) -> bytes:
    return scene.a.altered(**scene.b.some(*THE_IAK, *CERTIFIED))


def creation_of_another(scene: Scene) -> bytes:
    return scene.a.altered(**scene.b.some(*CREATED))


def certification_of_another(scene: Scene) -> bytes:
    return scene.a.altered(**scene.b.some(*CERTIFIED))


def idevid_of_another(scene: Scene) -> bytes:
    return scene.a.altered(**scene.b.some("idevid"))


def idevid_of_another_certified(scene: Scene) -> bytes:
    return scene.a.altered(**scene.b.some("idevid", *CERTIFIED))


def request_of_another(scene: Scene) -> bytes:
    return scene.b.request()


# --- one TPM, other keys and other words of it ---


def another_key_certified(scene: Scene) -> bytes:
    with scene.a.tpm.iak("ecc256") as iak:
        return scene.a.altered(**scene.a.certified(HANDLES["rsa2048"], iak))


def certified_by_its_other_iak(scene: Scene) -> bytes:
    """The RSA one of the same TPM."""
    with scene.a.tpm.iak("rsa2048") as iak:
        return scene.a.altered(**scene.a.certified(HANDLES["ecc256"], iak))


def creation_as_certification(scene: Scene) -> bytes:
    values = scene.a.some(*CREATED).values()
    return scene.a.altered(**dict(zip(CERTIFIED, values, strict=True)))


def certification_as_creation(scene: Scene) -> bytes:
    values = scene.a.some(*CERTIFIED).values()
    return scene.a.altered(**dict(zip(CREATED, values, strict=True)))


def quote_as_certification(scene: Scene) -> bytes:
    return scene.a.altered(**scene.a.quoted())


def idevid_as_iak(scene: Scene) -> bytes:
    """A key that signs anything could speak in the TPM's place."""
    return scene.a.altered(iak=scene.a.content().idevid)


def iak_of_the_owner(scene: Scene) -> bytes:
    with scene.a.of_the_owner(templates.iak("ecc256")) as iak:
        said = dict(zip(CREATED, scene.a.tpm.certify_creation(iak, b""), strict=True))
        said |= scene.a.certified(HANDLES["ecc256"], iak)
        return scene.a.altered(iak=iak.public.tpmt, iak_ticket=iak.ticket, **said)


def idevid_of_the_owner(scene: Scene) -> bytes:
    key = scene.a.tpm.public(OWNERS)
    assert key is not None
    with scene.a.tpm.iak("ecc256") as iak:
        said = scene.a.certified(OWNERS, iak)
    return scene.a.altered(OWNERS, idevid=key.tpmt, **said)
