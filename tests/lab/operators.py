"""config.toml of IoT Edge as operators have it, by how it is written: what was there before us."""

EMPTY = ""

TABLES = """\
# This device is in hall 7.
hostname = "gateway-7"  # fixed; modules know it
cloud_timeout_sec = 70

[provisioning]
# by hand, for now
source = "manual"
connection_string = "HostName=h.azure-devices.net;DeviceId=d;SharedAccessKey=bXk="

[agent]
name = "edgeAgent"
type = "docker"
imagePullPolicy = "on-create"

[agent.config]
image = "mcr.microsoft.com/azureiotedge-agent:1.5"

[agent.config.auth]
serveraddress = "registry.example.com"
username = "u"
password = "p#w"

[agent.env]
RuntimeLogLevel = "debug"
https_proxy = "http://proxy.example.com:3128"

[connect]
workload_uri = "unix:///var/run/iotedge/workload.sock"
management_uri = "unix:///var/run/iotedge/mgmt.sock"

[moby_runtime]
uri = "unix:///var/run/docker.sock"
network = "azure-iot-edge"
"""

TEMPLATE = """\
# =====================================================================
# IoT Edge configuration. Remove the '#' before what you need.
# =====================================================================
# hostname = "my-device"

# --- Provisioning ---
## DPS with X.509
# [provisioning]
# source = "dps"
# id_scope = "<ID_SCOPE>"
#
# [provisioning.attestation]
# method = "x509"
# identity_cert = "file:///var/secrets/device-id.pem"

# --- Certificates ---
# [cert_issuance.est]
# trusted_certs = ["file:///var/aziot/certs/est-id-ca.pem"]

# --- Daemon ---
[agent]
name = "edgeAgent"
# type of the module
type = "docker"
    [agent.config]
    image = "mcr.microsoft.com/azureiotedge-agent:1.5"
"""

INLINE = """\
hostname = "box"
aziot_max_requests = { keyd = 10, certd = 10 }
edge_ca = { cert = "file:///ca.pem", pk = "file:///ca.key" }
[provisioning]
source = "dps"
global_endpoint = "https://global.azure-devices-provisioning.net/"
id_scope = "0ne0000OLD0"
attestation = { method = "symmetric_key", registration_id = "old", symmetric_key = "a" }
[preloaded_keys]
mine = "file:///mine.key"
"""

DOTTED = """\
provisioning.source = "dps"
provisioning.id_scope = "0ne0000OLD0"
provisioning.attestation.method = "x509"
provisioning.attestation.identity_cert.method = "est"
provisioning.attestation.identity_cert.common_name = "old"
cert_issuance.est.urls.default = "https://old.example.com/.well-known/est"
agent.name = "edgeAgent"
"""

SCATTERED = """\
[cert_issuance.est.auth]
username = "old"
password = "old"

[agent]
name = "edgeAgent"

[provisioning.attestation]
method = "x509"
registration_id = "old"

[listen]
workload_uri = "unix:///run/w.sock"

[cert_issuance.est]
trusted_certs = [
  "file:///old.pem",  # theirs
  "file:///older.pem",
]

[provisioning]
source = "dps"
id_scope = "0ne0000OLD0"

# at the very end
[cert_issuance.est.urls]
module = "https://m.example.com/est"

[[image_mirrors]]
from = "a"

[[image_mirrors]]
from = "b"
"""

STYLES = {
    "empty": EMPTY,
    "tables": TABLES,
    "template": TEMPLATE,
    "inline": INLINE,
    "dotted": DOTTED,
    "scattered": SCATTERED,
}
# Also as an editor on another system saves them, and cut off before the last line end.
OPERATORS = (
    STYLES
    | {f"{name}-crlf": text.replace("\n", "\r\n") for name, text in STYLES.items() if text}
    | {f"{name}-unended": text.rstrip("\n") for name, text in STYLES.items() if text}
)
