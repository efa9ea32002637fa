"""Units: ours will start, and IoT Edge's in the right order."""

from collections.abc import Iterator

from agent.config import Config
from agent.lint import unitfiles
from agent.lint.identity import first_boot
from agent.lint.image import Image
from agent.lint.rules import ERROR, WARNING, Finding, Rule

OURS = ("tpm2cloud-firstboot.service", "tpm2cloud.target")  # the target starts the service
TIMERS = (
    "tpm2cloud-health.timer",
    "tpm2cloud-health-boot.timer",
    "tpm2cloud-health-clock.timer",
)
SOCKETS = ("aziot-keyd.socket", "aziot-certd.socket", "aziot-identityd.socket")
TPMD = "aziot-tpmd.socket"
ACTIVATED = tuple(socket.replace(".socket", ".service") for socket in (*SOCKETS, TPMD))
DROP_IN = "10-tpm2cloud.conf"  # what the package adds to IoT Edge's units:
EDGED = ("aziot-edged.service", "aziot-edged.mgmt.socket", "aziot-edged.workload.socket")
ADDED = (*SOCKETS, TPMD, *ACTIVATED, *EDGED)
CLOCKS = (
    "systemd-timesyncd.service",
    "chrony.service",
    "chronyd.service",
    "ntpsec.service",
    "ntp.service",
    "ntpd.service",
    "openntpd.service",
)
NETWORKS = (
    "systemd-networkd.service",
    "NetworkManager.service",
    "networking.service",
    "dhcpcd.service",
    "connman.service",
)

UNIT_ABSENT = Rule(
    "unit-absent",
    ERROR,
    "A unit that is needed is not in the image.",
    "apt-get install ./tpm2cloud_VERSION_ARCH.deb, in the image",
)
UNIT_MASKED = Rule(
    "unit-masked",
    ERROR,
    "A unit that is needed is masked: it will never start.",
    "rm {at}",
)
UNIT_NOT_ENABLED = Rule(
    "unit-not-enabled",
    ERROR,
    "A unit of tpm2cloud is not enabled, and no first boot will apply presets.",
    "systemctl --root={root} preset {unit}",
)
PRESET_DISABLES = Rule(
    "preset-disables",
    ERROR,
    "A preset disables a unit of tpm2cloud.",
    "Put 'enable {unit}' above that line, or into a preset file whose name sorts before that of "
    "{at}; then: systemctl --root={root} preset {unit}",
)
HEALTH_NOT_ENABLED = Rule(
    "health-not-enabled",
    WARNING,
    "A timer that has the device's certificates looked after is not enabled.",
    "Take away the preset or the mask that forbids it, if there is one; then: "
    "systemctl --root={root} preset {unit}",
)
AZIOT_NOT_ENABLED = Rule(
    "aziot-not-enabled",
    ERROR,
    "A unit of IoT Edge is not enabled: IoT Edge would be gone at the second boot.",
    "systemctl --root={root} enable {unit}",
)
AZIOT_SERVICE_ENABLED = Rule(
    "aziot-service-enabled",
    WARNING,
    "A service of IoT Edge starts by itself, before it is configured; its socket would do that.",
    "systemctl --root={root} disable {unit}",
)
DROP_IN_ABSENT = Rule(
    "drop-in-absent",
    ERROR,
    "What tpm2cloud adds to a unit of IoT Edge is not there, or hidden.",
    "Remove what hides it in /etc/systemd/system, or install the package tpm2cloud anew",
)
TIME_SYNC_ABSENT = Rule(
    "time-sync-absent",
    WARNING,
    "Nothing will set the clock: without the right time no certificate can be judged.",
    "chroot {root} apt-get install systemd-timesyncd, or another NTP client, enabled",
)
NETWORK_ABSENT = Rule(
    "network-absent",
    WARNING,
    "No network service that is known here is enabled.",
    "systemctl --root={root} enable systemd-networkd.service, or yours",
)


def will_start(image: Image, unit: str) -> bool:
    """Enabled, or going to be: by the presets that PID 1 applies at a true first boot."""
    path = unitfiles.fragment(image, unit)
    if path is None or unitfiles.masked(image, path):
        return False
    by_preset = first_boot(image) and unitfiles.preset(image, unit)[0]
    installable = "[Install]" in (image.text(path) or "")
    return unitfiles.enabled(image, unit) or (by_preset and installable)


def ours(image: Image, _: Config | None) -> Iterator[Finding]:
    for unit in OURS:
        path = unitfiles.fragment(image, unit)
        if path is None:
            path = f"{unitfiles.DIRECTORIES[-1]}/{unit}"
            why = "there is no such unit: is the package installed?"
            yield UNIT_ABSENT.at(image, path, why)
        elif unitfiles.masked(image, path):
            yield UNIT_MASKED.at(image, path, "it is masked: it will never start")
        elif not will_start(image, unit):
            yield _why_not(image, unit, path)


def _why_not(image: Image, unit: str, path: str) -> Finding:
    enables, preset = unitfiles.preset(image, unit)
    if enables or preset is None:
        why = "it is not enabled, and a boot with this machine-id applies no presets"
        return UNIT_NOT_ENABLED.at(image, path, why, unit=unit)
    return PRESET_DISABLES.at(image, preset, f"it disables {unit}", unit=unit)


def companion(image: Image, _: Config | None) -> Iterator[Finding]:
    """Certificates last for a year or so, and nobody notices before."""
    for unit in TIMERS:
        path = unitfiles.fragment(image, unit)
        if path and not will_start(image, unit):
            why = f"{unit} will not run: nobody renews the LDevID, or sees that renewals fail"
            yield HEALTH_NOT_ENABLED.at(image, path, why, unit=unit)


def resource_manager(image: Image, conf: Config | None) -> Iterator[Finding]:
    """aziot-keyd's way to the TPM."""
    if conf and (conf.dps.attestation == "tpm" or not conf.for_edge):
        return
    path = unitfiles.fragment(image, "tpm2-abrmd.service")
    if path and unitfiles.masked(image, path):
        yield UNIT_MASKED.at(image, path, "it is masked, but aziot-keyd needs it")


def aziot(image: Image, conf: Config | None) -> Iterator[Finding]:
    """`iotedge config apply` starts them once; at later boots they must come by themselves."""
    if conf and not conf.for_edge:
        return
    by_ek = conf is not None and conf.dps.attestation == "tpm"
    for unit in [*SOCKETS, *([TPMD] if by_ek else []), "aziot-edged.service"]:
        path = unitfiles.fragment(image, unit)
        if path and unitfiles.masked(image, path):
            yield UNIT_MASKED.at(image, path, "it is masked: IoT Edge will not work")
        elif path and not will_start(image, unit):
            why = "it is not enabled: IoT Edge would be gone at the second boot"
            yield AZIOT_NOT_ENABLED.at(image, path, why, unit=unit)


def activated(image: Image, conf: Config | None) -> Iterator[Finding]:
    """Presets enable what they do not name; Debian's package leaves these to their sockets."""
    for unit in ACTIVATED if conf is None or conf.for_edge else ():
        path = unitfiles.fragment(image, unit)
        if path and will_start(image, unit):
            why = f"{unit} starts by itself, before it is configured; its socket would do that"
            yield AZIOT_SERVICE_ENABLED.at(image, path, why, unit=unit)


def added(image: Image, conf: Config | None) -> Iterator[Finding]:
    if conf and not conf.for_edge:
        return
    for unit in ADDED if unitfiles.fragment(image, OURS[0]) else ():
        names = {path.rpartition("/")[2] for path in unitfiles.drop_ins(image, unit)}
        if DROP_IN not in names:
            path = f"{unitfiles.DIRECTORIES[-1]}/{unit}.d/{DROP_IN}"
            yield DROP_IN_ABSENT.at(image, path, "it is not there, or something hides it")


def clock_and_network(image: Image, _: Config | None) -> Iterator[Finding]:
    if not any(will_start(image, unit) for unit in CLOCKS):
        why = "no NTP client is enabled: nothing will set the clock"
        yield TIME_SYNC_ABSENT.at(image, "/etc/systemd/system", why)
    if not any(will_start(image, unit) for unit in NETWORKS):
        why = "none of the network services that are known here is enabled"
        yield NETWORK_ABSENT.at(image, "/etc/systemd/system", why)


CHECKS = (ours, companion, resource_manager, aziot, activated, added, clock_and_network)
