"""Who a device is: by its certificate, or by its TPM.

With a TPM, a register without a token is answered with 401 and a key that only that TPM can use;
the next one, and every poll, carries a token signed with it. Only the latest key counts.
"""

import os
from dataclasses import dataclass
from typing import Any

from tests.lab import dps_sas, dps_tpm
from tests.lab.dps_behaviour import Behaviour, Error, Reply, Request, Script
from tests.lab.dps_enrolments import Enrolments, Entry
from tests.lab.dps_tpm import Parents


@dataclass
class Challenge:
    """The last one that a registration got."""

    parents: Parents
    key: bytes
    key_name: str


class Attestation:
    """For one ID scope; remembers the challenges it gave out."""

    def __init__(self, scope: str, enrolments: Enrolments, script: Script) -> None:
        self._scope, self._enrolments, self._script = scope, enrolments, script
        self._challenges: dict[str, Challenge] = {}

    @property
    def _wish(self) -> Behaviour:
        return self._script.wish

    def challenge(self, registration_id: str, tpm: Any) -> Reply:
        """The 401 that is no refusal; raises 400, 401, 404."""
        parents, key = self._keys(self._enrolled(registration_id), tpm), os.urandom(32)
        given = Challenge(parents, key, self._wish.key_name)
        self._challenges[registration_id.lower()] = given
        words = {"message": "Authorization required", "unencryptedAuthenticationKey": None}
        blob = dps_tpm.blob(parents, key, self._wish.challenge)
        there = {} if blob is None else {"authenticationKey": blob}
        return Reply(401, {**words, **there, "keyName": given.key_name})

    def again(self, entry: Entry, tpm: Any, parents: Parents) -> None:
        """Raise 400 unless these are the keys that were challenged."""
        if self._keys(entry, tpm) != parents:
            raise Error(400, 400207, "The keys are not those that were challenged")

    def _enrolled(self, registration_id: str) -> Entry:
        entry = self._enrolments.individual(registration_id)
        if entry is None:
            raise Error(404, 404204, f"No enrolment of '{registration_id}'")
        if entry.ek is None:
            raise Error(401, 401002, "Unauthorized: the enrolment is not for a TPM")
        return entry

    def _keys(self, entry: Entry, tpm: Any) -> Parents:
        """EK and SRK as offered; raises 400 for what is none, or another's."""
        offered = tpm if isinstance(tpm, dict) else {}
        try:
            ek = dps_tpm.endorsement_key(offered.get("endorsementKey"), ecc=self._wish.ecc)
        except dps_tpm.Malformed as e:
            raise Error(400, 400205, f"Endorsement key: {e}") from e
        if ek != entry.ek:
            raise Error(400, 400207, "The endorsement key is not the enrolled one")
        try:
            return Parents(ek, dps_tpm.storage_root_key(offered.get("storageRootKey")))
        except dps_tpm.Malformed as e:
            raise Error(400, 400206, f"Storage root key: {e}") from e

    def proven(self, request: Request, registration_id: str) -> tuple[Entry, Parents | None]:
        """Who it is by token, with the TPM's keys, or by certificate; raises 401, 404."""
        if request.token is None:
            return self._enrolments.by_certificate(request.chain, registration_id), None
        entry = self._enrolled(registration_id)
        challenge = self._challenges.get(registration_id.lower())
        verdict = self._verdict(request.token, registration_id, entry, challenge)
        request.log["verdict"] = verdict
        if challenge is None or verdict != "good":
            raise Error(401, 401002, f"Unauthorized: token: {verdict}")
        return entry, challenge.parents

    def _verdict(
        self, token: str, registration_id: str, entry: Entry, challenge: Challenge | None
    ) -> str:
        if challenge is None or challenge.parents.ek != entry.ek:
            return "no challenge was given out"
        if self._wish.supersede > 0:
            self._wish.supersede -= 1
            challenge.key = os.urandom(32)
        audience = f"{self._scope}/registrations/{registration_id}"
        now = self._script.now()
        return dps_sas.verdict(token, audience, challenge.key, challenge.key_name, now)
