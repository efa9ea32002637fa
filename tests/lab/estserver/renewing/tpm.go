package main

import (
	"context"
	"crypto/rand"
	"crypto/x509"
	"net/http"

	"github.com/google/go-tpm/tpm2"
	"github.com/google/go-tpm/tpm2/credactivation"
	"go.mozilla.org/pkcs7"
)

const sizeField = 2 // of a TPM2B, which the library does not send

// TPMEnroll implements est.CA: the certificate can only be read by the TPM that has both keys.
func (c *CA) TPMEnroll(
	ctx context.Context, csr *x509.CertificateRequest, endorsement []*x509.Certificate,
	ekPublic, akPublic []byte, _ string, r *http.Request,
) (credential, seed, sealed []byte, err error) {
	if err := c.ofMaker(endorsement); err != nil {
		return nil, nil, nil, problem{status: http.StatusForbidden, text: err.Error()}
	}
	issued, err := c.answer(ctx, csr, r)
	if err != nil {
		return nil, nil, nil, err
	}
	key := make([]byte, 16)
	if _, err := rand.Read(key); err != nil {
		return nil, nil, nil, err
	}
	ek, err := tpm2.DecodePublic(ekPublic)
	if err != nil {
		return nil, nil, nil, err
	}
	ak, err := tpm2.DecodePublic(akPublic)
	if err != nil {
		return nil, nil, nil, err
	}
	name, err := ak.Name()
	if err != nil {
		return nil, nil, nil, err
	}
	public, err := ek.Key()
	if err != nil {
		return nil, nil, nil, err
	}
	blob, secret, err := credactivation.Generate(name.Digest, public, 16, key)
	if err != nil {
		return nil, nil, nil, err
	}
	pkcs7.ContentEncryptionAlgorithm = pkcs7.EncryptionAlgorithmAES128GCM
	sealed, err = pkcs7.EncryptUsingPSK(issued.Raw, key)
	return blob[sizeField:], secret[sizeField:], sealed, err
}
