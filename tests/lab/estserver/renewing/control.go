package main

import (
	"crypto/x509"
	"encoding/json"
	"fmt"
	"os"
	"time"

	"github.com/globalsign/pemfile"
)

// Control is the content of the file that says what the server does. All names are of PEM files.
type Control struct {
	Lifetime  int64     `json:"lifetime"` // of certificates, in seconds; at most the CA's own
	Issuer    Pair      `json:"issuer"`   // the CA that issues, and those above it
	CACerts   string    `json:"cacerts"`  // the answer to /cacerts, in this order
	TLS       Pair      `json:"tls"`      // the server's own
	Clients   string    `json:"clients"`  // roots and intermediates, for /mtls/simpleenroll
	Makers    []string  `json:"makers"`   // of TPMs; roots and intermediates, for /tpmenroll
	User      string    `json:"user"`     // for /basic/simpleenroll
	Password  string    `json:"password"`
	Secret    string    `json:"secret"`    // for /secret/simpleenroll, in the header Secret-Value
	Behaviour Behaviour `json:"behaviour"` // by operation: simpleenroll, simplereenroll, ...
}

// Pair is a certificate, with those above it, and its key.
type Pair struct {
	Chain string `json:"chain"`
	Key   string `json:"key"`
}

// Behaviour says for an operation what to do instead of what was asked for.
type Behaviour map[string]Manner

// Manner is how an operation is answered.
type Manner struct {
	Kind       string `json:"kind"`        // see manners
	RetryAfter int    `json:"retry_after"` // seconds; of pending and busy
	Seconds    int    `json:"seconds"`     // of slow
}

// manners are those that are no certificates, with their HTTP status.
var manners = map[string]int{"pending": 202, "refuse": 403, "broken": 500, "busy": 503}

// oddities are certificates nobody asked for.
var oddities = []string{"other-key", "other-name", "unknown-ca", "expired", "not-yet"}

func readControl(file string) (*Control, error) {
	text, err := os.ReadFile(file)
	if err != nil {
		return nil, err
	}
	control := &Control{}
	if err := json.Unmarshal(text, control); err != nil {
		return nil, fmt.Errorf("%s: %w", file, err)
	}
	for operation, manner := range control.Behaviour {
		if !known(manner.Kind) {
			return nil, fmt.Errorf("%s: %s cannot behave %q", file, operation, manner.Kind)
		}
	}
	return control, nil
}

func known(kind string) bool {
	_, refusal := manners[kind]
	for _, oddity := range append(oddities, "", "ok", "slow") {
		refusal = refusal || kind == oddity
	}
	return refusal
}

// lifetime is that of a certificate issued now.
func (c *Control) lifetime() time.Duration { return time.Duration(c.Lifetime) * time.Second }

// pools are the roots (self-signed) and the others in the files.
func pools(files ...string) (roots, between *x509.CertPool, err error) {
	roots, between = x509.NewCertPool(), x509.NewCertPool()
	for _, file := range files {
		certificates, err := pemfile.ReadCerts(file)
		if err != nil {
			return nil, nil, err
		}
		for _, one := range certificates {
			if one.CheckSignatureFrom(one) == nil {
				roots.AddCert(one)
			} else {
				between.AddCert(one)
			}
		}
	}
	return roots, between, nil
}

// below checks that a client's chain ends at a root in the files, and that all of it is valid now.
func below(chain []*x509.Certificate, files ...string) error {
	roots, between, err := pools(files...)
	if err != nil {
		return err
	}
	for _, sent := range chain[1:] {
		between.AddCert(sent)
	}
	_, err = chain[0].Verify(x509.VerifyOptions{
		Roots: roots, Intermediates: between, CurrentTime: now(),
		KeyUsages: []x509.ExtKeyUsage{x509.ExtKeyUsageClientAuth},
	})
	return err
}
