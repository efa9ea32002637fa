"""The units of the real packages: their names, users, sockets and modes, how they depend on each
other, and what is done when they fail. None is sandboxed."""

USERS = {"keyd": "aziotks", "certd": "aziotcs", "identityd": "aziotid", "tpmd": "aziottpm"}

SERVICE = """\
[Unit]
Description=Azure IoT stand-in: {name}
Requires=aziot-{name}.socket
After=aziot-{name}.socket

[Service]
ExecStart=/usr/libexec/aziot-identity-service/aziot-{name}
KillMode=process
Restart=on-failure
RestartSec=5s
User={user}

[Install]
WantedBy=multi-user.target
"""

SOCKET = """\
[Unit]
Description=Azure IoT stand-in: socket of {name}
PartOf=aziot-{name}.service

[Socket]
ListenStream=/run/aziot/{name}.sock
SocketMode=0660
DirectoryMode=0755
SocketUser={user}
SocketGroup={user}

[Install]
WantedBy=sockets.target
"""

EDGED_SERVICE = """\
[Unit]
Description=Azure IoT Edge stand-in
After=network-online.target docker.service aziot-edged.workload.socket aziot-edged.mgmt.socket
Requires=aziot-edged.workload.socket aziot-edged.mgmt.socket
Wants=network-online.target docker.service

[Service]
ExecStart=/usr/libexec/aziot/aziot-edged
KillMode=process
TimeoutStartSec=600
TimeoutStopSec=40
Restart=on-failure
RestartPreventExitStatus=153
RestartSec=5
User=iotedge
Group=iotedge

[Install]
WantedBy=multi-user.target
Also=aziot-edged.workload.socket aziot-edged.mgmt.socket
"""

EDGED_SOCKET = """\
[Unit]
Description=Azure IoT Edge stand-in: socket {name}
PartOf=aziot-edged.service

[Socket]
ListenStream=/var/run/iotedge/{name}.sock
SocketMode={mode}
DirectoryMode=0755
SocketUser={user}
SocketGroup=iotedge
Service=aziot-edged.service

[Install]
WantedBy=sockets.target
"""

EDGED = {
    "aziot-edged.service": EDGED_SERVICE,
    "aziot-edged.mgmt.socket": EDGED_SOCKET.format(name="mgmt", mode="0660", user="edgeagentuser"),
    "aziot-edged.workload.socket": EDGED_SOCKET.format(
        name="workload", mode="0666", user="iotedge"
    ),
}


def service(name: str) -> str:
    return SERVICE.format(name=name, user=USERS[name])


def socket(name: str) -> str:
    return SOCKET.format(name=name, user=USERS[name])
