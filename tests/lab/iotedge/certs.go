package main

import (
	"bytes"
	"crypto"
	"crypto/rand"
	"crypto/x509"
	"crypto/x509/pkix"
	"encoding/pem"
	"errors"
	"fmt"
	"os"
	"path/filepath"
	"time"
)

// The ids `config apply` gives to keys and certificates.
const (
	deviceID       = "device-id"
	estID          = "est-id"
	estBootstrapID = "est-bootstrap-id"
)

// Certs plays aziot-certd: certificates by id, preloaded ones at their place, others in certs/, and
// their issuance over EST.
type Certs struct {
	config    *Config
	preloaded map[string]string
	home      string
	system    []string // files of the device's certificate store, beside the real one
	keys      *Keys
	log       *Log
}

func (c *Certs) path(id string) string {
	if path, found := c.preloaded[id]; found {
		return path
	}
	return filepath.Join(c.home, "certs", fileName(id, ".cer"))
}

// read is the chain with an id, or nil if there is none yet.
func (c *Certs) read(id string) ([]*x509.Certificate, error) {
	chain, err := readChain(c.path(id))
	if errors.Is(err, os.ErrNotExist) {
		return nil, nil
	}
	if err != nil {
		return nil, fmt.Errorf("could not read cert %q: %w", id, err)
	}
	return chain, nil
}

func (c *Certs) write(id string, chain []*x509.Certificate) error {
	var text bytes.Buffer
	for _, cert := range chain {
		if err := pem.Encode(&text, &pem.Block{Type: "CERTIFICATE", Bytes: cert.Raw}); err != nil {
			return err
		}
	}
	path := c.path(id)
	if err := os.MkdirAll(filepath.Dir(path), 0o700); err != nil {
		return err
	}
	return os.WriteFile(path, text.Bytes(), 0o644)
}

// credential is the chain and key with these ids, found to belong together and to be valid now.
func (c *Certs) credential(certID, keyID string) (*Credential, error) {
	chain, err := c.read(certID)
	if err != nil {
		return nil, err
	}
	if chain == nil {
		return nil, fmt.Errorf("could not get cert %q: %w", certID, os.ErrNotExist)
	}
	key, err := c.keys.load(keyID)
	if err != nil {
		return nil, err
	}
	out := &Credential{id: certID, chain: chain, key: key}
	if keyDigest(out.leaf().PublicKey) != keyDigest(key.public) {
		return nil, fmt.Errorf("cert %q does not match its private key", certID)
	}
	return out, validNow(certID, out.leaf())
}

func validNow(id string, cert *x509.Certificate) error {
	if now := time.Now(); now.Before(cert.NotBefore) || !now.Before(cert.NotAfter) {
		return fmt.Errorf("cert %q is valid from %s to %s only", id,
			cert.NotBefore.Format(time.RFC3339), cert.NotAfter.Format(time.RFC3339))
	}
	return nil
}

// estFor is what to enrol the certificate with an id with: its own settings, else the global ones.
// The suffix belongs to the ids of the EST identity and of the credential that bootstraps it.
func (c *Certs) estFor(
	id string, issuance *Issuance,
) (e *Enrolment, auth *ESTAuth, suffix string, err error) {
	auth, url := issuance.Auth, issuance.URL
	if auth == nil {
		auth = c.config.EST.Auth
	} else {
		suffix = "-" + deviceID
	}
	if url == "" {
		url = c.config.EST.URLs[id]
	}
	if url == "" {
		url = c.config.EST.URLs["default"]
	}
	if auth == nil || url == "" {
		return nil, nil, "", fmt.Errorf("cert %q is configured to be issued by EST, "+
			"but EST auth or URL is not configured", id)
	}
	roots, err := rootPool(append(c.system, c.config.EST.Trusted...)...)
	if err != nil {
		return nil, nil, "", fmt.Errorf(
			"cert_issuance.est.trusted_certs contains unreadable cert: %w", err)
	}
	return &Enrolment{url: url, username: auth.Username, password: auth.Password, roots: roots},
		auth, suffix, nil
}

// issue gets a certificate for the key and stores it under the id `certID`.
func (c *Certs) issue(
	certID string, issuance *Issuance, subject []byte, key *Key,
) (*Credential, error) {
	enrolment, auth, suffix, err := c.estFor(certID, issuance)
	if err != nil {
		return nil, err
	}
	if auth.hasPair() {
		name := estSubject(issuance, subject)
		enrolment.credential, err = c.estIdentity(enrolment, auth, suffix, name)
		if err != nil {
			return nil, err
		}
	}
	chain, err := c.enrol(certID, enrolment, subject, nil, key)
	if err != nil {
		return nil, err
	}
	return &Credential{id: certID, chain: chain, key: key}, c.write(certID, chain)
}

// estSubject is the subject of the EST identity: that of the configuration, else the CSR's.
func estSubject(issuance *Issuance, subject []byte) []byte {
	if issuance.CommonName != "" {
		return encodeSubject(issuance.CommonName, nil)
	}
	if len(issuance.Subject) > 0 {
		return encodeSubject("", issuance.Subject)
	}
	return subject
}

// estIdentity is the certificate to authenticate with, issued or renewed before if need be.
func (c *Certs) estIdentity(
	e *Enrolment, auth *ESTAuth, suffix string, subject []byte,
) (*Credential, error) {
	id := estID + suffix
	chain, err := c.read(id)
	if err != nil {
		return nil, err
	}
	if chain != nil && c.config.EST.Renew.Threshold.due(chain[0], time.Now()) {
		if err := c.renewEST(e, auth, suffix, chain); err != nil {
			c.log.event("renewal-failed", fields{"cert": id, "error": err.Error()})
		}
	}
	if chain != nil {
		_, missing := c.keys.load(id)
		if !errors.Is(missing, errNotFound) {
			return c.credential(id, id)
		}
	}
	if !auth.Bootstrap {
		return nil, errors.New("EST identity could not be obtained " +
			"and EST bootstrap identity is not configured")
	}
	bootstrap, err := c.credential(estBootstrapID+suffix, estBootstrapID+suffix)
	if err != nil {
		return nil, fmt.Errorf("could not get EST bootstrap identity: %w", err)
	}
	key, err := c.keys.create(id, algorithmEC)
	if err != nil {
		return nil, err
	}
	with := *e
	with.credential = bootstrap
	chain, err = c.enrol(id, &with, subject, clientAuth(), key)
	if err != nil {
		return nil, fmt.Errorf(
			"neither EST identity nor EST bootstrap identity could be obtained: %w", err)
	}
	return &Credential{id: id, chain: chain, key: key}, c.write(id, chain)
}

// renewEST replaces the EST identity, authenticated by itself, or by the bootstrap if it expired.
func (c *Certs) renewEST(
	e *Enrolment, auth *ESTAuth, suffix string, old []*x509.Certificate,
) error {
	id := estID + suffix
	if !auth.Bootstrap && c.config.EST.Renew.Rotate {
		// `config apply` does not let certd make keys under this id
		return fmt.Errorf("failed to generate temp key: %s-temp is not authorized", id)
	}
	from := id
	if validNow(id, old[0]) != nil {
		if !auth.Bootstrap {
			return errors.New("bootstrap credentials not available")
		}
		from = estBootstrapID + suffix
	}
	credential, err := c.credential(from, from)
	if err != nil {
		return err
	}
	with := *e
	with.credential = credential
	return c.renew(id, c.config.EST.Renew.Rotate, algorithmEC,
		func(key *Key) ([]*x509.Certificate, error) {
			return c.enrol(id, &with, old[0].RawSubject, clientAuth(), key)
		})
}

// renew gets a new certificate, for a new key if `rotate`, writes it and then moves the key.
func (c *Certs) renew(
	id string, rotate bool, algorithm string, issue func(*Key) ([]*x509.Certificate, error),
) error {
	var key *Key
	var err error
	if rotate {
		key, err = c.keys.create(id+"-temp", algorithm)
	} else {
		key, err = c.keys.load(id)
	}
	if err != nil {
		return err
	}
	chain, err := issue(key)
	if err != nil {
		return err
	}
	if err := c.write(id, chain); err != nil || !rotate {
		return err
	}
	return c.keys.move(id+"-temp", id)
}

// enrol makes a CSR, sends it, and checks that the certificate is for the key.
func (c *Certs) enrol(
	id string, e *Enrolment, subject []byte, extensions []pkix.Extension, key *Key,
) ([]*x509.Certificate, error) {
	csr, err := x509.CreateCertificateRequest(rand.Reader, &x509.CertificateRequest{
		RawSubject: subject, ExtraExtensions: extensions,
	}, crypto.Signer(key))
	if err != nil {
		return nil, fmt.Errorf("could not make a CSR for %q: %w", id, err)
	}
	chain, authenticated, err := e.enrol(csr)
	if err != nil {
		c.log.event("enrol-failed", fields{"cert": id, "url": e.url, "error": err.Error()})
		return nil, err
	}
	if keyDigest(chain[0].PublicKey) != keyDigest(key.public) {
		return nil, fmt.Errorf("the certificate issued for %q is for another key", id)
	}
	about := fields{
		"cert": id, "url": e.url, "serial": serial(chain[0]), "subject": chain[0].Subject.String(),
		"issuer": chain[0].Issuer.String(), "spki": keyDigest(key.public), "basic": e.username,
	}
	if e.credential != nil {
		about["tls_client"] = e.credential.id
		about["tls_client_asked"] = authenticated
		about["tls_client_serial"] = serial(e.credential.leaf())
		about["tls_client_subject"] = e.credential.leaf().Subject.String()
		about["tls_client_spki"] = keyDigest(e.credential.key.public)
	}
	c.log.event("issued", about)
	return chain, nil
}
