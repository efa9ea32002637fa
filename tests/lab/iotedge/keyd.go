package main

import (
	"crypto/x509"
	"net/http"
)

// serveKeys plays aziot-keyd. It alone loads the PKCS#11 module, which finds its store and the TPM
// by this process's environment, that is, by the unit.
func serveKeys(layout Layout, log *Log) (http.Handler, error) {
	var file KeydFile
	if err := readFiles(layout, keyd, &file); err != nil {
		return nil, err
	}
	keys := &Keys{
		store: file.Store, preloaded: file.Preloaded, home: layout.home(keyd), log: log,
	}
	if base := file.Store.Base; base != nil {
		// no key is wanted yet: a token that is not there is noticed all the same
		if err := keepSession(file.Store.Library, base); err != nil {
			return nil, err
		}
	}
	keepSessions = true
	server := &keyServer{keys: keys, principals: file.Principals, log: log}
	return handler(map[string]endpoint{
		"/keypair/load":   typed(server.load),
		"/keypair/create": typed(server.create),
		"/keypair/move":   typed(server.move),
		"/keypair/sign":   typed(server.sign),
	}, log), nil
}

type keyServer struct {
	keys       *Keys
	principals []Principal
	log        *Log
}

func (s *keyServer) load(uid int, request keyRequest) (any, error) {
	if !allowed(s.principals, uid, request.ID) {
		return nil, errForbidden
	}
	return publicReply(s.keys.load(request.ID))
}

func (s *keyServer) create(uid int, request keyRequest) (any, error) {
	if !allowed(s.principals, uid, request.ID) {
		return nil, errForbidden
	}
	return publicReply(s.keys.create(request.ID, request.Algorithm))
}

func publicReply(key *Key, err error) (any, error) {
	if err != nil {
		return nil, err
	}
	der, err := x509.MarshalPKIXPublicKey(key.public)
	return keyReply{Public: der}, err
}

func (s *keyServer) move(uid int, request keyRequest) (any, error) {
	from, to := allowed(s.principals, uid, request.ID), allowed(s.principals, uid, request.To)
	if !from || !to {
		return nil, errForbidden
	}
	return keyReply{}, s.keys.move(request.ID, request.To)
}

func (s *keyServer) sign(uid int, request keyRequest) (any, error) {
	if !allowed(s.principals, uid, request.ID) {
		return nil, errForbidden
	}
	key, err := s.keys.load(request.ID)
	if err != nil {
		return nil, err
	}
	signature, err := key.raw(request.Mechanism, request.Input)
	return keyReply{Signature: signature}, err
}
