"""A world on loopback in which a device is provisioned: real parts where real parts exist.

world         everything that is not the device; one for a whole test session
device        a device in it: TPM, files, configuration; cheap, one for each test
lab           one world with one device
pki           CAs, and certificates as odd as a test wants them
swtpm         a TPM as its maker ships it;  factory: as the factory leaves it
est, nginx    GlobalSign's EST server, and the door in front of it that asks for credentials
dps           a provisioning service (a process);  provisioning: how a test holds it
hub           an IoT Hub (a process, hub_server);  mosquitto: a broker that nobody here wrote
proxy         what stands between a device and the world;  hub_client: a client that says anything
iotedge/      a stand-in for IoT Edge that uses what it is given (Go)
process       programs started, waited for, and never left behind

`./tests/setup` installs and builds what it needs. All of it runs as any user, in one directory.
"""
