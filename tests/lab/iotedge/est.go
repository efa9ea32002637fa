package main

import (
	"bytes"
	"context"
	"crypto/tls"
	"crypto/x509"
	"encoding/asn1"
	"encoding/base64"
	"encoding/pem"
	"errors"
	"fmt"
	"io"
	"net/http"
	"os"
	"strings"
	"time"
	"unicode"
)

const (
	requestTimeout = 60 * time.Second // the real EST client has none; a lab must end
	maxReply       = 1 << 20
)

// Credential is a certificate chain, leaf first, and its key.
type Credential struct {
	id    string
	chain []*x509.Certificate
	key   *Key
}

func (c *Credential) leaf() *x509.Certificate { return c.chain[0] }

// tlsConfig trusts the roots and presents the credential, if there is one, whatever CAs the server
// asks for: OpenSSL does so too. `used` says afterwards whether the server asked.
func tlsConfig(roots *x509.CertPool, credential *Credential, used *bool) *tls.Config {
	config := &tls.Config{RootCAs: roots, MinVersion: tls.VersionTLS12, Time: now}
	if credential == nil {
		return config
	}
	pair := &tls.Certificate{PrivateKey: credential.key, Leaf: credential.leaf()}
	for _, cert := range credential.chain {
		pair.Certificate = append(pair.Certificate, cert.Raw)
	}
	config.GetClientCertificate = func(*tls.CertificateRequestInfo) (*tls.Certificate, error) {
		*used = true
		return pair, nil
	}
	return config
}

// newClient speaks HTTP/1.1 only, follows no redirect and keeps no connection after use.
func newClient(config *tls.Config) *http.Client {
	return &http.Client{
		Timeout: requestTimeout,
		Transport: &http.Transport{
			TLSClientConfig:   config,
			TLSNextProto:      map[string]func(string, *tls.Conn) http.RoundTripper{},
			DisableKeepAlives: true,
		},
		CheckRedirect: func(*http.Request, []*http.Request) error { return http.ErrUseLastResponse },
	}
}

// rootPool is the system's store and the PEM files given.
func rootPool(files ...string) (*x509.CertPool, error) {
	pool, err := x509.SystemCertPool()
	if err != nil {
		return nil, fmt.Errorf("cannot read the system's certificate store: %w", err)
	}
	for _, file := range files {
		certs, err := readChain(file)
		if err != nil {
			return nil, err
		}
		for _, cert := range certs {
			pool.AddCert(cert)
		}
	}
	return pool, nil
}

// readChain reads the certificates of a PEM file; there is at least one.
func readChain(file string) ([]*x509.Certificate, error) {
	text, err := os.ReadFile(file)
	if err != nil {
		return nil, err
	}
	var chain []*x509.Certificate
	for block, rest := pem.Decode(text); block != nil; block, rest = pem.Decode(rest) {
		if block.Type != "CERTIFICATE" {
			continue
		}
		cert, err := x509.ParseCertificate(block.Bytes)
		if err != nil {
			return nil, fmt.Errorf("%s: %w", file, err)
		}
		chain = append(chain, cert)
	}
	if len(chain) == 0 {
		return nil, fmt.Errorf("%s: no certs in stack", file)
	}
	return chain, nil
}

// Enrolment is one request to an EST server.
type Enrolment struct {
	url                string
	username, password string
	credential         *Credential // nil without a client certificate
	roots              *x509.CertPool
}

// enrol posts the CSR and asks for the CA certificates at the same time; both must succeed. The
// result is what was issued and then the CA certificates, unchecked, as the real service stores it.
func (e *Enrolment) enrol(csr []byte) (chain []*x509.Certificate, authenticated bool, err error) {
	base := strings.TrimSuffix(e.url, "/")
	usedEnrol, usedCA := false, false
	results := make(chan error, 2)
	var issued, authorities []*x509.Certificate
	ctx, cancel := context.WithCancel(context.Background())
	defer cancel()
	go func() {
		var err error
		issued, err = e.exchange(ctx, http.MethodPost, base+"/simpleenroll", wrapBase64(csr), &usedEnrol)
		results <- err
	}()
	go func() {
		var err error
		authorities, err = e.exchange(ctx, http.MethodGet, base+"/cacerts", nil, &usedCA)
		results <- err
	}()
	for range 2 {
		if one := <-results; one != nil && err == nil {
			err = one
			cancel()
		}
	}
	if err != nil {
		return nil, usedEnrol, err
	}
	if len(issued) == 0 {
		return nil, usedEnrol, errors.New("EST response to simpleenroll has no certificate")
	}
	return append(issued, authorities...), usedEnrol, nil
}

func (e *Enrolment) exchange(
	ctx context.Context, method, url string, body []byte, used *bool,
) ([]*x509.Certificate, error) {
	request, err := http.NewRequestWithContext(ctx, method, url, bytes.NewReader(body))
	if err != nil {
		return nil, err
	}
	if body != nil {
		request.Header.Set("Content-Type", "application/pkcs10")
		request.Header.Set("Content-Transfer-Encoding", "base64")
	}
	if e.username != "" {
		request.SetBasicAuth(e.username, e.password)
	}
	response, err := newClient(tlsConfig(e.roots, e.credential, used)).Do(request)
	if err != nil {
		return nil, err
	}
	defer response.Body.Close()
	reply, err := io.ReadAll(io.LimitReader(response.Body, maxReply))
	if err != nil {
		return nil, err
	}
	if response.StatusCode != http.StatusOK {
		return nil, fmt.Errorf("EST endpoint did not return successful response: %s %q",
			response.Status, firstBytes(reply, 200))
	}
	kind := response.Header.Get("Content-Type")
	if kind != "application/pkcs7-mime" && !strings.HasPrefix(kind, "application/pkcs7-mime;") {
		return nil, fmt.Errorf("EST response has unexpected content-type header: %s", kind)
	}
	return parsePKCS7(reply)
}

func firstBytes(text []byte, most int) []byte {
	return text[:min(len(text), most)]
}

// wrapBase64 is base64 in lines of 64, each with a line feed.
func wrapBase64(der []byte) []byte {
	var out bytes.Buffer
	text := base64.StdEncoding.EncodeToString(der)
	for len(text) > 0 {
		n := min(len(text), 64)
		out.WriteString(text[:n] + "\n")
		text = text[n:]
	}
	return out.Bytes()
}

// parsePKCS7 gives the certificates of a certs-only SignedData (RFC 5652 section 5.1), in PEM or
// base64 of DER with any white space.
func parsePKCS7(reply []byte) ([]*x509.Certificate, error) {
	var der []byte
	if block, _ := pem.Decode(reply); block != nil {
		der = block.Bytes
	} else {
		compact := strings.Map(func(r rune) rune {
			if unicode.IsSpace(r) {
				return -1
			}
			return r
		}, string(reply))
		var err error
		if der, err = base64.StdEncoding.DecodeString(compact); err != nil {
			return nil, fmt.Errorf("EST response is not base64: %w", err)
		}
	}
	var content struct {
		Type    asn1.ObjectIdentifier
		Content asn1.RawValue `asn1:"explicit,tag:0"`
	}
	if _, err := asn1.Unmarshal(der, &content); err != nil {
		return nil, fmt.Errorf("EST response is not PKCS#7: %w", err)
	}
	if !content.Type.Equal(asn1.ObjectIdentifier{1, 2, 840, 113549, 1, 7, 2}) {
		return nil, nil
	}
	var signed struct {
		Version      int
		Algorithms   asn1.RawValue
		ContentInfo  asn1.RawValue
		Certificates asn1.RawValue `asn1:"optional,tag:0"`
		Lists        asn1.RawValue `asn1:"optional,tag:1"`
		Signers      asn1.RawValue
	}
	if _, err := asn1.Unmarshal(content.Content.Bytes, &signed); err != nil {
		return nil, fmt.Errorf("EST response is not PKCS#7 SignedData: %w", err)
	}
	return x509.ParseCertificates(signed.Certificates.Bytes)
}
