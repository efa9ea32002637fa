package main

import (
	"crypto/x509"
	"errors"
	"fmt"
)

// RemoteCerts are the certificates of aziot-certd.
type RemoteCerts struct{ socket string }

type certRequest struct {
	ID    string
	Chain []byte `json:",omitempty"` // DER, leaf first
	CSR   []byte `json:",omitempty"` // DER
}

type certReply struct {
	Chain []byte `json:",omitempty"` // DER, leaf first
}

func (r *RemoteCerts) call(path string, request certRequest) ([]*x509.Certificate, error) {
	var reply certReply
	if err := call(r.socket, path, request, &reply); err != nil {
		return nil, fmt.Errorf("certd: cert %q: %w", request.ID, err)
	}
	return x509.ParseCertificates(reply.Chain)
}

func (r *RemoteCerts) read(id string) ([]*x509.Certificate, error) {
	chain, err := r.call("/certificate/read", certRequest{ID: id})
	if errors.Is(err, errNotFound) {
		return nil, nil
	}
	return chain, err
}

func (r *RemoteCerts) write(id string, chain []*x509.Certificate) error {
	_, err := r.call("/certificate/write", certRequest{ID: id, Chain: joined(chain)})
	return err
}

func (r *RemoteCerts) remove(id string) error {
	_, err := r.call("/certificate/remove", certRequest{ID: id})
	return err
}

// issue leaves it to certd how: it has its own configuration.
func (r *RemoteCerts) issue(id string, _ *Issuance, csr []byte) ([]*x509.Certificate, error) {
	return r.call("/certificate/issue", certRequest{ID: id, CSR: csr})
}

func joined(chain []*x509.Certificate) (out []byte) {
	for _, cert := range chain {
		out = append(out, cert.Raw...)
	}
	return out
}
