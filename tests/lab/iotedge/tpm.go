package main

import (
	"encoding/binary"
	"errors"
	"fmt"
	"sync"

	"github.com/google/go-tpm/tpm2"
	"github.com/google/go-tpm/tpm2/transport"
)

// Where the real service keeps what it makes or is sent.
const (
	persistentBase = tpm2.TPMHandle(0x81000000)
	endorsementKey = persistentBase + 0x010001
	storageRootKey = persistentBase + 0x000001
	authKeyIndex   = 0x000100
)

// TPMConfig is the table of aziot-tpmd: [tpm].
type TPMConfig struct {
	TCTI         string
	AuthKeyIndex int64
	Endorsement  string
	Owner        string
}

// TPM plays aziot-tpmd: it attests for this device by its EK, and signs with the key that the
// service at the other end has sent. As the real one it takes what is at the handles it knows, makes
// what is missing, and evicts what is where a key is to be kept.
type TPM struct {
	config TPMConfig
	log    *Log
	mutex  sync.Mutex
}

// TPMService is what aziot-identityd asks of aziot-tpmd.
type TPMService interface {
	publics() (ek, srk []byte, err error)
	importKey(blob []byte) error
	sign(data []byte) ([]byte, error)
}

// use is one use of the TPM, with whatever it needs of it loaded by handle.
type use struct {
	TPMConfig
	chip transport.TPM
	log  *Log
}

// using opens the TPM, and makes EK and SRK as the real service does at its start if they are not
// there.
func (t *TPM) using(do func(*use) error) error {
	t.mutex.Lock()
	defer t.mutex.Unlock()
	chip, closed, err := t.config.open()
	if err != nil {
		return fmt.Errorf("could not initialize TPM: %w", err)
	}
	s := &use{t.config, chip, t.log}
	err = s.ensure(endorsementKey, tpm2.TPMRHEndorsement, t.config.Endorsement, tpm2.RSAEKTemplate)
	if err == nil {
		err = s.ensure(storageRootKey, tpm2.TPMRHOwner, t.config.Owner, tpm2.RSASRKTemplate)
	}
	if err == nil {
		err = do(s)
	}
	return errors.Join(err, closed())
}

// password is the authorization of a hierarchy as the real service has it: as C has its strings.
func password(text string) tpm2.Session { return tpm2.PasswordAuth(append([]byte(text), 0)) }

func (s *use) owner() tpm2.AuthHandle {
	return tpm2.AuthHandle{Handle: tpm2.TPMRHOwner, Auth: password(s.Owner)}
}

// public is what sits at a handle, or nil.
func (s *use) public(handle tpm2.TPMHandle) (*tpm2.ReadPublicResponse, error) {
	found, err := tpm2.ReadPublic{ObjectHandle: handle}.Execute(s.chip)
	if errors.Is(err, tpm2.TPMRCHandle) {
		return nil, nil
	}
	return found, err
}

func (s *use) ensure(
	handle, hierarchy tpm2.TPMHandle, auth string, template tpm2.TPMTPublic,
) error {
	if found, err := s.public(handle); found != nil || err != nil {
		return err
	}
	made, err := tpm2.CreatePrimary{
		PrimaryHandle: tpm2.AuthHandle{Handle: hierarchy, Auth: password(auth)},
		InPublic:      tpm2.New2B(template),
	}.Execute(s.chip)
	if err != nil {
		return fmt.Errorf("could not create %#x: %w", handle, err)
	}
	s.log.event("tpm-made", fields{"handle": fmt.Sprintf("%#x", handle)})
	return s.keep(made.ObjectHandle, made.Name, handle)
}

// keep makes a loaded object persistent, and takes it out of its slot.
func (s *use) keep(loaded tpm2.TPMHandle, name tpm2.TPM2BName, at tpm2.TPMHandle) error {
	_, err := tpm2.EvictControl{
		Auth:             s.owner(),
		ObjectHandle:     tpm2.NamedHandle{Handle: loaded, Name: name},
		PersistentHandle: at,
	}.Execute(s.chip)
	_, flushed := tpm2.FlushContext{FlushHandle: loaded}.Execute(s.chip)
	return errors.Join(err, flushed)
}

// at is the object at a handle, used by its empty password.
func (s *use) at(handle tpm2.TPMHandle) (tpm2.AuthHandle, error) {
	found, err := s.public(handle)
	if err == nil && found == nil {
		err = fmt.Errorf("there is nothing at %#x", handle)
	}
	if err != nil {
		return tpm2.AuthHandle{}, err
	}
	return tpm2.AuthHandle{Handle: handle, Name: found.Name, Auth: tpm2.PasswordAuth(nil)}, nil
}

func (s *use) key() tpm2.TPMHandle {
	return persistentBase + tpm2.TPMHandle(s.AuthKeyIndex)
}

func (t *TPM) publics() (ek, srk []byte, err error) {
	err = t.using(func(s *use) error {
		for handle, out := range map[tpm2.TPMHandle]*[]byte{endorsementKey: &ek, storageRootKey: &srk} {
			found, err := s.public(handle)
			if err != nil {
				return err
			}
			*out = tpm2.Marshal(found.OutPublic)
		}
		return nil
	})
	return ek, srk, err
}

// sign is an HMAC-SHA256 by the key that was imported last.
func (t *TPM) sign(data []byte) (mac []byte, err error) {
	err = t.using(func(s *use) error {
		key, err := s.at(s.key())
		if err != nil {
			return err
		}
		reply, err := tpm2.Hmac{
			Handle: key, Buffer: tpm2.TPM2BMaxBuffer{Buffer: data}, HashAlg: tpm2.TPMAlgSHA256,
		}.Execute(s.chip)
		if err == nil {
			mac = reply.OutHMAC.Buffer
		}
		return err
	})
	return mac, err
}

// importKey evicts the key before, and keeps the one in what the provisioning service sent.
func (t *TPM) importKey(blob []byte) error {
	parts, err := split(blob, 5)
	if err != nil {
		return err
	}
	return t.using(func(s *use) error {
		if err := s.evict(); err != nil {
			return err
		}
		inner, err := s.activate(parts[0], parts[1])
		if err != nil {
			return fmt.Errorf("could not activate: %w", err)
		}
		if err := s.importBelow(inner, parts[2], parts[3], parts[4]); err != nil {
			return fmt.Errorf("could not import: %w", err)
		}
		s.log.event("tpm-key-imported", fields{"handle": fmt.Sprintf("%#x", s.key())})
		return nil
	})
}

// split takes apart so many of the sized structures at the start of a text; what follows is ignored.
func split(blob []byte, count int) ([][]byte, error) {
	var parts [][]byte
	for len(parts) < count {
		if len(blob) < 2 || len(blob)-2 < int(binary.BigEndian.Uint16(blob)) {
			return nil, errors.New("TSS2_MU_RC_INSUFFICIENT_BUFFER")
		}
		end := 2 + int(binary.BigEndian.Uint16(blob))
		parts, blob = append(parts, blob[2:end]), blob[end:]
	}
	return parts, nil
}

func (s *use) evict() error {
	found, err := s.public(s.key())
	if found == nil || err != nil {
		return err
	}
	_, err = tpm2.EvictControl{
		Auth:             s.owner(),
		ObjectHandle:     tpm2.NamedHandle{Handle: s.key(), Name: found.Name},
		PersistentHandle: s.key(),
	}.Execute(s.chip)
	if err != nil {
		s.log.event("warning", fields{"error": "could not evict previous auth key: " + err.Error()})
	}
	return nil
}

// activate opens the key of the inner wrapper: a credential for the SRK in the TPM of this EK.
func (s *use) activate(credential, secret []byte) (inner []byte, err error) {
	ek, err := s.at(endorsementKey)
	if err != nil {
		return nil, err
	}
	srk, err := s.at(storageRootKey)
	if err != nil {
		return nil, err
	}
	policy, closed, err := tpm2.PolicySession(s.chip, tpm2.TPMAlgSHA256, 16)
	if err != nil {
		return nil, err
	}
	ek.Auth = policy
	reply, err := s.activated(srk, ek, policy, credential, secret)
	// A command that fails leaves the session, one that works ends it unless it is to go on.
	if err := errors.Join(err, closed()); err != nil {
		return nil, err
	}
	return reply.CertInfo.Buffer, nil
}

func (s *use) activated(
	srk, ek tpm2.AuthHandle, policy tpm2.Session, credential, secret []byte,
) (*tpm2.ActivateCredentialResponse, error) {
	_, err := tpm2.PolicySecret{
		AuthHandle: tpm2.AuthHandle{
			Handle: tpm2.TPMRHEndorsement, Auth: password(s.Endorsement),
		},
		PolicySession: policy.Handle(),
		NonceTPM:      policy.NonceTPM(),
	}.Execute(s.chip)
	if err != nil {
		return nil, err
	}
	return tpm2.ActivateCredential{
		ActivateHandle: srk,
		KeyHandle:      ek,
		CredentialBlob: tpm2.TPM2BIDObject{Buffer: credential},
		Secret:         tpm2.TPM2BEncryptedSecret{Buffer: secret},
	}.Execute(s.chip)
}

func (s *use) importBelow(inner, duplicate, seed, area []byte) error {
	srk, err := s.at(storageRootKey)
	if err != nil {
		return err
	}
	public := tpm2.BytesAs2B[tpm2.TPMTPublic](area)
	imported, err := tpm2.Import{
		ParentHandle:  srk,
		EncryptionKey: tpm2.TPM2BData{Buffer: inner},
		ObjectPublic:  public,
		Duplicate:     tpm2.TPM2BPrivate{Buffer: duplicate},
		InSymSeed:     tpm2.TPM2BEncryptedSecret{Buffer: seed},
		Symmetric: tpm2.TPMTSymDef{
			Algorithm: tpm2.TPMAlgAES,
			KeyBits:   tpm2.NewTPMUSymKeyBits(tpm2.TPMAlgAES, tpm2.TPMKeyBits(128)),
			Mode:      tpm2.NewTPMUSymMode(tpm2.TPMAlgAES, tpm2.TPMAlgCFB),
		},
	}.Execute(s.chip)
	if err != nil {
		return err
	}
	loaded, err := tpm2.Load{
		ParentHandle: srk, InPrivate: imported.OutPrivate, InPublic: public,
	}.Execute(s.chip)
	if err != nil {
		return err
	}
	return s.keep(loaded.ObjectHandle, loaded.Name, s.key())
}
