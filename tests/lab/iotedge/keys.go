package main

import (
	"crypto"
	"crypto/ecdsa"
	"crypto/elliptic"
	"crypto/rand"
	"crypto/rsa"
	"crypto/sha256"
	"crypto/x509"
	"encoding/asn1"
	"encoding/hex"
	"encoding/pem"
	"errors"
	"fmt"
	"io"
	"math/big"
	"os"
	"path/filepath"

	"github.com/miekg/pkcs11"
)

const (
	algorithmRSA = "rsa-2048" // what identityd asks for
	algorithmEC  = "ec-p256"  // what certd prefers
)

// Keys plays aziot-keyd: key pairs by id, preloaded ones at their place, others in the base slot's
// token with the id as label, or in files if there is no token.
type Keys struct {
	store     KeyStore
	preloaded map[string]KeyLocation
	home      string
	log       *Log
}

// Key signs like the private half of a pair.
type Key struct {
	id       string
	public   crypto.PublicKey
	file     crypto.Signer // of a key in a file
	token    *PKCS11URI    // of a key in a token
	library  string
	remote   *RemoteKeys // of a key that keyd has
	evidence *Log
}

// location is where the key with an id is or would be made.
func (k *Keys) location(id string) KeyLocation {
	if location, found := k.preloaded[id]; found {
		return location
	}
	if k.store.Base != nil {
		uri := *k.store.Base
		uri.Object = id
		return KeyLocation{Token: &uri}
	}
	return KeyLocation{File: filepath.Join(k.home, "keys", fileName(id, ".key"))}
}

// fileName is how the services name a file after an id.
func fileName(id, suffix string) string {
	kept := make([]byte, 0, len(id))
	for i := 0; i < len(id); i++ {
		c := id[i] | 0x20
		if c >= 'a' && c <= 'z' || id[i] >= '0' && id[i] <= '9' {
			kept = append(kept, id[i])
		}
	}
	sum := sha256.Sum256([]byte(id))
	return string(kept) + "-" + hex.EncodeToString(sum[:]) + suffix
}

func (k *Keys) load(id string) (*Key, error) {
	key, err := k.loadFrom(id, k.location(id))
	if err != nil {
		return nil, fmt.Errorf("could not load key pair %q: %w", id, err)
	}
	return key, nil
}

func (k *Keys) loadFrom(id string, location KeyLocation) (*Key, error) {
	if location.Token == nil {
		return k.loadFile(id, location.File)
	}
	key := &Key{id: id, token: location.Token, library: k.store.Library, evidence: k.log}
	err := withToken(key.library, key.token, func(s session) (err error) {
		key.public, err = s.public(key.token.Object)
		return err
	})
	if err != nil {
		return nil, err
	}
	return key, nil
}

func (k *Keys) loadFile(id, path string) (*Key, error) {
	text, err := os.ReadFile(path)
	if errors.Is(err, os.ErrNotExist) {
		return nil, errNotFound
	}
	if err != nil {
		return nil, err
	}
	block, _ := pem.Decode(text)
	if block == nil {
		return nil, fmt.Errorf("%s is not PEM", path)
	}
	signer, err := parseSigner(block.Bytes)
	if err != nil {
		return nil, fmt.Errorf("%s: %w", path, err)
	}
	return &Key{id: id, public: signer.Public(), file: signer, evidence: k.log}, nil
}

func parseSigner(der []byte) (crypto.Signer, error) {
	if key, err := x509.ParsePKCS8PrivateKey(der); err == nil {
		if signer, right := key.(crypto.Signer); right {
			return signer, nil
		}
	}
	if key, err := x509.ParseECPrivateKey(der); err == nil {
		return key, nil
	}
	if key, err := x509.ParsePKCS1PrivateKey(der); err == nil {
		return key, nil
	}
	return nil, errors.New("not an RSA or EC private key without password")
}

// create replaces the pair with an id, as the real services do before they enrol anew.
func (k *Keys) create(id, algorithm string) (*Key, error) {
	location := k.location(id)
	var err error
	if location.Token == nil {
		err = createFile(location.File, algorithm)
	} else {
		err = withToken(k.store.Library, location.Token, func(s session) error {
			if err := s.destroy(location.Token.Object); err != nil {
				return err
			}
			return s.generate(algorithm, location.Token.Object)
		})
	}
	if err != nil {
		return nil, fmt.Errorf("could not create key pair %q: %w", id, err)
	}
	k.log.event("key-created", fields{
		"key": id, "algorithm": algorithm, "token": location.tokenName(),
	})
	return k.load(id)
}

func (l KeyLocation) tokenName() string {
	if l.Token == nil {
		return ""
	}
	return l.Token.Token
}

func createFile(path, algorithm string) error {
	var key crypto.Signer
	var err error
	if algorithm == algorithmRSA {
		key, err = rsa.GenerateKey(rand.Reader, 2048)
	} else {
		key, err = ecdsa.GenerateKey(elliptic.P256(), rand.Reader)
	}
	if err != nil {
		return err
	}
	der, err := x509.MarshalPKCS8PrivateKey(key)
	if err != nil {
		return err
	}
	if err := os.MkdirAll(filepath.Dir(path), 0o700); err != nil {
		return err
	}
	text := pem.EncodeToMemory(&pem.Block{Type: "PRIVATE KEY", Bytes: der})
	return os.WriteFile(path, text, 0o600)
}

// move gives the pair `from` the id `to`, whose old pair is destroyed.
func (k *Keys) move(from, to string) error {
	source, target := k.location(from), k.location(to)
	if source.Token == nil && target.Token == nil {
		return os.Rename(source.File, target.File)
	}
	if source.Token == nil || target.Token == nil {
		return errors.New("cannot move a key between a token and a file")
	}
	return withToken(k.store.Library, target.Token, func(s session) error {
		if err := s.destroy(target.Token.Object); err != nil {
			return err
		}
		return s.rename(source.Token.Object, target.Token.Object)
	})
}

func (k *Key) Public() crypto.PublicKey { return k.public }

// Sign signs a digest the way the real services do: they hand the module a finished padding, so an
// RSA key in a token must be able to do the raw operation.
func (k *Key) Sign(random io.Reader, digest []byte, opts crypto.SignerOpts) ([]byte, error) {
	if k.file != nil {
		k.evidence.event("signed", fields{"key": k.id, "through": "file"})
		return k.file.Sign(random, digest, opts)
	}
	mechanism, input, err := k.prepare(random, digest, opts)
	if err != nil {
		return nil, err
	}
	signature, err := k.raw(mechanism, input)
	if err != nil {
		return nil, fmt.Errorf("could not sign with key %q: %w", k.id, err)
	}
	if mechanism == pkcs11.CKM_ECDSA {
		half := len(signature) / 2
		return asn1.Marshal(struct{ R, S *big.Int }{
			new(big.Int).SetBytes(signature[:half]), new(big.Int).SetBytes(signature[half:]),
		})
	}
	return signature, nil
}

// raw does what C_Sign does with the mechanism, for a key that is not in a file.
func (k *Key) raw(mechanism uint, input []byte) (signature []byte, err error) {
	if k.remote != nil {
		return k.remote.sign(k.id, mechanism, input)
	}
	if k.token == nil {
		return nil, errors.New("the lab's services do not share keys in files")
	}
	err = withToken(k.library, k.token, func(s session) (err error) {
		signature, err = s.sign(k.token.Object, mechanism, input)
		return err
	})
	if err != nil {
		k.evidence.event("sign-failed", fields{"key": k.id, "error": err.Error()})
		return nil, err
	}
	k.evidence.event("signed", fields{
		"key": k.id, "through": "pkcs11", "token": k.token.Token, "object": k.token.Object,
		"mechanism": fmt.Sprintf("0x%x", mechanism), "spki": keyDigest(k.public),
	})
	return signature, nil
}

func (k *Key) prepare(
	random io.Reader, digest []byte, opts crypto.SignerOpts,
) (mechanism uint, input []byte, err error) {
	public, isRSA := k.public.(*rsa.PublicKey)
	if !isRSA {
		return pkcs11.CKM_ECDSA, digest, nil
	}
	if _, isPSS := opts.(*rsa.PSSOptions); isPSS {
		block, err := encodePSS(random, digest, opts.HashFunc(), public)
		return pkcs11.CKM_RSA_X_509, block, err
	}
	input, err = digestInfo(digest, opts.HashFunc())
	return pkcs11.CKM_RSA_PKCS, input, err
}

// keyDigest names a public key: SHA-256 of its SubjectPublicKeyInfo in hex.
func keyDigest(public crypto.PublicKey) string {
	der, err := x509.MarshalPKIXPublicKey(public)
	if err != nil {
		return err.Error()
	}
	sum := sha256.Sum256(der)
	return hex.EncodeToString(sum[:])
}
