"""All that can be in the way of a registration (tests/lab/dps_faults.py), and what each gets."""

import base64
import os
from datetime import timedelta

from tests.lab import hostile, pki
from tests.lab.dps_faults import FIRST, Row
from tests.lab.dps_faults_ways import (
    HUB_KEY,
    c_sdk_ek,
    configured,
    cut_chain,
    damaged,
    damaged_key,
    disabled,
    disabled_at_hub,
    dps,
    drip,
    endless,
    failing,
    foreign_ca,
    forgotten,
    full,
    group_disabled,
    hub,
    instead,
    jump,
    other_certificate,
    other_ek,
    renamed,
    replaced,
    showing,
    silent,
    through,
    tpm,
    unenrolled,
)
from tests.lab.process import free_port

DAY, YEAR = timedelta(days=1), pki.YEAR
SRK = "0x81000001"
NOBODY = "https://nobody.invalid"
OTHER_KEY = base64.b64encode(os.urandom(32)).decode()
ANOTHER = {"key": OTHER_KEY, "thumbprint": "0" * 64, "enabled": True}
OWNER, ENDORSEMENT = "changeauth -c owner s3cret", "changeauth -c endorsement s3cret"
AWAY = f"http://127.0.0.1:{free_port()}"
LOGIN = {"username": "device", "password": "right"}
STORAGE = "createprimary -C o -g sha256 -c made.ctx -G"
PORTAL = hostile.http(200, b"<html><title>Hotel</title>Log in</html>", Content_Type="text/html")

FOR_EITHER = [
    # the enrolment, or what is asked for
    Row("Unknown ID scope", 76, "dps-scope", configured(dps={"id_scope": "0ne00OTHER0"})),
    Row(
        "api-version that DPS does not take",
        76,
        "dps-api-version",
        configured(dps={"api_version": "2031-01-01"}),
    ),
    # the way there
    Row("DNS does not know DPS", 75, "dns-failed", configured(dps={"endpoint": NOBODY})),
    Row(
        "Nobody listens where DPS should be",
        75,
        "unreachable",
        configured(dps={"endpoint": f"https://localhost:{free_port()}"}),
    ),
    Row("TLS interception: another CA", 76, "tls-untrusted", foreign_ca),
    Row(
        "Server certificate expired",
        75,
        "tls-dates",
        showing("expired", starts=-10 * DAY, lasts=DAY),
    ),
    Row(
        "Server certificate for another name",
        76,
        "tls-name",
        showing("named", name="other.example"),
    ),
    Row("No TLS at all", 76, "tls-failed", instead(hostile.reset, plain=True)),
    Row("Connection reset", 75, "unreachable", instead(hostile.reset)),
    Row("Connection cut in mid-reply", 75, "reply-truncated", instead(hostile.cut(PORTAL))),
    Row("Reply without an end", 76, "reply-too-large", instead(endless)),
    Row("Reply that drips for minutes", 75, "timed-out", instead(drip), costs=True),
    Row("No reply at all", 75, "timed-out", instead(silent), costs=True),
    Row("Proxy refuses (403)", 75, "proxy-refused", through(status=403), meanwhile=False),
    Row("Proxy wants a login (407)", 75, "proxy-login", through(**LOGIN), meanwhile=False),
    Row(
        "Proxy: wrong password",
        75,
        "proxy-login",
        through("device", "wrong", **LOGIN),
        meanwhile=False,
    ),
    Row(
        "Proxy away",
        75,
        "proxy-unreachable",
        configured(proxy={"url": AWAY}),
        meanwhile=False,
    ),
    Row("Captive portal (200, HTML)", 76, "captive-portal", instead(hostile.whole(PORTAL))),
    Row(
        "Redirect to a portal",
        76,
        "dps-redirected",
        instead(hostile.whole(hostile.moved("https://portal.example/login", 302))),
    ),
    Row(
        "511: a network wants a login",
        76,
        "captive-portal",
        dps(odd={"challenge": "511", "register": "511"}),
    ),
    Row(
        "JSON cut in the middle",
        76,
        "dps-garbled",
        dps(odd={"challenge": "truncated", "register": "truncated"}),
    ),
    Row("Not JSON", 76, "dps-garbled", dps(odd={"challenge": "binary", "register": "binary"})),
    # DPS itself
    Row("429, Retry-After in seconds", 75, "dps-throttled", dps(throttle=1, retry_after=77)),
    Row(
        "429, Retry-After as a date",
        75,
        "dps-throttled",
        dps(throttle=1, retry_after=77, retry_date=True),
    ),
    Row("500", 75, "dps-trouble", dps(odd={"challenge": "500", "register": "500"})),
    Row("Assigning for ever", 75, "dps-assigning", dps(polls=-1, retry_after=99)),
    Row("Operation forgotten", 75, "dps-forgot", dps(forgets=True)),
    Row("No hub (400208)", 76, "dps-no-hub", failing(400208)),
    Row("Hub denies DPS (400209)", 76, "dps-hub-denied", failing(400209)),
    Row("Failed otherwise (400999)", 76, "dps-failed", failing(400999)),
    # the clock
    Row("Clock years behind", 75, "clock-implausible", jump(-20 * YEAR), meanwhile=False),
    Row("Clock years ahead", 75, "tls-dates", jump(12 * YEAR), meanwhile=False),
    # the hub that is assigned
    Row("Assigned hub away", 75, "hub-unreachable", hub("127.1.2.3")),
    Row("Assigned hub not in DNS", 75, "dns-failed", hub("nobody.invalid")),
    Row("Assigned hub does not know the device", 76, "hub-refused", hub("other")),
    Row("Assigned hub has another key of it", 76, "hub-refused", hub("other", ANOTHER)),
    Row("Assigned hub under another CA", 76, "tls-untrusted", hub("stranger")),
    Row("Disabled at the hub", 76, "hub-refused", disabled_at_hub, meanwhile=False),
]

BY_TPM = [
    Row("Unknown registration", 76, "dps-not-enrolled", forgotten),
    Row("Disabled enrolment", 76, "dps-disabled", disabled),
    Row("Another EK enrolled", 76, "dps-bad-request", other_ek),
    *FOR_EITHER,
    Row("Clock 2 hours behind DPS", 75, "dps-clock", dps(skew=7200)),
    Row(
        "Clock 2 hours ahead, and DPS wants no such token",
        75,
        "dps-clock",
        dps(skew=-7200, odd={"register": "401"}),
    ),
    Row("Token refused, by a clock that agrees", 76, "dps-unauthorized", dps(supersede=99)),
    # what is sealed for the TPM
    *(
        Row(f"Challenge damaged: {part}", 76, code, dps(challenge=f"flipped-{part}"))
        for part, code in {
            "credential": "dps-key-of-another-tpm",
            "secret": "dps-key-of-another-tpm",
            "private": "dps-key-not-taken",
            "seed": "dps-key-not-taken",
            "public": "dps-key-not-taken",
        }.items()
    ),
    Row("Challenge cut", 76, "dps-key-invalid", dps(challenge="truncated")),
    Row("Challenge no base64", 76, "dps-garbled", dps(challenge="not-base64")),
    Row("Challenge for another TPM", 76, "dps-key-of-another-tpm", dps(challenge="other-ek")),
    Row("Challenge for another SRK", 76, "dps-key-of-another-tpm", dps(challenge="other-srk")),
    Row("Hub key damaged", 76, "dps-key-not-taken", dps(hub_key="flipped-private")),
    Row("Hub key for another TPM", 76, "dps-key-of-another-tpm", dps(hub_key="other-ek")),
    Row("Hub key missing, at another hub", 76, "dps-no-hub-key", hub("other", hub_key="missing")),
    # the TPM
    Row("EK by the template of the Azure C SDK", 76, "dps-bad-request", c_sdk_ek),
    Row(
        "EK by another template",
        69,
        "handle-occupied",
        replaced("0x81010001", "createek -G ecc -u made.pub -c made.ctx"),
    ),
    Row(
        "SRK: ECC",
        69,
        "srk-not-rsa",
        replaced(SRK, f"{STORAGE} ecc"),
    ),
    Row(
        "SRK: a key that stores nothing",
        69,
        "handle-occupied",
        replaced(SRK, f"{STORAGE} rsa2048:rsassa:null -a sign|userwithauth|sensitivedataorigin"),
    ),
    Row(
        "Handle of the hub key: foreign object",
        69,
        "handle-occupied",
        replaced(HUB_KEY, f"{STORAGE} ecc"),
    ),
    Row("Owner password, not given", 69, "tpm-auth", tpm(OWNER)),
    Row("Owner password, wrong", 69, "tpm-auth", tpm(OWNER, owner="wrong")),
    Row("Endorsement password, not given", 69, "tpm-auth", tpm(ENDORSEMENT)),
    Row("Endorsement password, wrong", 69, "tpm-auth", tpm(ENDORSEMENT, endorsement="wrong")),
    Row("TPM full, when the hub key comes", 69, "tpm-full", full, command=FIRST),
]

BY_CERTIFICATE = [
    Row("CA not enrolled", 76, "dps-unauthorized", unenrolled),
    Row("Group disabled", 76, "dps-disabled", group_disabled),
    Row("Another certificate enrolled", 76, "dps-unauthorized", other_certificate),
    Row(
        "LDevID expired",
        78,
        "ldevid-expired",
        jump(100 * DAY, configured(ldevid={"recover": []})),
        meanwhile=False,
    ),
    *FOR_EITHER,
]

BOTH_GET_OVER = [
    Row("Clock 2 hours ahead of DPS", 0, "", dps(skew=-7200)),
    Row("503, once, while it is polled", 0, "", dps(odd={"operation": "503"}, odd_times=1)),
    Row(
        "Connection cut, once, while it is polled",
        0,
        "",
        dps(odd={"operation": "cut"}, odd_times=1),
    ),
    Row("assignment.json damaged", 0, "", damaged, command=FIRST),
]
GOT_OVER = {
    "tpm": [
        *BOTH_GET_OVER,
        Row("Owner password, right", 0, "", tpm(OWNER, owner="s3cret")),
        Row("Endorsement password, right", 0, "", tpm(ENDORSEMENT, endorsement="s3cret")),
        Row("Challenge out of date, twice", 0, "", dps(supersede=2)),
        Row(
            "Hub key gone from its handle",
            0,
            "",
            tpm(f"evictcontrol -C o -c {HUB_KEY}"),
            command=FIRST,
        ),
        Row("Hub key damaged on the disk", 0, "", damaged_key, command=FIRST),
        Row("SRK: another RSA key", 0, "", replaced(SRK, f"{STORAGE} rsa2048"), command=FIRST),
    ],
    "x509": [
        *BOTH_GET_OVER,
        Row("Chain cut, in the file of the LDevID", 0, "", cut_chain, command=FIRST),
        Row("The name is another than in the LDevID", 0, "", renamed, command=FIRST),
    ],
}
ROWS = {"tpm": BY_TPM, "x509": BY_CERTIFICATE}
