package main

import (
	"errors"
	"fmt"
	"strings"
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
		suffix = "-" + strings.TrimSuffix(id, "-temp")
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

// estIdentity is the certificate to authenticate with, renewed before if need be; one that is not
// there, or of which the renewal has ended, is got anew by bootstrap.
func (c *Certs) estIdentity(
	forID string, issuance *Issuance, e *Enrolment, auth *ESTAuth, suffix string, subject []byte,
) (*Credential, error) {
	id := estID + suffix
	if chain, err := c.engine.get(id); err == nil {
		key, err := c.keys.load(id)
		if err != nil {
			return nil, err
		}
		return matching(id, chain, key)
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
	chain, err := c.enrol(id, &with, csr)
	if err != nil {
		return nil, fmt.Errorf(
			"neither EST identity nor EST bootstrap identity could be obtained: %w", err)
	}
	if err := c.write(id, chain); err != nil {
		return nil, err
	}
	renewer := &estRenewer{certs: c, id: id, suffix: suffix, forID: forID, issuance: issuance}
	if err := c.engine.add(id, c.est.Renew, renewer); err != nil {
		c.log.say(certd, levelWarn, "Failed to add %s to cert auto-renewal: %v", id, err)
	}
	return &Credential{id: id, chain: chain, key: key}, nil
}
