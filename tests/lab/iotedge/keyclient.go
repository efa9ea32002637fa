package main

import (
	"crypto/x509"
	"fmt"
)

// KeyService has key pairs by id: Keys itself, or aziot-keyd behind its socket.
type KeyService interface {
	load(id string) (*Key, error)
	create(id, algorithm string) (*Key, error)
	move(from, to string) error
}

// RemoteKeys are the keys of aziot-keyd. Nothing of them but public halves leaves it.
type RemoteKeys struct{ socket string }

type keyRequest struct {
	ID        string
	Algorithm string `json:",omitempty"`
	To        string `json:",omitempty"`
	Mechanism uint   `json:",omitempty"`
	Input     []byte `json:",omitempty"`
}

type keyReply struct {
	Public    []byte `json:",omitempty"` // DER of a SubjectPublicKeyInfo
	Signature []byte `json:",omitempty"` // as PKCS#11 gives it
}

func (r *RemoteKeys) pair(path string, request keyRequest) (*Key, error) {
	var reply keyReply
	if err := call(r.socket, path, request, &reply); err != nil {
		return nil, fmt.Errorf("keyd: key %q: %w", request.ID, err)
	}
	public, err := x509.ParsePKIXPublicKey(reply.Public)
	if err != nil {
		return nil, fmt.Errorf("keyd: key %q: %w", request.ID, err)
	}
	return &Key{id: request.ID, public: public, remote: r}, nil
}

func (r *RemoteKeys) load(id string) (*Key, error) {
	return r.pair("/keypair/load", keyRequest{ID: id})
}

func (r *RemoteKeys) create(id, algorithm string) (*Key, error) {
	return r.pair("/keypair/create", keyRequest{ID: id, Algorithm: algorithm})
}

func (r *RemoteKeys) move(from, to string) error {
	if err := call(r.socket, "/keypair/move", keyRequest{ID: from, To: to}, &keyReply{}); err != nil {
		return fmt.Errorf("keyd: key %q: %w", from, err)
	}
	return nil
}

// sign gives what PKCS#11 gives for the mechanism.
func (r *RemoteKeys) sign(id string, mechanism uint, input []byte) ([]byte, error) {
	var reply keyReply
	request := keyRequest{ID: id, Mechanism: mechanism, Input: input}
	err := call(r.socket, "/keypair/sign", request, &reply)
	return reply.Signature, err
}
