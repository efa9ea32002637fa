package main

import (
	"errors"
	"fmt"
	"math"
	"os"
	"strings"
	"syscall"
	"unicode/utf8"

	"github.com/BurntSushi/toml"
)

// Config is what the service needs of the super-config, the file config.toml.
type Config struct {
	Source         string // dps | manual | none
	Endpoint       string
	IDScope        string
	Payload        string // path of a JSON file, or ""
	Method         string // x509 | tpm | symmetric_key, of dps
	RegistrationID string
	Identity       X509Identity
	Keys           KeyStore
	EST            EST
	PreloadedCerts map[string][]string // id to a path, or to other ids
	PreloadedKeys  map[string]KeyLocation
	EdgeCA         *Issuance // nil if nothing is said of it
	TPM            TPMConfig
}

// X509Identity is the device identity: either preloaded or issued.
type X509Identity struct {
	Cert   string // path, if preloaded
	Key    KeyLocation
	Issued *Issuance
}

// Issuance says how a certificate is to be got.
type Issuance struct {
	Method     string // est | local_ca | self_signed
	URL        string
	Auth       *ESTAuth
	CommonName string
	Subject    map[string]string
	Renew      *Renewal
	Days       int64 // that a self-signed certificate is valid; 0: thirty
}

// ESTAuth are credentials for an EST server.
type ESTAuth struct {
	Username, Password string
	Cert               string // path of the certificate of the pair
	Key                KeyLocation
	Bootstrap          bool // whether the pair only serves to get the EST identity
}

func (a *ESTAuth) hasPair() bool { return a != nil && a.Cert != "" }

// EST are the settings for all certificates enrolled over EST.
type EST struct {
	Trusted []string // paths
	Auth    *ESTAuth
	Renew   Renewal
	URLs    map[string]string
}

// KeyStore is the table aziot_keys.
type KeyStore struct {
	Library string
	Base    *PKCS11URI
}

// readConfig reads the super-config and reports everything that is wrong with it.
func readConfig(file string) (*Config, []byte, error) {
	info, err := os.Stat(file)
	if err != nil {
		return nil, nil, fmt.Errorf("could not read config file %s: %w", file, err)
	}
	if info.Mode().Perm()&0o077 != 0 {
		return nil, nil, fmt.Errorf("config file %s holds secrets and has mode %04o, expected 0600",
			file, info.Mode().Perm())
	}
	owner := info.Sys().(*syscall.Stat_t).Uid
	if owner != 0 && int(owner) != os.Getuid() {
		return nil, nil, fmt.Errorf("config file %s belongs to user %d", file, owner)
	}
	text, err := os.ReadFile(file)
	if err != nil {
		return nil, nil, fmt.Errorf("could not read config file %s: %w", file, err)
	}
	if !utf8.Valid(text) {
		return nil, nil, errors.New("error parsing config: invalid utf-8 sequence")
	}
	config, err := parseConfig(string(text))
	return config, text, err
}

func parseConfig(text string) (*Config, error) {
	values := map[string]any{}
	if _, err := toml.Decode(text, &values); err != nil {
		return nil, fmt.Errorf("could not parse config file: %w", withoutText(err))
	}
	top := newTable(values)
	config := &Config{}
	config.readTop(top)
	top.end()
	if problems := *top.found; len(problems) > 0 {
		return nil, fmt.Errorf("could not parse config file: %s", strings.Join(problems, "\n"))
	}
	return config, nil
}

// withoutText is the message of a parser's error without the excerpt: that may be the PIN.
func withoutText(err error) error {
	var parse toml.ParseError
	if errors.As(err, &parse) {
		return fmt.Errorf("TOML parse error at line %d", parse.Position.Line)
	}
	return errors.New("not valid TOML")
}

func (c *Config) readTop(t *table) {
	t.text("hostname")
	if t.has("parent_hostname") && t.has("local_gateway_hostname") {
		t.problem("parent_hostname", "duplicate field")
	}
	parent := t.text("parent_hostname") + t.text("local_gateway_hostname")
	t.integer("cloud_timeout_sec", 70, math.MaxInt64)
	t.integer("cloud_retries", 0, math.MaxUint32)
	t.boolean("prefer_module_identity_cache")
	readCounts(t.sub("aziot_max_requests"), "keyd", "certd", "tpmd", "identityd")
	if local := t.sub("localid"); local != nil {
		local.must("domain")
		local.end()
	}
	c.readKeys(t)
	c.readProvisioning(t, parent)
	c.readIssuance(t)
	c.TPM = readTPM(t.sub("tpm"))
	c.EdgeCA = readEdge(t)
	c.checkLibrary(t)
}

func readCounts(t *table, names ...string) {
	if t == nil {
		return
	}
	for _, name := range names {
		if !t.has(name) {
			t.problem(name, "missing field")
		}
		t.integer(name, 0, math.MaxInt64)
	}
	t.end()
}

func (c *Config) readKeys(t *table) {
	if keys := t.sub("aziot_keys"); keys != nil {
		if keys.has("pkcs11_lib_path") {
			c.Keys.Library = keys.must("pkcs11_lib_path")
		}
		if keys.has("pkcs11_base_slot") {
			c.Keys.Base = parsed(keys, "pkcs11_base_slot", parsePKCS11)
		}
		keys.end()
	}
	c.PreloadedKeys = map[string]KeyLocation{}
	if keys := t.sub("preloaded_keys"); keys != nil {
		for id := range keys.values {
			c.PreloadedKeys[id] = parsed(keys, id, parseKeyLocation)
		}
	}
	c.PreloadedCerts = map[string][]string{}
	if certs := t.sub("preloaded_certs"); certs != nil {
		for id, value := range certs.values {
			if _, list := value.([]any); list {
				c.PreloadedCerts[id] = certs.texts(id)
			} else {
				c.PreloadedCerts[id] = []string{parsed(certs, id, parseFileURI)}
			}
		}
	}
}

// checkLibrary refuses tokens without the module to reach them; the real keyd fails on first use.
func (c *Config) checkLibrary(t *table) {
	used := c.Keys.Base != nil || c.Identity.Key.Token != nil
	for _, location := range c.PreloadedKeys {
		used = used || location.Token != nil
	}
	auths := []*ESTAuth{c.EST.Auth}
	if c.Identity.Issued != nil {
		auths = append(auths, c.Identity.Issued.Auth)
	}
	for _, auth := range auths {
		used = used || auth != nil && auth.Key.Token != nil
	}
	if used && c.Keys.Library == "" {
		t.problem("aziot_keys.pkcs11_lib_path", "missing field: a pkcs11 key needs it")
	}
	if c.Keys.Library != "" && c.Keys.Base == nil {
		t.problem("aziot_keys.pkcs11_base_slot", "missing field: keys would be made in files")
	}
}

func (c *Config) readProvisioning(top *table, parent string) {
	t := top.sub("provisioning")
	if t == nil {
		if !top.has("provisioning") {
			top.problem("provisioning", "missing field")
		}
		return
	}
	c.Source = t.oneOf("source", "manual", "dps", "none")
	switch c.Source {
	case "manual":
		t.free("connection_string", "iothub_hostname", "device_id", "authentication")
	case "dps":
		if parent != "" {
			t.problem("source", "DPS provisioning is not supported in nested mode")
		}
		c.Endpoint = parsed(t, "global_endpoint", parseHTTPS)
		c.IDScope = t.must("id_scope")
		if payload := t.sub("payload"); payload != nil {
			c.Payload = parsed(payload, "uri", parseFileURI)
			payload.end()
		}
		c.readAttestation(t)
	}
	t.end()
}

func (c *Config) readAttestation(provisioning *table) {
	t := provisioning.sub("attestation")
	if t == nil {
		if !provisioning.has("attestation") {
			provisioning.problem("attestation", "missing field")
		}
		return
	}
	c.Method = t.oneOf("method", "symmetric_key", "x509", "tpm")
	switch c.Method {
	case "x509":
		if t.has("registration_id") {
			c.RegistrationID = t.must("registration_id")
		}
		c.Identity = readIdentity(t)
		if c.Identity.Issued != nil && c.RegistrationID == "" {
			t.problem("registration_id",
				"missing field: identity cert does not exist and registration ID is unknown")
		}
	case "tpm":
		c.RegistrationID = t.must("registration_id")
	case "symmetric_key":
		c.RegistrationID = t.must("registration_id")
		readSymmetric(t)
	}
	if c.RegistrationID != "" && !legalRegistrationID(c.RegistrationID) {
		t.problem("registration_id", "'%s' is not a legal registration ID", c.RegistrationID)
	}
	t.end()
}

func readSymmetric(t *table) {
	key := t.sub("symmetric_key")
	if key == nil {
		if !t.has("symmetric_key") {
			t.problem("symmetric_key", "missing field")
		}
		return
	}
	if key.has("value") == key.has("uri") {
		t.problem("symmetric_key", "expected either value or uri")
	}
	key.text("value")
	if key.has("uri") {
		parsed(key, "uri", parseKeyLocation)
	}
	key.end()
}

// legalRegistrationID is the rule of the provisioning service, which the real tool does not check:
// 1..128 of letters, digits and -._: , the last a letter, digit or dash. 64 is the limit of a CN.
func legalRegistrationID(id string) bool {
	const letters = "ABCDEFGHIJKLMNOPQRSTUVWXYZabcdefghijklmnopqrstuvwxyz0123456789-"
	for _, r := range id {
		if !strings.ContainsRune(letters+"._:", r) {
			return false
		}
	}
	return len(id) <= 128 && strings.Contains(letters, id[len(id)-1:])
}
