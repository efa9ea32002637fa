"""What is worth a MESSAGE_ID: programs wait for these, and `journalctl -x` explains them."""

import os
import re
from dataclasses import dataclass

from agent.errors import AgentError

NAMESPACE = "1145d031-852e-434c-9419-f541cf6b8b29"
NEED_A_PERSON = {os.EX_UNAVAILABLE, os.EX_NOPERM, os.EX_CONFIG}  # the unit: RestartPrevent...
AGAIN = "systemd runs the service again in a while, for as long as it takes."
PERSON = (
    "tpm2cloud-firstboot does not run again before somebody has done what the remedy says; then: "
    "systemctl restart tpm2cloud-firstboot"
)


@dataclass(frozen=True)
class Event:
    """One kind of journal entry. What it says of itself goes into the journal's catalog, which puts
    the field TPM2CLOUD_STEP of the entry in the place of @TPM2CLOUD_STEP@."""

    name: str  # its MESSAGE_ID is made of it, and somebody relies on that: never change one
    subject: str
    meaning: str

    @property
    def message_id(self) -> str:
        from uuid import UUID, uuid5  # 3 ms, for the journal alone

        return uuid5(UUID(NAMESPACE), self.name).hex


STEP_DONE = Event(
    "step-done",
    "@TPM2CLOUD_STEP@ is done",
    "Something was missing, was made, and is there now: @TPM2CLOUD_EVIDENCE@",
)
STEP_ALREADY_DONE = Event(
    "step-already-done",
    "@TPM2CLOUD_STEP@ was already done",
    "There was nothing to do, and nothing was changed: @TPM2CLOUD_EVIDENCE@",
)
PROVISIONED = Event(
    "provisioned",
    "This device is provisioned",
    "Every step is done; where there is IoT Edge, its identity service confirms it. An entry like "
    "this is written at each boot; whether there was something to do, the entries of the steps "
    "tell.",
)
STARTED_OVER = Event(
    "started-over",
    "This device starts over: its TPM is another one",
    "What was on this disk was made with another TPM, or with this one before it was cleared, and "
    "is of no use with this one: @TPM2CLOUD_REASON@. So IoT Edge, if it is here, was stopped, and "
    "the keys and certificates of the old identity, tpm2cloud's and IoT Edge's, removed. The rest "
    "is as on a first boot. The setting device.moved says whether this may happen.",
)
RESET = Event(
    "reset",
    "This device was reset",
    "Somebody has let it go, by 'tpm2cloud reset': @TPM2CLOUD_WHAT@. It has no identity of its "
    "owner's any more, and is not provisioned by itself for the same one. What the owner has to "
    "revoke is in reset.json in the state directory, and said by 'tpm2cloud reset --dry-run'.",
)
LDEVID_KEY_REPLACED = Event(
    "ldevid-key-replaced",
    "The LDevID key of an earlier installation was replaced",
    "The TPM held an LDevID key at @TPM2CLOUD_HANDLE@ that tpm2cloud made, but not this "
    "installation of it: the device was flashed anew, or another system is installed beside this "
    "one. A key of this installation took its place. A key that tpm2cloud did not make would have "
    "been left alone.",
)
HUB_KEY_REPLACED = Event(
    "hub-key-replaced",
    "The key of an earlier life, or of another hub, was replaced",
    "The TPM held a key for an IoT hub at @TPM2CLOUD_HANDLE@ that this installation does not know: "
    "IoT Edge was on this device once, or it was flashed anew. The key for @TPM2CLOUD_HUB@, which "
    "has let this device in with it, took its place.",
)
TORN_CERTIFICATE = Event(
    "torn-certificate",
    "A certificate of IoT Edge's that a power cut destroyed was removed",
    "@TPM2CLOUD_PATH@ of IoT Edge's certificate service held no certificate: the power was cut "
    "soon after it was written. With such a file IoT Edge does not start any more; without it, it "
    "gets a new certificate.",
)
HEALTH_CHANGED = Event(
    "health-changed",
    "@TPM2CLOUD_CERTIFICATE@: @TPM2CLOUD_WAS@ before, @TPM2CLOUD_STATE@ now",
    "What tpm2cloud-health looks after is in another state than when it was last told of: "
    "@TPM2CLOUD_WHY@. What comes next: @TPM2CLOUD_NEXT@. An entry like this is written when a "
    "state changes, not at each run; for all of it: tpm2cloud health --dry-run",
)
ANCHOR_ACCEPTED = Event(
    "anchor-accepted",
    "@TPM2CLOUD_SUBJECT@ is trusted from now on (@TPM2CLOUD_SETTING@)",
    "A CA that is trusted, @TPM2CLOUD_BY@, has signed a certificate for the name and key of this "
    "one, which is how CAs make their successors known (RFC 4210, 4.4). It is valid until "
    "@TPM2CLOUD_UNTIL@; SHA-256 fingerprint @TPM2CLOUD_FINGERPRINT@. It counts like those in the "
    "file that @TPM2CLOUD_SETTING@ names, for as long as it follows from that file. If it should "
    "not: put another file there, without the CA that has signed for it.",
)
INTERVENTION = Event(
    "intervention",
    "IoT Edge is helped, for @TPM2CLOUD_NAME@",
    "A certificate or a service of IoT Edge's is stuck, and what was milder had its time: "
    "@TPM2CLOUD_REASON@. About to @TPM2CLOUD_WHAT@. It counts among the health.interventions of "
    "this day. What came of it is in a later entry.",
)
INTERVENTION_DONE = Event(
    "intervention-done",
    "IoT Edge was helped, for @TPM2CLOUD_NAME@",
    "What came of it: @TPM2CLOUD_WHAT@. If it does not get well, the next remedy has its turn once "
    "this one had its time (health.patience).",
)
INTERVENTION_PUT_OFF = Event(
    "intervention-put-off",
    "Nothing more is done for @TPM2CLOUD_NAME@ for now",
    "@TPM2CLOUD_REASON@, but: @TPM2CLOUD_WHAT@. This is told once; look at: journalctl -u "
    "@TPM2CLOUD_UNIT@; iotedge check",
)
CAUSE_ELSEWHERE = Event(
    "cause-elsewhere",
    "What keeps @TPM2CLOUD_NAME@ from being renewed is not IoT Edge",
    "@TPM2CLOUD_REASON@. But the operational EST server does not do for this device what it would "
    "have to do for IoT Edge: @TPM2CLOUD_WHAT@. Until it does, IoT Edge is left alone. This is "
    "told once.",
)
RENEWED = Event(
    "ldevid-renewed",
    "The LDevID was renewed, or got back",
    "@TPM2CLOUD_HOW@. IoT Edge uses it from now on, where it uses it.",
)
FAILURE_NOT_KEPT = Event(
    "failure-not-kept",
    "A failure cannot be remembered",
    "Why a run stopped is kept in the state directory, for 'tpm2cloud status'; this could not be "
    "written. The failure itself is told in the next entry.",
)


def every_event() -> list[Event]:
    """Those above; failures have one each, see failed()."""
    return [each for each in globals().values() if isinstance(each, Event)]


def failed(kind: type[AgentError]) -> Event:
    """The event that a run stopped with this error: its meaning, its remedy, and what is next."""
    remedy = re.sub(r"{(\w+)}", lambda field: f"@TPM2CLOUD_{field[1].upper()}@", kind.remedy)
    after = PERSON if kind.status in NEED_A_PERSON else AGAIN
    return Event(
        f"failed-{kind.code}",
        f"@TPM2CLOUD_STEP@ failed with {kind.code}",
        f"{meaning(kind)}\n\nRemedy: {remedy}\n\n{after}",
    )


def meaning(kind: type[AgentError]) -> str:
    """The first line of its docstring."""
    return str(kind.__doc__).partition("\n")[0]
