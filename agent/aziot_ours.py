"""What in IoT Edge's config.toml is ours by what it says: for who took its first line out, or has
moved what is in it, has not made it hers."""

import re
import tomllib
from dataclasses import dataclass
from pathlib import Path
from typing import Any

from agent.aziot_config import percent


@dataclass(frozen=True)
class Ours:
    """`who`: registration id and id scope, as far as they are known; `tokens`: by their names;
    `est`: the URLs that operational certificates come from; `state`: the directory of our files."""

    who: tuple[str, str] | None
    tokens: frozenset[str]
    est: frozenset[str]
    state: Path
    edge_ca: bool


def areas(existing: bytes, ours: Ours) -> set[str]:
    """Of those that aziot_config answers for; none in what is no TOML."""
    try:
        tree = tomllib.loads(existing.decode())
    except ValueError:
        return set()
    found = _provisioning(tree, ours)
    if _is_of_token(_at(tree, "aziot_keys").get("pkcs11_base_slot"), ours):
        found.add("aziot_keys")
    est = _at(tree, "cert_issuance", "est")
    urls, auth = _at(est, "urls").values(), _at(est, "auth").values()
    if ours.est & {each for each in urls if isinstance(each, str)} or _any_below(auth, ours):
        found.add("cert_issuance.est")
    return found


def _provisioning(tree: dict[str, Any], ours: Ours) -> set[str]:
    """With what only means something together with it."""
    told, how = _at(tree, "provisioning"), _at(tree, "provisioning", "attestation")
    named = (how.get("registration_id"), told.get("id_scope"))
    if named != ours.who and not _any_below(how.values(), ours):
        return set()
    by_tpm = {"tpm", "tpm.hierarchy_authorization"} if how.get("method") == "tpm" else set()
    return {"provisioning", *by_tpm, *(["edge_ca"] if ours.edge_ca else [])}


def _is_of_token(uri: object, ours: Ours) -> bool:
    """RFC 7512, as it is written by us or by hand."""
    named = re.search("(?:^pkcs11:|;)token=([^;?]*)", uri) if isinstance(uri, str) else None
    return named is not None and named[1] in {*ours.tokens, *map(percent, ours.tokens)}


def _any_below(values: Any, ours: Ours) -> bool:
    """One is the URI of a file in our directory."""
    top = f"{ours.state.absolute().as_uri()}/"
    return any(isinstance(each, str) and each.startswith(top) for each in values)


def _at(tree: dict[str, Any], *names: str) -> dict[str, Any]:
    """A table, empty if there is none."""
    for name in names:
        found = tree.get(name)
        tree = found if isinstance(found, dict) else {}
    return tree
