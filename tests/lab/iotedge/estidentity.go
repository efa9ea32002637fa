package main

import (
	"crypto/x509"
	"errors"
	"fmt"
)

// estFor is what to enrol the certificate with an id with: its own settings, else the global ones.
// The suffix belongs to the ids of the EST identity and of the credential that bootstraps it.
func (c *Certs) estFor(
	id string, issuance *Issuance,
) (e *Enrolment, auth *ESTAuth, suffix string, err error) {
	auth, url := issuance.Auth, issuance.URL
	if auth == nil {
		auth = c.est.Auth
	} else {
		suffix = "-" + deviceID
	}
	if url == "" {
		url = c.est.URLs[id]
	}
	if url == "" {
		url = c.est.URLs["default"]
	}
	if auth == nil || url == "" {
		return nil, nil, "", fmt.Errorf("cert %q is configured to be issued by EST, "+
			"but EST auth or URL is not configured", id)
	}
	roots, err := rootPool(append(c.system, c.est.Trusted...)...)
	if err != nil {
		return nil, nil, "", fmt.Errorf(
			"cert_issuance.est.trusted_certs contains unreadable cert: %w", err)
	}
	return &Enrolment{url: url, username: auth.Username, password: auth.Password, roots: roots},
		auth, suffix, nil
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
	if chain != nil && c.est.Renew.Threshold.due(chain[0], now()) {
		if err := c.renewEST(e, auth, suffix, chain); err != nil {
			c.log.event("renewal-failed", fields{"cert": id, "error": err.Error()})
		}
	}
	if chain != nil {
		_, missing := c.keys.load(id)
		if !errors.Is(missing, errNotFound) {
			return credential(c, c.keys, id)
		}
	}
	if !auth.Bootstrap {
		return nil, errors.New("EST identity could not be obtained " +
			"and EST bootstrap identity is not configured")
	}
	bootstrap, err := credential(c, c.keys, estBootstrapID+suffix)
	if err != nil {
		return nil, fmt.Errorf("could not get EST bootstrap identity: %w", err)
	}
	key, err := c.keys.create(id, algorithmEC)
	if err != nil {
		return nil, err
	}
	with := *e
	with.credential = bootstrap
	csr, err := newCSR(subject, clientAuth(), key)
	if err != nil {
		return nil, err
	}
	chain, err = c.enrol(id, &with, csr)
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
	if !auth.Bootstrap && c.est.Renew.Rotate {
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
	with := *e
	var err error
	if with.credential, err = credential(c, c.keys, from); err != nil {
		return err
	}
	return renew(c, c.keys, id, c.est.Renew.Rotate, algorithmEC,
		func(key *Key) ([]*x509.Certificate, error) {
			csr, err := newCSR(old[0].RawSubject, clientAuth(), key)
			if err != nil {
				return nil, err
			}
			return c.enrol(id, &with, csr)
		})
}
