package main

import (
	"crypto/rand"
	"crypto/x509"
	"crypto/x509/pkix"
	"encoding/asn1"
	"errors"
	"fmt"
	"math/big"
	"os"
	"sync"
	"time"
)

// EdgeCA plays the part of aziot-edged that gets, and renews, the CA of IoT Edge's modules. In the
// lab alone, and only if the configuration speaks of it; the real one makes it in any case.
type EdgeCA struct {
	mutex  sync.Mutex
	issued *Issuance
	device func() string // its id, or "" while it is not provisioned
	certs  CertService
	keys   KeyService
	engine *Engine
	log    *Log
	torn   func(id string)
}

func newEdgeCA(identity *Identity) *EdgeCA {
	device := func() string {
		identity.mutex.Lock()
		defer identity.mutex.Unlock()
		if identity.device == nil {
			return ""
		}
		return identity.device.DeviceID
	}
	engine := newEngine(edged, identity.log, identity.engine.broken)
	return &EdgeCA{
		issued: identity.config.EdgeCA, device: device, certs: identity.certs,
		keys: identity.keys, engine: engine, log: identity.log, torn: identity.torn,
	}
}

// begin is the start of aziot-edged: it waits for the device's identity, as at a socket.
func (e *EdgeCA) begin(stopped func() bool) error {
	for e.issued != nil && !stopped() {
		if device := e.device(); device != "" {
			return e.check(device)
		}
		time.Sleep(50 * time.Millisecond)
	}
	return nil
}

// check makes the Edge CA, if it is not there, and takes it on for renewal.
func (e *EdgeCA) check(device string) error {
	e.mutex.Lock()
	defer e.mutex.Unlock()
	e.engine.clear()
	chain, err := e.certs.read(edgeCA)
	if err != nil || chain == nil {
		if err := e.create(device); err != nil {
			return err
		}
	} else {
		e.log.say(edged, levelInfo, "Using existing Edge CA certificate")
	}
	if err := e.engine.add(edgeCA, *e.issued.Renew, e); err != nil {
		return fmt.Errorf("failed to configure Edge CA auto renew: %w", err)
	}
	return nil
}

func (e *EdgeCA) create(device string) error {
	e.log.say(edged, levelInfo, "Requesting new Edge CA certificate...")
	key, err := e.keys.load(edgeCA)
	if err != nil {
		key, err = e.keys.create(edgeCA, algorithmRSA)
	}
	if err != nil {
		return err
	}
	name := e.issued.CommonName
	if name == "" && len(e.issued.Subject) == 0 {
		name = "aziot-edge CA " + device
	}
	csr, err := newCSR(encodeSubject(name, e.issued.Subject), ofCA(), key)
	if err != nil {
		return errors.New("failed to generate edge ca csr")
	}
	if _, err := e.certs.issue(edgeCA, e.issued, csr); err != nil {
		e.log.event("warning", fields{"cert": edgeCA, "error": err.Error()})
		return errors.New("failed to create edge ca cert")
	}
	e.log.say(edged, levelInfo, "Created new Edge CA certificate")
	return nil
}

func (e *EdgeCA) read() ([]*x509.Certificate, error) {
	chain, err := e.certs.read(edgeCA)
	if err == nil && chain == nil {
		err = &os.PathError{Err: os.ErrNotExist}
	}
	return chain, described(err, "failed to retrieve edge CA cert", "failed to parse edge CA cert")
}

func (e *EdgeCA) loadKey() error {
	_, err := e.keys.load(edgeCA)
	return err
}

func (e *EdgeCA) renew(old []*x509.Certificate) ([]*x509.Certificate, string, error) {
	const temp = edgeCA + "-temp"
	key, err := freshKey(e.keys, edgeCA, e.issued.Renew.Rotate, algorithmRSA, true)
	if err != nil {
		return nil, "", err
	}
	csr, err := newCSR(old[0].RawSubject, ofCA(), key)
	if err != nil {
		return nil, "", errors.New("failed to create csr")
	}
	chain, err := e.certs.issue(temp, e.issued, csr)
	if err != nil {
		e.log.event("warning", fields{"cert": edgeCA, "error": err.Error()})
		return nil, "", errors.New("failed to create new cert")
	}
	return chain, key.id, e.certs.remove(temp)
}

func (e *EdgeCA) write(old, chain []*x509.Certificate, key string) error {
	if err := e.certs.write(edgeCA, chain); err != nil {
		return errors.New("failed to import new cert")
	}
	if key != edgeCA {
		e.torn(edgeCA)
		if err := e.keys.move(key, edgeCA); err != nil {
			e.log.event("warning", fields{"cert": edgeCA, "error": err.Error()})
			if err := e.certs.write(edgeCA, old); err != nil {
				return errors.New("failed to restore old cert")
			}
		}
	}
	e.log.say(edged, levelInfo, "Edge CA was renewed")
	return nil
}

// ofCA are the extensions of the Edge CA's CSR: it signs certificates, but none of CAs.
func ofCA() []pkix.Extension {
	constraints, err := asn1.Marshal(struct {
		CA   bool
		Most int
	}{true, 0})
	if err != nil {
		panic(err)
	}
	usage, err := asn1.Marshal(asn1.BitString{Bytes: []byte{0x84}, BitLength: 6})
	if err != nil {
		panic(err) // digitalSignature and keyCertSign
	}
	return []pkix.Extension{
		{Id: asn1.ObjectIdentifier{2, 5, 29, 19}, Critical: true, Value: constraints},
		{Id: asn1.ObjectIdentifier{2, 5, 29, 15}, Critical: true, Value: usage},
	}
}

// selfSigned makes the certificate that a CSR asks for with the key of the same id.
func (c *Certs) selfSigned(
	id string, issuance *Issuance, csr []byte,
) ([]*x509.Certificate, error) {
	request, err := x509.ParseCertificateRequest(csr)
	if err != nil {
		return nil, err
	}
	key, err := c.keys.load(id)
	if err != nil {
		return nil, err
	}
	number, err := rand.Int(rand.Reader, new(big.Int).Lsh(big.NewInt(1), 120))
	if err != nil {
		return nil, err
	}
	days := issuance.Days
	if days == 0 {
		days = 30
	}
	wanted := &x509.Certificate{
		SerialNumber: number, RawSubject: request.RawSubject, ExtraExtensions: request.Extensions,
		NotBefore: now(), NotAfter: now().Add(time.Duration(days) * 24 * time.Hour),
	}
	der, err := x509.CreateCertificate(rand.Reader, wanted, wanted, key.public, key)
	if err != nil {
		return nil, err
	}
	return x509.ParseCertificates(der)
}
