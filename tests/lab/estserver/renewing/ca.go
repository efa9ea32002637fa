package main

import (
	"bytes"
	"context"
	"crypto"
	"crypto/ecdsa"
	"crypto/elliptic"
	"crypto/rand"
	"crypto/sha1"
	"crypto/x509"
	"crypto/x509/pkix"
	"encoding/asn1"
	"errors"
	"fmt"
	"math/big"
	"net/http"
	"time"

	"github.com/globalsign/est"
	"github.com/globalsign/pemfile"
)

// CA issues what Control says, for one request.
type CA struct {
	control *Control
	chain   []*x509.Certificate // its own certificate first
	key     crypto.Signer
	issued  *x509.Certificate
}

// problem is an answer that is no certificate; the library writes it.
type problem struct {
	status, after int
	text          string
}

func (p problem) Error() string   { return p.text }
func (p problem) StatusCode() int { return p.status }
func (p problem) RetryAfter() int { return p.after }

func newCA(control *Control) (*CA, error) {
	chain, err := pemfile.ReadCerts(control.Issuer.Chain)
	if err != nil {
		return nil, err
	}
	key, err := pemfile.ReadPrivateKey(control.Issuer.Key)
	if err != nil {
		return nil, err
	}
	signer, right := key.(crypto.Signer)
	if !right {
		return nil, fmt.Errorf("%s: not a key that signs", control.Issuer.Key)
	}
	return &CA{control: control, chain: chain, key: signer}, nil
}

// CACerts implements est.CA. The library asks for itself too, before it renews.
func (c *CA) CACerts(
	ctx context.Context, _ string, r *http.Request,
) ([]*x509.Certificate, error) {
	if operation(r) == "cacerts" {
		if err := c.manner(ctx, r); err != nil {
			return nil, err
		}
	}
	certificates, err := pemfile.ReadCerts(c.control.CACerts)
	for i, one := range certificates {
		certificates[i] = forLibrary(one)
	}
	return certificates, err
}

// CSRAttrs implements est.CA: nothing is wanted.
func (c *CA) CSRAttrs(ctx context.Context, _ string, r *http.Request) (est.CSRAttrs, error) {
	return est.CSRAttrs{}, c.manner(ctx, r)
}

// Enroll implements est.CA.
func (c *CA) Enroll(
	ctx context.Context, csr *x509.CertificateRequest, label string, r *http.Request,
) (*x509.Certificate, error) {
	if label == "mtls" {
		if err := below(real(r.TLS.PeerCertificates), c.control.Clients); err != nil {
			return nil, problem{status: http.StatusForbidden, text: "not one of our clients"}
		}
	}
	return c.answer(ctx, csr, r)
}

// Reenroll implements est.CA. That the certificate is this CA's, and the names are as before, the
// library has seen to.
func (c *CA) Reenroll(
	ctx context.Context, _ *x509.Certificate, csr *x509.CertificateRequest, _ string, r *http.Request,
) (*x509.Certificate, error) {
	return c.answer(ctx, csr, r)
}

// ServerKeyGen implements est.CA: keys are made where they are used.
func (c *CA) ServerKeyGen(
	context.Context, *x509.CertificateRequest, string, *http.Request,
) (*x509.Certificate, []byte, error) {
	return nil, nil, problem{status: http.StatusNotImplemented, text: "no keys are made here"}
}

// manner answers as Control wants, if that is no certificate.
func (c *CA) manner(ctx context.Context, r *http.Request) error {
	manner := c.control.Behaviour[operation(r)]
	if manner.Kind == "slow" {
		select {
		case <-time.After(time.Duration(manner.Seconds) * time.Second):
		case <-ctx.Done():
			return ctx.Err()
		}
	}
	status, refused := manners[manner.Kind]
	if !refused {
		return nil
	}
	return problem{status, manner.RetryAfter, "as the lab wants it"}
}

func (c *CA) answer(
	ctx context.Context, csr *x509.CertificateRequest, r *http.Request,
) (*x509.Certificate, error) {
	if err := c.manner(ctx, r); err != nil {
		return nil, err
	}
	issued, err := c.issue(csr, c.control.Behaviour[operation(r)].Kind)
	c.issued = issued
	return issued, err
}

// issue makes the certificate that was asked for, or one of the oddities.
func (c *CA) issue(csr *x509.CertificateRequest, oddity string) (*x509.Certificate, error) {
	wanted, err := c.template(csr)
	if err != nil {
		return nil, err
	}
	issuer, key, public := c.chain[0], c.key, csr.PublicKey
	switch life := c.control.lifetime(); oddity {
	case "expired":
		wanted.NotBefore, wanted.NotAfter = now().Add(-2*life), now().Add(-life)
	case "not-yet":
		wanted.NotBefore, wanted.NotAfter = now().Add(life), now().Add(2*life)
	case "other-name":
		wanted.RawSubject, wanted.Subject = nil, pkix.Name{CommonName: "somebody-else"}
	case "other-key":
		public, err = newKey()
	case "unknown-ca":
		key, err = newKey()
	}
	if err != nil {
		return nil, err
	}
	if private, own := public.(crypto.Signer); own {
		public = private.Public()
	}
	if oddity == "unknown-ca" { // of the same name, with another key
		stranger := *issuer
		stranger.PublicKey, stranger.SubjectKeyId = key.Public(), nil
		issuer = &stranger
	}
	der, err := x509.CreateCertificate(rand.Reader, wanted, issuer, public, key)
	if err != nil {
		return nil, err
	}
	return x509.ParseCertificate(der)
}

func newKey() (crypto.Signer, error) { return ecdsa.GenerateKey(elliptic.P256(), rand.Reader) }

var (
	oidSAN         = asn1.ObjectIdentifier{2, 5, 29, 17}
	oidConstraints = asn1.ObjectIdentifier{2, 5, 29, 19}
	noCA           = []byte{0x30, 0} // BasicConstraints, by default
)

func (c *CA) template(csr *x509.CertificateRequest) (*x509.Certificate, error) {
	serial, err := rand.Int(rand.Reader, new(big.Int).Lsh(big.NewInt(1), 127))
	if err != nil {
		return nil, err
	}
	var info struct {
		Algorithm pkix.AlgorithmIdentifier
		Key       asn1.BitString
	}
	if _, err := asn1.Unmarshal(csr.RawSubjectPublicKeyInfo, &info); err != nil {
		return nil, err
	}
	name := sha1.Sum(info.Key.RightAlign())
	out := &x509.Certificate{
		SerialNumber: serial, RawSubject: csr.RawSubject, SubjectKeyId: name[:],
		NotBefore: now(), NotAfter: now().Add(c.control.lifetime()),
		BasicConstraintsValid: true, KeyUsage: x509.KeyUsageDigitalSignature,
		ExtKeyUsage: []x509.ExtKeyUsage{x509.ExtKeyUsageServerAuth, x509.ExtKeyUsageClientAuth},
	}
	if out.NotAfter.After(c.chain[0].NotAfter) {
		out.NotAfter = c.chain[0].NotAfter
	}
	for _, extension := range csr.Extensions {
		if extension.Id.Equal(oidSAN) {
			out.ExtraExtensions = append(out.ExtraExtensions, extension)
		}
		if extension.Id.Equal(oidConstraints) && !bytes.Equal(extension.Value, noCA) {
			out.IsCA, out.MaxPathLenZero, out.ExtKeyUsage = true, true, nil
			out.KeyUsage |= x509.KeyUsageCertSign
		}
	}
	return out, nil
}

// tcgOnly says whether a critical extension is the name of a TPM, which is in no form that Go
// knows (TCG EK Credential Profile, 3.2.9).
func tcgOnly(unhandled []asn1.ObjectIdentifier) bool {
	for _, one := range unhandled {
		if !one.Equal(oidSAN) {
			return false
		}
	}
	return true
}

// ofMaker checks the certificate of a TPM's endorsement key.
func (c *CA) ofMaker(chain []*x509.Certificate) error {
	if len(c.control.Makers) == 0 {
		return errors.New("no maker of TPMs is known here")
	}
	roots, between, err := pools(c.control.Makers...)
	if err != nil {
		return err
	}
	for _, one := range chain {
		if tcgOnly(one.UnhandledCriticalExtensions) {
			one.UnhandledCriticalExtensions = nil
		}
		between.AddCert(one)
	}
	_, err = chain[0].Verify(x509.VerifyOptions{
		Roots: roots, Intermediates: between, CurrentTime: now(),
		KeyUsages: []x509.ExtKeyUsage{x509.ExtKeyUsageAny},
	})
	return err
}
