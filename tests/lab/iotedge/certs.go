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
	"sync"
	"time"
)

// The ids `config apply` gives to keys and certificates.
const (
	deviceID       = "device-id"
	estID          = "est-id"
	estBootstrapID = "est-bootstrap-id"
	edgeCA         = "aziot-edged-ca"
)

// CertService has certificates by id: Certs itself, or aziot-certd behind its socket.
type CertService interface {
	read(id string) ([]*x509.Certificate, error) // nil if there is none
	write(id string, chain []*x509.Certificate) error
	remove(id string) error
	issue(id string, issuance *Issuance, csr []byte) ([]*x509.Certificate, error)
}

// Certs plays aziot-certd: certificates by id, preloaded ones at their place, others in certs/, and
// their issuance over EST.
type Certs struct {
	mutex     sync.Mutex // one thing at a time, as the real one
	est       *EST
	preloaded map[string]string
	home      string
	system    []string // files of the device's certificate store, beside the real one
	keys      KeyService
	log       *Log
	issued    map[string]*Issuance // how certificates are issued, by id
	engine    *Engine
	torn      func(id string) // the power may go here
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

func (c *Certs) remove(id string) error {
	if err := os.Remove(c.path(id)); err != nil && !errors.Is(err, os.ErrNotExist) {
		return err
	}
	return nil
}

// credential is the chain and the key with an id, found to belong together and to be valid now.
func credential(certs CertService, keys KeyService, id string) (*Credential, error) {
	chain, err := certs.read(id)
	if err != nil {
		return nil, err
	}
	if chain == nil {
		return nil, fmt.Errorf("could not get cert %q: %w", id, os.ErrNotExist)
	}
	key, err := keys.load(id)
	if err != nil {
		return nil, err
	}
	return matching(id, chain, key)
}

// matching is a credential, if it is one now.
func matching(id string, chain []*x509.Certificate, key *Key) (*Credential, error) {
	out := &Credential{id: id, chain: chain, key: key}
	if keyDigest(out.leaf().PublicKey) != keyDigest(key.public) {
		return nil, fmt.Errorf("cert %q does not match its private key", id)
	}
	return out, validNow(id, out.leaf())
}

// skew is what is forgiven of a clock that is slow: a virtual machine's lacks up to a second of ours.
const skew = time.Minute

func validNow(id string, cert *x509.Certificate) error {
	if now := now(); now.Add(skew).Before(cert.NotBefore) || !now.Before(cert.NotAfter) {
		return fmt.Errorf("cert %q is valid from %s to %s only", id,
			cert.NotBefore.Format(time.RFC3339), cert.NotAfter.Format(time.RFC3339))
	}
	return nil
}

// issue gets a certificate for a CSR and stores it under the id.
func (c *Certs) issue(
	id string, issuance *Issuance, csr []byte,
) ([]*x509.Certificate, error) {
	if issuance.Method == "self_signed" {
		chain, err := c.selfSigned(id, issuance, csr)
		if err != nil {
			return nil, err
		}
		return chain, c.write(id, chain)
	}
	enrolment, auth, suffix, err := c.estFor(id, issuance)
	if err != nil {
		return nil, err
	}
	if auth.hasPair() {
		request, err := x509.ParseCertificateRequest(csr)
		if err != nil {
			return nil, err
		}
		name := estSubject(issuance, request.RawSubject)
		enrolment.credential, err = c.estIdentity(id, issuance, enrolment, auth, suffix, name)
		if err != nil {
			return nil, err
		}
	}
	chain, err := c.enrol(id, enrolment, csr)
	if err != nil {
		return nil, err
	}
	return chain, c.write(id, chain)
}

// newCSR is a signed request in DER.
func newCSR(subject []byte, extensions []pkix.Extension, key *Key) ([]byte, error) {
	csr, err := x509.CreateCertificateRequest(rand.Reader, &x509.CertificateRequest{
		RawSubject: subject, ExtraExtensions: extensions,
	}, crypto.Signer(key))
	if err != nil {
		return nil, fmt.Errorf("could not make a CSR for %q: %w", key.id, err)
	}
	return csr, nil
}

// enrol sends a CSR and checks that the certificate is for its key.
func (c *Certs) enrol(id string, e *Enrolment, csr []byte) ([]*x509.Certificate, error) {
	request, err := x509.ParseCertificateRequest(csr)
	if err != nil {
		return nil, err
	}
	spki := keyDigest(request.PublicKey)
	chain, authenticated, err := e.enrol(csr)
	if err != nil {
		c.log.event("enrol-failed", fields{"cert": id, "url": e.url, "error": err.Error()})
		return nil, err
	}
	if keyDigest(chain[0].PublicKey) != spki {
		return nil, fmt.Errorf("the certificate issued for %q is for another key", id)
	}
	about := fields{
		"cert": id, "url": e.url, "serial": serial(chain[0]), "subject": chain[0].Subject.String(),
		"issuer": chain[0].Issuer.String(), "spki": spki, "basic": e.username,
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
