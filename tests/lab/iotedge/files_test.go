package main

import (
	"os"
	"path/filepath"
	"reflect"
	"strings"
	"testing"
)

const bootstrapped = `
[provisioning]
source = "dps"
global_endpoint = "https://dps.example/"
id_scope = "0ne000"
[provisioning.attestation]
method = "x509"
registration_id = "sensor-7"
identity_cert = { method = "est", common_name = "sensor-7" }
[aziot_keys]
pkcs11_lib_path = "/usr/lib/libtpm2_pkcs11.so"
pkcs11_base_slot = "pkcs11:token=edge?pin-value=secret-pin"
[cert_issuance.est]
trusted_certs = ["file:///etc/est.pem"]
[cert_issuance.est.auth]
username = "device"
password = "secret-password"
bootstrap_identity_cert = "file:///var/lib/ldevid.pem"
bootstrap_identity_pk = "pkcs11:token=edge;object=ldevid?pin-value=secret-pin"
[cert_issuance.est.urls]
default = "https://est.example/.well-known/est"
`

// installation is a prefix with the directories of the packages, and a tool in it.
func installation(t *testing.T) *Tool {
	layout := Layout{t.TempDir()}
	for _, daemon := range []Daemon{keyd, certd, identityd, tpmd, edged} {
		if err := os.MkdirAll(filepath.Join(layout.etc(daemon), "config.d"), 0o755); err != nil {
			t.Fatal(err)
		}
	}
	return &Tool{layout: layout, edge: true}
}

func TestEachServiceIsToldWhatItNeedsAndNoMore(t *testing.T) {
	tool := installation(t)
	config, err := parseConfig(bootstrapped)
	if err != nil {
		t.Fatal(err)
	}
	for daemon, content := range map[Daemon]any{
		keyd: config.keydFile(5555, 5556), certd: config.certdFile(5556),
		identityd: config.identitydFile(5558),
	} {
		if err := writeFile(tool.layout, daemon, content); err != nil {
			t.Fatal(err)
		}
		text, err := os.ReadFile(tool.layout.superConfig(daemon))
		if err != nil {
			t.Fatal(err)
		}
		if strings.Contains(string(text), "secret-pin") != (daemon == keyd) {
			t.Errorf("%s: %s", daemon.name, text)
		}
		if strings.Contains(string(text), "secret-password") != (daemon == certd) {
			t.Errorf("%s: %s", daemon.name, text)
		}
	}
}

func TestWhatAServiceIsToldIsWhatItReads(t *testing.T) {
	tool := installation(t)
	config, err := parseConfig(bootstrapped)
	if err != nil {
		t.Fatal(err)
	}
	told := config.keydFile(5555, 5556)
	if err := writeFile(tool.layout, keyd, told); err != nil {
		t.Fatal(err)
	}
	var read KeydFile
	if err := readFiles(tool.layout, keyd, &read); err != nil {
		t.Fatal(err)
	}
	if !reflect.DeepEqual(read, told) {
		t.Errorf("%+v is not %+v", read, told)
	}
	for _, c := range []struct {
		uid     int
		id      string
		allowed bool
	}{
		{5555, estBootstrapID, true}, {5555, estID, true}, {5555, estID + "-temp", true},
		{5555, deviceID, false}, {5556, deviceID, true}, {5556, estID, false},
		{5556, deviceID + "-temp", false}, {5558, deviceID, false}, {0, deviceID, true},
	} {
		if allowed(read.Principals, c.uid, c.id) != c.allowed {
			t.Errorf("user %d and key %s: not %v", c.uid, c.id, c.allowed)
		}
	}
}

func TestAServiceWithoutConfigurationSaysSo(t *testing.T) {
	err := readFiles(installation(t).layout, certd, &CertdFile{})
	if err == nil || !strings.Contains(err.Error(), "there is none in") {
		t.Error(err)
	}
}

func TestTheProgramKnowsWhereItIsInstalled(t *testing.T) {
	for path, prefix := range map[string]string{
		"/usr/bin/iotedge": "", "/bin/iotedge": "", "/a/usr/bin/aziotctl": "/a",
	} {
		if tool := findTool(path); tool == nil || tool.layout.prefix != prefix {
			t.Errorf("%s: %+v", path, tool)
		}
	}
	for _, path := range []string{"/device/bin/iotedge", "/usr/bin/other"} {
		if tool := findTool(path); tool != nil {
			t.Errorf("%s: %+v", path, tool)
		}
	}
}
