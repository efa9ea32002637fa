"""The LDevID certificate: issued by the owner's CA for the key in the TPM.

Here is what a boot needs: a certificate that works. That it is time to renew it is no matter of a
boot, which must not fail because a server is down; the companion does that.
"""

from agent import x509
from agent.steps import Step
from agent.steps.ldevid import Ldevid, anchors
from agent.steps.ldevid_recover import obtain

__all__ = ["anchors", "ldevid_cert"]


def ldevid_cert(ours: Ldevid) -> Step:
    def done() -> str | None:
        if not ours.works():
            return None
        leaf = ours.chain()[0]
        until, issuer = leaf.not_valid_after_utc, leaf.issuer.rfc4514_string()
        return f"{x509.describe(leaf)}, issued by {issuer}, until {until:%Y-%m-%d %H:%M}Z"

    return Step("ldevid-cert", done, lambda: obtain(ours))
