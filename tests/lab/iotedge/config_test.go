package main

import (
	"os"
	"path/filepath"
	"strings"
	"testing"
)

const dps = `
[provisioning]
source = "dps"
global_endpoint = "https://dps.example/"
id_scope = "0ne000"
`

const x509Head = dps + `
[provisioning.attestation]
method = "x509"
registration_id = "sensor-7"
`

const staticToken = x509Head + `
identity_cert = "file:///etc/ld%20evid.pem"
identity_pk = "pkcs11:token=a%20token;object=ldevid?pin-value=%31%26"
`

const store = `
[aziot_keys]
pkcs11_lib_path = "/usr/lib/libtpm2_pkcs11.so"
pkcs11_base_slot = "pkcs11:token=a%20token?pin-value=%31%26"
`

const issued = x509Head + `
[provisioning.attestation.identity_cert]
method = "est"
common_name = "sensor-7"
[provisioning.attestation.identity_cert.auto_renew]
rotate_key = true
threshold = "80%"
retry = "4%"
`

const est = `
[cert_issuance.est]
trusted_certs = ["file:///etc/est-ca.pem"]
[cert_issuance.est.urls]
default = "https://est.example/.well-known/est"
`

const bootstrap = `
[cert_issuance.est.auth]
bootstrap_identity_cert = "file:///etc/ldevid.pem"
bootstrap_identity_pk = "pkcs11:token=a%20token;object=ldevid?pin-value=%31%26"
[cert_issuance.est.identity_auto_renew]
rotate_key = false
threshold = "30day"
retry = "90min"
`

const basic = `
[cert_issuance.est.auth]
username = "device"
password = "secret"
`

const attestation = dps + `
[provisioning.attestation]
method = "tpm"
registration_id = "sensor-7"
`

const tpm = `
[tpm]
tcti = "device"
auth_key_index = 0x0100
[tpm.hierarchy_authorization]
owner = "x"
`

const preloaded = `
[preloaded_certs]
a = "file:///a"
b = ["a"]
[preloaded_keys]
a = "file:///k"
`

const manual = `
[provisioning]
source = "manual"
connection_string = "HostName=hub;DeviceId=d;SharedAccessKey=a2V5"
`

// edgeTables has everything the real template of IoT Edge may hold.
const edgeTables = `
hostname = "gateway"
trust_bundle_cert = "file:///etc/trust.pem"
auto_reprovisioning_mode = "AlwaysOnStartup"
allow_elevated_docker_permissions = false
cloud_timeout_sec = 70
cloud_retries = 3
prefer_module_identity_cache = true
[iotedge_max_requests]
management = 50
workload = 10
[agent]
name = "edgeAgent"
type = "docker"
imagePullPolicy = "on-create"
[agent.config]
image = "registry/agent:1"
createOptions = { HostConfig = { Binds = ["/a:/b"] } }
[agent.config.auth]
username = "u"
[agent.env]
RuntimeLogLevel = "debug"
[connect]
workload_uri = "unix:///w.sock"
management_uri = "unix:///m.sock"
[listen]
workload_uri = "fd://w"
management_uri = "fd://m"
[watchdog]
max_retries = "infinite"
[edge_ca]
method = "est"
common_name = "edge ca"
url = "https://est.example/ca"
username = "device"
password = "secret"
auto_renew = { rotate_key = true, threshold = "80%", retry = "4%" }
[moby_runtime]
uri = "unix:///docker.sock"
network = { name = "net", ipv6 = true }
[image_garbage_collection]
enabled = true
cleanup_time = "00:00"
`

func TestShapesTheRealToolTakesAreTaken(t *testing.T) {
	for name, text := range map[string]string{
		"static, token":  staticToken + store,
		"static, files":  x509Head + "identity_cert = \"file:///c\"\nidentity_pk = \"file:///k\"\n",
		"est, bootstrap": issued + store + est + bootstrap,
		"est, basic":     issued + store + est + basic,
		"est, both": issued + store + est + strings.Replace(bootstrap, "[cert_issuance.est.id",
			"username = \"u\"\npassword = \"p\"\n[cert_issuance.est.id", 1),
		"tpm": attestation + tpm,
		"symmetric key": strings.Replace(attestation, "tpm", "symmetric_key", 1) +
			"symmetric_key = { value = \"a2V5\" }\n",
		"manual":             manual,
		"slot-id":            strings.ReplaceAll(staticToken+store, "token=a%20token", "slot-id=1"),
		"edge":               edgeTables + issued + store + est + bootstrap,
		"edge CA quickstart": manual + "[edge_ca]\nauto_generated_edge_ca_expiry_days = 90\n",
		"edge CA preloaded":  manual + "[edge_ca]\ncert = \"file:///c\"\npk = \"file:///k\"\n",
		"per certificate": strings.Replace(issued, "common_name", "url = \"https://est.example/x\"\n"+
			"username = \"u\"\npassword = \"p\"\ncommon_name", 1) + store + est,
		"preloaded": manual + preloaded,
	} {
		if _, err := parseConfig(text); err != nil {
			t.Errorf("%s: %v", name, err)
		}
	}
}

func TestMistakesAreRefused(t *testing.T) {
	good := issued + store + est + bootstrap
	for _, c := range []struct{ from, to, problem string }{
		{`source = "dps"`, `source = "dsp"`, "provisioning.source: unknown variant `dsp`"},
		{`id_scope = "0ne000"`, ``, "provisioning.id_scope: missing field"},
		{`id_scope = "0ne000"`, `id_scope = 5`, "id_scope: invalid type: integer, expected a string"},
		{`id_scope`, `scope_id`, "provisioning.scope_id: unknown field"},
		{`"https://dps.example/"`, `"dps.example"`, "global_endpoint: is not an absolute https URL"},
		{`"sensor-7"`, `"sensor 7"`, "'sensor 7' is not a legal registration ID"},
		{`registration_id = "sensor-7"`, ``, "registration_id: missing field"},
		{`method = "x509"`, `method = "x.509"`, "attestation.method: unknown variant"},
		{`method = "est"`, `method = "scep"`, "identity_cert.method: unknown variant `scep`"},
		{`common_name`, `commonname`, "identity_cert.commonname: unknown field"},
		{`common_name = "sensor-7"`, `subject = { XX = "a" }`, "subject.XX: unknown name"},
		{`threshold = "80%"`, `threshold = "100%"`, "percentage must be less than 100"},
		{`threshold = "80%"`, `threshold = "0%"`, "renewal policy values must be positive"},
		{`threshold = "80%"`, `threshold = "80"`, "bad units for policy"},
		{`threshold = "80%"`, `threshold = "2days"`, "bad units for policy"},
		{`threshold = "80%"`, `threshold = "min"`, "could not be parsed as number"},
		{`threshold = "80%"`, `threshold = 80`, "threshold: invalid type: integer"},
		{`rotate_key = true`, ``, "auto_renew.rotate_key: missing field"},
		{`retry = "4%"`, ``, "auto_renew.retry: missing field"},
		{`trusted_certs = ["file:///etc/est-ca.pem"]`, ``, "trusted_certs: missing field"},
		{`"file:///etc/est-ca.pem"`, `"/etc/est-ca.pem"`, "is not a file:// URI"},
		{`"file:///etc/est-ca.pem"`, `"file:etc/est-ca.pem"`, "is not a file:// URI"},
		{`"file:///etc/est-ca.pem"`, `"file://etc/est-ca.pem"`, "it is not absolute"},
		{`"file:///etc/est-ca.pem"`, `"file:///etc/est ca.pem"`, `unencoded " "`},
		{`"file:///etc/est-ca.pem"`, `"file:///etc/est#ca.pem"`, `unencoded "#"`},
		{`"file:///etc/ldevid.pem"`, `7`, "bootstrap_identity_cert: invalid type: integer"},
		{`bootstrap_identity_pk`, `bootstrap_identity_key`, "bootstrap_identity_pk: missing field"},
		{`object=ldevid`, `type=private`, `URI attribute "type" is not one of`},
		{`;object=ldevid`, ``, "URI has no [object] component"},
		{`pkcs11:token=a%20token;`, `pkcs11:`, "neither [slot-id] nor [token]"},
		{`a%20token;`, `a token;`, `URI attribute "token" has an unencoded " "`},
		{`a%20token;`, `a%2token;`, "without two hexadecimal digits"},
		{`a%20token;`, `a%ff;`, "is not valid UTF-8"},
		{`pkcs11_lib_path = "/usr/lib/libtpm2_pkcs11.so"`, ``, "pkcs11_lib_path: missing field"},
		{`pkcs11_base_slot`, `pkcs11_slot`, "aziot_keys.pkcs11_slot: unknown field"},
		{`default = "https://est.example/.well-known/est"`, ``, "EST URL is not configured"},
		{`[cert_issuance.est.auth]`, `[cert_issuance.est.aut]`, "EST auth is not configured"},
		{`[cert_issuance.est.urls]`, `[cert_issuance.est.url]`, "cert_issuance.est.url: unknown field"},
		{`[cert_issuance.est]`, "[edge_ca]\nauto_renew = { rotate_key = true, threshold = \"1%\", " +
			"retry = \"1%\" }\n[cert_issuance.est]", "auto_generated_edge_ca_expiry_days: missing"},
		{`[provisioning]`, "parent_hostname = \"p\"\n[provisioning]", "not supported in nested mode"},
		{`[provisioning]`, "cloud_timeout_sec = 60\n[provisioning]", "cloud_timeout_sec: invalid value"},
		{`[provisioning]`, "hostnam = \"p\"\n[provisioning]", "hostnam: unknown field"},
		{`[aziot_keys]`, "[tpm]\nauth_key_index = \"0x0100\"\n[aziot_keys]",
			"auth_key_index: invalid type"},
	} {
		if !strings.Contains(good, c.from) {
			t.Fatalf("%q is not in the configuration", c.from)
		}
		_, err := parseConfig(strings.Replace(good, c.from, c.to, 1))
		if err == nil || !strings.Contains(err.Error(), c.problem) {
			t.Errorf("%s -> %s: got %v, expected %s", c.from, c.to, err, c.problem)
		}
	}
}

func TestAllProblemsAreToldAtOnce(t *testing.T) {
	_, err := parseConfig(dps + "payload = { url = \"file:///p\" }\nattestation = 5\nx = 1\n")
	for _, problem := range []string{
		"payload.uri: missing field", "payload.url: unknown field",
		"attestation: invalid type: integer, expected a map", "provisioning.x: unknown field",
	} {
		if err == nil || !strings.Contains(err.Error(), problem) {
			t.Errorf("%v does not say %s", err, problem)
		}
	}
}

func TestAFileOthersCanReadIsRefused(t *testing.T) {
	file := filepath.Join(t.TempDir(), "config.toml")
	if err := os.WriteFile(file, []byte(staticToken+store), 0o644); err != nil {
		t.Fatal(err)
	}
	if _, _, err := readConfig(file); err == nil || !strings.Contains(err.Error(), "mode 0644") {
		t.Error(err)
	}
	if err := os.Chmod(file, 0o600); err != nil {
		t.Fatal(err)
	}
	config, _, err := readConfig(file)
	if err != nil {
		t.Fatal(err)
	}
	if config.Identity.Cert != "/etc/ld evid.pem" || config.Identity.Key.Token.Token != "a token" ||
		config.Keys.Base.PIN != "1&" {
		t.Errorf("%+v", config)
	}
}

func TestAPINIsNeverRepeated(t *testing.T) {
	for _, uri := range []string{
		"pkcs11:token=t;object=o?pin-value=hush me", "pkcs11:token=t;object=o?pin-value=hush%",
		"pkcs11:token=t;object=o?pin-value=a&hush=b", "pkcs11:token=t;object=o;hush",
		"pkcs11:token=t;object=o?pin-value=hush&pin-value=hush", "pkcs:hush",
	} {
		text := strings.Replace(staticToken+store,
			"pkcs11:token=a%20token;object=ldevid?pin-value=%31%26", uri, 1)
		_, err := parseConfig(text)
		if err == nil || strings.Contains(err.Error(), "hush") {
			t.Errorf("%s: %v", uri, err)
		}
	}
	_, err := parseConfig("[aziot_keys]\npkcs11_base_slot = \"hush\nx")
	if err == nil || strings.Contains(err.Error(), "hush") {
		t.Error(err)
	}
}
