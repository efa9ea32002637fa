"""The owner of devices, who can open what they put into escrow: a private key at home, the public
one in their images."""

import subprocess
from pathlib import Path

from cryptography.hazmat.primitives.asymmetric import ec, rsa
from cryptography.hazmat.primitives.serialization import Encoding, PublicFormat

from tests.lab import pki

Key = rsa.RSAPrivateKey | ec.EllipticCurvePrivateKey


class Owner:
    """`home`: where the private key is kept; `public`: the file that devices have."""

    def __init__(self, home: Path, public: Path) -> None:
        self._private, self.public = home / "owner-key.pem", public
        self.have(ec.generate_private_key(ec.SECP256R1()))

    def have(self, key: Key) -> None:
        """Another key than before, P-256 at first."""
        pki.write_private(self._private, pki.private_pem(key))
        public = key.public_key().public_bytes(Encoding.PEM, PublicFormat.SubjectPublicKeyInfo)
        self.public.write_bytes(public)

    def opens(self, file: Path) -> dict[str, str]:
        """What is in an escrow, by the command in the manual."""
        command = ["openssl", "cms", "-decrypt", "-inform", "DER", "-in", str(file)]
        done = subprocess.run(
            [*command, "-inkey", str(self._private)], capture_output=True, check=True
        )
        return dict(line.split("=", 1) for line in done.stdout.decode().splitlines())
