package main

import (
	"context"
	"crypto/tls"
	"crypto/x509"
	"errors"
	"net/http"
	"strings"
	"time"

	"github.com/globalsign/est"
)

// Service is the EST server as its clients see it.
type Service struct {
	control string
	log     *Log
}

// tls asks every client for a certificate and refuses one that it cannot verify, as it is at this
// moment; no session is resumed, so that every connection shows its credential.
func (s *Service) tls() *tls.Config {
	return &tls.Config{
		MinVersion: tls.VersionTLS12,
		GetConfigForClient: func(*tls.ClientHelloInfo) (*tls.Config, error) {
			control, err := readControl(s.control)
			if err != nil {
				return nil, err
			}
			return s.connection(control)
		},
	}
}

func (s *Service) connection(control *Control) (*tls.Config, error) {
	pair, err := tls.LoadX509KeyPair(control.TLS.Chain, control.TLS.Key)
	if err != nil {
		return nil, err
	}
	named, _, err := pools(control.Clients, control.CACerts)
	if err != nil {
		return nil, err
	}
	return &tls.Config{
		MinVersion: tls.VersionTLS12, Certificates: []tls.Certificate{pair}, Time: now,
		ClientAuth: tls.RequestClientCert, ClientCAs: named, SessionTicketsDisabled: true,
		NextProtos: []string{"h2", "http/1.1"},
		VerifyConnection: func(state tls.ConnectionState) error {
			if len(state.PeerCertificates) == 0 {
				return nil
			}
			err := below(state.PeerCertificates, control.Clients, control.CACerts)
			if err != nil {
				s.log.refused(&state, err)
			}
			return err
		},
	}, nil
}

// ServeHTTP lets the library answer. It gets a new router each time: its cache of CA certificates
// is by the machine's time.
func (s *Service) ServeHTTP(w http.ResponseWriter, r *http.Request) {
	w.Header().Set("Date", now().UTC().Format(http.TimeFormat))
	out := &answer{ResponseWriter: w, status: http.StatusOK}
	defer func() { s.log.answered(r, out.status, out.issued) }()
	control, err := readControl(s.control)
	if err != nil {
		http.Error(out, err.Error(), http.StatusInternalServerError)
		return
	}
	ca, err := newCA(control)
	if err != nil {
		http.Error(out, err.Error(), http.StatusInternalServerError)
		return
	}
	router, err := est.NewRouter(&est.ServerConfig{
		CA: ca, CheckBasicAuth: check(control), Timeout: time.Hour,
	})
	if err != nil {
		http.Error(out, err.Error(), http.StatusInternalServerError)
		return
	}
	router.ServeHTTP(out, shown(r))
	out.issued = ca.issued
}

// shown is the request with the certificates of the client as the library has to see them.
func shown(r *http.Request) *http.Request {
	moved, state := r.Clone(r.Context()), *r.TLS
	state.PeerCertificates = nil
	for _, one := range r.TLS.PeerCertificates {
		state.PeerCertificates = append(state.PeerCertificates, forLibrary(one))
	}
	moved.TLS = &state
	return moved
}

// answer remembers what was said.
type answer struct {
	http.ResponseWriter
	status int
	issued *x509.Certificate
}

func (a *answer) WriteHeader(status int) {
	a.status = status
	a.ResponseWriter.WriteHeader(status)
}

// check is the login. A certificate that renews itself is its own, and so is a TPM; the label of
// the URL says what else is wanted.
func check(control *Control) func(context.Context, *http.Request, string, string, string) error {
	return func(_ context.Context, r *http.Request, label, user, password string) error {
		if o := operation(r); o == "simplereenroll" || o == "tpmenroll" {
			return nil
		}
		good := false
		switch label {
		case "basic":
			good = user == control.User && password == control.Password
		case "secret":
			good = r.Header.Get("Secret-Value") == control.Secret
		case "mtls":
			good = len(r.TLS.PeerCertificates) > 0 // whose, the CA looks at
		}
		if !good {
			return errors.New("authorization required")
		}
		return nil
	}
}

// real undoes forLibrary.
func real(chain []*x509.Certificate) (out []*x509.Certificate) {
	for _, one := range chain {
		if original, err := x509.ParseCertificate(one.Raw); err == nil {
			out = append(out, original)
		}
	}
	return out
}

// operation is the last part of the path.
func operation(r *http.Request) string {
	return r.URL.Path[strings.LastIndex(r.URL.Path, "/")+1:]
}
