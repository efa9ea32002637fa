package main

import (
	"crypto/x509"
	"errors"
	"fmt"
	"net/http"
	"sync"
)

// serveCerts plays aziot-certd. It reads certificates and what it trusts as its own user, and signs
// by asking keyd.
func serveCerts(layout Layout, log *Log) (http.Handler, error) {
	var file CertdFile
	if err := readFiles(layout, certd, &file); err != nil {
		return nil, err
	}
	certs := &Certs{
		est: &file.EST, preloaded: file.Preloaded, home: layout.home(certd),
		system: []string{layout.trustStore()}, keys: &RemoteKeys{layout.socket(keyd)}, log: log,
		engine: newEngine(certd, log, whole), torn: func(string) {},
		issued: map[string]*Issuance{},
	}
	for id, issuance := range file.Issued {
		certs.issued[id] = &issuance
	}
	if err := certs.startRenewals(); err != nil {
		return nil, err
	}
	server := &certServer{issued: file.Issued, principals: file.Principals, certs: certs}
	go ticking(&server.mutex, certs.engine)
	return handler(map[string]endpoint{
		"/certificate/read":   typed(server.read),
		"/certificate/write":  typed(server.write),
		"/certificate/remove": typed(server.remove),
		"/certificate/issue":  typed(server.issue),
	}, log), nil
}

// certServer does one thing at a time, as the real one.
type certServer struct {
	mutex      sync.Mutex
	certs      *Certs
	issued     map[string]Issuance
	principals []Principal
}

func (s *certServer) read(_ int, request certRequest) (any, error) {
	s.mutex.Lock()
	defer s.mutex.Unlock()
	chain, err := s.certs.read(request.ID)
	if err == nil && chain == nil {
		err = errNotFound
	}
	return certReply{Chain: joined(chain)}, err
}

func (s *certServer) write(uid int, request certRequest) (any, error) {
	s.mutex.Lock()
	defer s.mutex.Unlock()
	if !allowed(s.principals, uid, request.ID) {
		return nil, errForbidden
	}
	chain, err := x509.ParseCertificates(request.Chain)
	if err == nil && len(chain) == 0 {
		err = errors.New("no certs in stack")
	}
	if err != nil {
		return nil, err
	}
	return certReply{}, s.certs.write(request.ID, chain)
}

func (s *certServer) remove(uid int, request certRequest) (any, error) {
	s.mutex.Lock()
	defer s.mutex.Unlock()
	if !allowed(s.principals, uid, request.ID) {
		return nil, errForbidden
	}
	return certReply{}, s.certs.remove(request.ID)
}

func (s *certServer) issue(uid int, request certRequest) (any, error) {
	s.mutex.Lock()
	defer s.mutex.Unlock()
	if !allowed(s.principals, uid, request.ID) {
		return nil, errForbidden
	}
	issuance, found := s.issued[request.ID]
	if !found {
		return nil, fmt.Errorf("cert %q is not configured to be issued", request.ID)
	}
	chain, err := s.certs.issue(request.ID, &issuance, request.CSR)
	return certReply{Chain: joined(chain)}, err
}
