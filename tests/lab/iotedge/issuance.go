package main

import (
	"crypto/x509"
	"errors"
	"math"
	"strconv"
	"strings"
	"time"
)

// readIdentity reads identity_cert and identity_pk of an X.509 identity.
func readIdentity(t *table) X509Identity {
	if _, issued := t.values["identity_cert"].(map[string]any); issued {
		return X509Identity{Issued: readIssued(t.sub("identity_cert"), true)}
	}
	return X509Identity{
		Cert: parsed(t, "identity_cert", parseFileURI),
		Key:  parsed(t, "identity_pk", parseKeyLocation),
	}
}

// readIssued reads the options of a certificate to be issued, which are also those of an Edge CA.
func readIssued(t *table, closed bool) *Issuance {
	out := &Issuance{Method: t.oneOf("method", "est", "local_ca", "self_signed")}
	if out.Method == "est" {
		if t.has("url") {
			out.URL = parsed(t, "url", parseHTTPS)
		}
		out.Auth = readAuth(t)
	}
	out.Days = t.integer("expiry_days", 1, math.MaxUint32)
	if renew := t.sub("auto_renew"); renew != nil {
		policy := readRenewal(renew)
		out.Renew = &policy
	}
	readSubject(t, out)
	if closed {
		t.end()
	}
	return out
}

func readSubject(t *table, out *Issuance) {
	if t.has("common_name") && t.has("subject") {
		t.problem("common_name", "common_name and subject exclude each other")
	}
	if t.has("common_name") {
		out.CommonName = t.must("common_name")
	}
	if subject := t.sub("subject"); subject != nil {
		out.Subject = subject.textMap()
		for name := range out.Subject {
			if attributeOID(name) == nil {
				subject.problem(name, "unknown name of a subject's attribute")
			}
		}
	}
}

// readAuth reads EST credentials, which lie flat among other keys. The real tool drops half of a
// pair silently and prefers the bootstrap pair to the other; here both are errors.
func readAuth(t *table) *ESTAuth {
	auth := &ESTAuth{}
	found := false
	if t.has("username") || t.has("password") {
		auth.Username, auth.Password = t.must("username"), t.must("password")
		found = true
	}
	for _, prefix := range []string{"bootstrap_identity_", "identity_"} {
		if !t.has(prefix+"cert") && !t.has(prefix+"pk") {
			continue
		}
		if auth.Cert != "" {
			t.problem("identity_cert", "a bootstrap identity is there too, and would win")
		}
		auth.Cert = parsed(t, prefix+"cert", parseFileURI)
		auth.Key = parsed(t, prefix+"pk", parseKeyLocation)
		auth.Bootstrap = prefix == "bootstrap_identity_"
		found = true
	}
	if !found {
		return nil
	}
	return auth
}

func (c *Config) readIssuance(top *table) {
	c.EST.Renew = defaultRenewal
	if t := top.sub("cert_issuance"); t != nil {
		if ca := t.sub("local_ca"); ca != nil {
			readLocalCA(ca)
		}
		c.readEST(t.sub("est"))
		t.end()
	}
	issued := c.Identity.Issued
	if issued == nil || issued.Method != "est" {
		return
	}
	const identity = "provisioning.attestation.identity_cert."
	if issued.URL == "" && c.EST.URLs["device-id"] == "" && c.EST.URLs["default"] == "" {
		top.problem(identity+"url", "to be issued by EST, but EST URL is not configured")
	}
	if issued.Auth == nil && c.EST.Auth == nil {
		top.problem(identity+"method", "to be issued by EST, but EST auth is not configured")
	}
	if len(c.EST.Trusted) == 0 {
		top.problem("cert_issuance.est.trusted_certs",
			"missing field: any public CA could speak for the EST server")
	}
}

func readLocalCA(t *table) {
	if _, issued := t.values["cert"].(map[string]any); issued {
		readIssued(t.sub("cert"), true)
	} else {
		parsed(t, "cert", parseFileURI)
		parsed(t, "pk", parseKeyLocation)
	}
	t.end()
}

func (c *Config) readEST(t *table) {
	if t == nil {
		return
	}
	for _, text := range t.texts("trusted_certs") {
		path, err := parseFileURI(text)
		if err != nil {
			t.problem("trusted_certs", "'%s' %v", text, err)
		}
		c.EST.Trusted = append(c.EST.Trusted, path)
	}
	if auth := t.sub("auth"); auth != nil {
		c.EST.Auth = readAuth(auth)
		if c.EST.Auth == nil {
			auth.problem("username", "empty authentication parameters")
		}
		auth.end()
	}
	if renew := t.sub("identity_auto_renew"); renew != nil {
		c.EST.Renew = readRenewal(renew)
	}
	c.EST.URLs = map[string]string{}
	if urls := t.sub("urls"); urls != nil {
		for id := range urls.values {
			c.EST.URLs[id] = parsed(urls, id, parseHTTPS)
		}
	}
	t.end()
}

// Renewal says when to renew a certificate and whether with a new key.
type Renewal struct {
	Rotate    bool
	Threshold Policy
	Retry     Policy
}

// Policy is a share of a certificate's life in percent, or a time before its end.
type Policy struct {
	Percent int64
	Before  time.Duration
}

var defaultRenewal = Renewal{
	Rotate: true, Threshold: Policy{Percent: 80}, Retry: Policy{Percent: 4},
}

func readRenewal(t *table) Renewal {
	if !t.has("rotate_key") {
		t.problem("rotate_key", "missing field")
	}
	out := Renewal{
		Rotate: t.boolean("rotate_key"), Threshold: parsed(t, "threshold", parsePolicy),
		Retry: parsed(t, "retry", parsePolicy),
	}
	t.end()
	return out
}

func parsePolicy(text string) (Policy, error) {
	digits := strings.TrimRight(text, "%miday n")
	unit := text[len(digits):]
	value, err := strconv.ParseInt(digits, 10, 64)
	switch {
	case unit != "%" && unit != "min" && unit != "day":
		return Policy{}, errors.New("bad units for policy")
	case err != nil:
		return Policy{}, errors.New("policy could not be parsed as number")
	case value <= 0:
		return Policy{}, errors.New("renewal policy values must be positive")
	case unit == "%" && value >= 100:
		return Policy{}, errors.New("lifetime percentage must be less than 100")
	case unit == "%":
		return Policy{Percent: value}, nil
	case value > math.MaxInt64/int64(24*time.Hour):
		return Policy{}, errors.New("policy could not be parsed as number")
	case unit == "min":
		return Policy{Before: time.Duration(value) * time.Minute}, nil
	}
	return Policy{Before: time.Duration(value) * 24 * time.Hour}, nil
}

// due says whether the certificate is to be renewed now.
func (p Policy) due(cert *x509.Certificate, now time.Time) bool {
	life := cert.NotAfter.Sub(cert.NotBefore)
	if life <= 0 || !now.Before(cert.NotAfter) {
		return true
	}
	if p.Percent > 0 {
		return 100*now.Sub(cert.NotBefore).Seconds() >= float64(p.Percent)*life.Seconds()
	}
	return cert.NotAfter.Sub(now) <= p.Before
}
