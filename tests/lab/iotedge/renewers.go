package main

import (
	"crypto/x509"
	"errors"
	"fmt"
	"os"
	"strings"
)

// startRenewals takes on what certd renews: the EST identities that are there. It fails if one has
// expired and cannot be renewed; the real service ends then.
func (c *Certs) startRenewals() error {
	c.engine.clear()
	add := func(id, suffix, forID string, auth *ESTAuth, issuance *Issuance) error {
		if !auth.hasPair() {
			return nil
		}
		if _, err := os.Stat(c.path(id)); err != nil {
			return nil // it will be added when it is got
		}
		by := &estRenewer{certs: c, id: id, suffix: suffix, forID: forID, issuance: issuance}
		return c.engine.add(id, c.est.Renew, by)
	}
	if err := add(estID, "", estID, c.est.Auth, &Issuance{}); err != nil {
		return err
	}
	for _, forID := range []string{deviceID, edgeCA} {
		issuance := c.issued[forID]
		if issuance == nil || issuance.Auth == nil {
			continue
		}
		suffix := "-" + forID
		if err := add(estID+suffix, suffix, forID, issuance.Auth, issuance); err != nil {
			return err
		}
	}
	return nil
}

// estRenewer renews an EST identity: by itself, or by the bootstrap if it has expired.
type estRenewer struct {
	certs      *Certs
	id, suffix string
	forID      string // whose settings say where
	issuance   *Issuance
}

func (r *estRenewer) read() ([]*x509.Certificate, error) {
	chain, err := readChain(r.certs.path(r.id))
	return chain, described(err, "failed to read cert chain: %v", "failed to parse cert chain")
}

// described says what the real services say of a file that could not be read, and of its content.
func described(err error, file, content string) error {
	var path *os.PathError
	switch {
	case err == nil:
		return nil
	case errors.As(err, &path):
		return errors.New(strings.ReplaceAll(file, "%v", path.Err.Error()))
	case strings.HasSuffix(err.Error(), "no certs in stack"):
		return errFatal{"no certs in cert chain"}
	}
	return errFatal{content}
}

func (r *estRenewer) loadKey() error {
	if _, err := r.certs.keys.load(r.id); err != nil {
		return errors.New("failed to get cert key")
	}
	return nil
}

func (r *estRenewer) renew(old []*x509.Certificate) ([]*x509.Certificate, string, error) {
	enrolment, auth, _, err := r.certs.estFor(r.forID, r.issuance)
	if err != nil {
		return nil, "", err
	}
	from, chain := r.id, old[:1]
	if !now().Before(old[0].NotAfter) {
		if !auth.Bootstrap {
			return nil, "", errFatal{"bootstrap credentials not available"}
		}
		from = estBootstrapID + r.suffix
		if chain, err = readChain(r.certs.path(from)); err != nil {
			return nil, "", errors.New("failed to read bootstrap cert")
		}
	}
	key, err := r.certs.keys.load(from)
	if err != nil {
		return nil, "", errors.New("failed to load EST auth key")
	}
	enrolment.credential = &Credential{id: from, chain: chain, key: key}
	fresh, err := freshKey(r.certs.keys, r.id, r.certs.est.Renew.Rotate, algorithmEC,
		auth.Bootstrap)
	if err != nil {
		return nil, "", err
	}
	csr, err := newCSR(old[0].RawSubject, clientAuth(), fresh)
	if err != nil {
		return nil, "", err
	}
	issued, err := r.certs.enrol(r.id, enrolment, csr)
	if err != nil {
		return nil, "", fmt.Errorf("failed to issue new EST identity cert: %w", err)
	}
	return issued, fresh.id, nil
}

// freshKey is the key for a new certificate. Where there is no bootstrap, `config apply` does not
// let certd make one.
func freshKey(
	keys KeyService, id string, rotate bool, algorithm string, granted bool,
) (*Key, error) {
	if !rotate {
		key, err := keys.load(id)
		if err != nil {
			return nil, errors.New("failed to get identity cert key")
		}
		return key, nil
	}
	if !granted {
		return nil, errors.New("failed to generate temp key")
	}
	key, err := keys.create(id+"-temp", algorithm)
	if err != nil {
		return nil, errors.New("failed to generate temp key")
	}
	return key, nil
}

// write puts the certificate in its place and then moves the key. That the key could not be moved
// is told to nobody; the engine then takes the old certificate for a foreign one.
func (r *estRenewer) write(old, chain []*x509.Certificate, key string) error {
	if err := r.certs.write(r.id, chain); err != nil {
		return errors.New("failed to import new cert")
	}
	if key == r.id {
		return nil
	}
	r.certs.torn(r.id)
	if err := r.certs.keys.move(key, r.id); err != nil {
		r.certs.log.event("warning", fields{"cert": r.id, "error": err.Error()})
		if err := r.certs.write(r.id, old); err != nil {
			return errors.New("failed to restore old cert")
		}
	}
	return nil
}

// deviceRenewer renews the device identity: the provisioning service gets to know the new one
// before it is put into its place.
type deviceRenewer struct {
	identity *Identity
	issued   *Issuance
}

func (r *deviceRenewer) read() ([]*x509.Certificate, error) {
	chain, err := r.identity.certs.read(deviceID)
	if err == nil && chain == nil {
		err = &os.PathError{Err: os.ErrNotExist}
	}
	const failed = "failed to retrieve identity cert"
	return chain, described(err, failed, "failed to parse identity cert")
}

func (r *deviceRenewer) loadKey() error {
	if _, err := r.identity.keys.load(deviceID); err != nil {
		return errors.New("failed to get identity cert key")
	}
	return nil
}

func (r *deviceRenewer) renew(old []*x509.Certificate) ([]*x509.Certificate, string, error) {
	const temp = deviceID + "-temp"
	i := r.identity
	key, err := freshKey(i.keys, deviceID, r.issued.Renew.Rotate, algorithmRSA, true)
	if err != nil {
		return nil, "", err
	}
	chain, err := i.issue(temp, r.issued, old[0].RawSubject, key)
	if err != nil {
		i.log.event("warning", fields{"cert": deviceID, "error": err.Error()})
		return nil, "", errors.New("failed to create new cert")
	}
	if err := i.certs.remove(temp); err != nil {
		i.log.say(identityd, levelWarn,
			"Failed to delete temporary certificate created by cert renewal: %v", err)
	}
	return chain, key.id, nil
}

func (r *deviceRenewer) write(_, chain []*x509.Certificate, key string) error {
	i := r.identity
	pair, err := i.keys.load(key)
	if err != nil {
		return errors.New("failed to get new key handle")
	}
	if err := i.reprovisionAs(&Credential{id: key, chain: chain, key: pair}); err != nil {
		return fmt.Errorf("failed to reprovision with new credentials: %w", err)
	}
	if err := i.certs.write(deviceID, chain); err != nil {
		return errors.New("failed to import new cert")
	}
	if key == deviceID {
		return nil
	}
	i.torn(deviceID)
	if err := i.keys.move(key, deviceID); err != nil {
		return errors.New("failed to import new key")
	}
	return nil
}
