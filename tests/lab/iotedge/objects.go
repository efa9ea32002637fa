package main

import (
	"crypto"
	"crypto/ecdsa"
	"crypto/elliptic"
	"crypto/rsa"
	"encoding/asn1"
	"errors"
	"fmt"
	"math/big"

	"github.com/miekg/pkcs11"
)

// find is the one object of a class with a label.
func (s session) find(class uint, label string) (pkcs11.ObjectHandle, error) {
	template := []*pkcs11.Attribute{
		pkcs11.NewAttribute(pkcs11.CKA_CLASS, class),
		pkcs11.NewAttribute(pkcs11.CKA_LABEL, label),
	}
	if err := s.module.FindObjectsInit(s.handle, template); err != nil {
		return 0, fmt.Errorf("C_FindObjectsInit failed with %w", err)
	}
	found, _, err := s.module.FindObjects(s.handle, 2)
	if err = firstOf(err, s.module.FindObjectsFinal(s.handle)); err != nil {
		return 0, fmt.Errorf("C_FindObjects failed with %w", err)
	}
	switch len(found) {
	case 0:
		return 0, errNotFound
	case 1:
		return found[0], nil
	}
	return 0, fmt.Errorf("more than one object with the label %q", label)
}

// public is the public half of the pair with a label; the private half has to be there too.
func (s session) public(label string) (crypto.PublicKey, error) {
	handle, err := s.find(pkcs11.CKO_PUBLIC_KEY, label)
	if err != nil {
		return nil, err
	}
	if _, err := s.find(pkcs11.CKO_PRIVATE_KEY, label); err != nil {
		return nil, err
	}
	kinds, err := s.module.GetAttributeValue(s.handle, handle,
		[]*pkcs11.Attribute{pkcs11.NewAttribute(pkcs11.CKA_KEY_TYPE, nil)})
	if err != nil {
		return nil, fmt.Errorf("C_GetAttributeValue(CKA_KEY_TYPE) failed with %w", err)
	}
	switch littleEndian(kinds[0].Value) {
	case pkcs11.CKK_RSA:
		return s.publicRSA(handle)
	case pkcs11.CKK_EC:
		return s.publicEC(handle)
	}
	return nil, errors.New("key is neither RSA nor EC")
}

func (s session) publicRSA(handle pkcs11.ObjectHandle) (crypto.PublicKey, error) {
	values, err := s.module.GetAttributeValue(s.handle, handle, []*pkcs11.Attribute{
		pkcs11.NewAttribute(pkcs11.CKA_MODULUS, nil),
		pkcs11.NewAttribute(pkcs11.CKA_PUBLIC_EXPONENT, nil),
	})
	if err != nil {
		return nil, fmt.Errorf("could not get key pair parameters: %w", err)
	}
	exponent := new(big.Int).SetBytes(values[1].Value)
	return &rsa.PublicKey{N: new(big.Int).SetBytes(values[0].Value), E: int(exponent.Int64())}, nil
}

var oidP256 = asn1.ObjectIdentifier{1, 2, 840, 10045, 3, 1, 7}

func (s session) publicEC(handle pkcs11.ObjectHandle) (crypto.PublicKey, error) {
	values, err := s.module.GetAttributeValue(s.handle, handle, []*pkcs11.Attribute{
		pkcs11.NewAttribute(pkcs11.CKA_EC_PARAMS, nil),
		pkcs11.NewAttribute(pkcs11.CKA_EC_POINT, nil),
	})
	if err != nil {
		return nil, fmt.Errorf("could not get key pair parameters: %w", err)
	}
	curves := map[string]elliptic.Curve{
		oidP256.String(): elliptic.P256(), "1.3.132.0.34": elliptic.P384(),
	}
	var oid asn1.ObjectIdentifier
	if _, err := asn1.Unmarshal(values[0].Value, &oid); err != nil {
		return nil, fmt.Errorf("CKA_EC_PARAMS is not a named curve: %w", err)
	}
	curve := curves[oid.String()]
	if curve == nil {
		return nil, fmt.Errorf("key curve %s not recognized", oid)
	}
	var point []byte
	if _, err := asn1.Unmarshal(values[1].Value, &point); err != nil {
		return nil, fmt.Errorf("CKA_EC_POINT is not an octet string: %w", err)
	}
	size := (curve.Params().BitSize + 7) / 8
	if len(point) != 1+2*size || point[0] != 4 {
		return nil, errors.New("CKA_EC_POINT is not an uncompressed point")
	}
	key := &ecdsa.PublicKey{
		Curve: curve,
		X:     new(big.Int).SetBytes(point[1 : 1+size]),
		Y:     new(big.Int).SetBytes(point[1+size:]),
	}
	if _, err := key.ECDH(); err != nil {
		return nil, errors.New("CKA_EC_POINT is not on its curve")
	}
	return key, nil
}

// generate makes a pair with the attributes the real service asks for.
func (s session) generate(algorithm, label string) error {
	mechanism := uint(pkcs11.CKM_EC_KEY_PAIR_GEN)
	oid, err := asn1.Marshal(oidP256)
	if err != nil {
		return err
	}
	public := []*pkcs11.Attribute{pkcs11.NewAttribute(pkcs11.CKA_EC_PARAMS, oid)}
	if algorithm == algorithmRSA {
		mechanism = pkcs11.CKM_RSA_PKCS_KEY_PAIR_GEN
		public = []*pkcs11.Attribute{
			pkcs11.NewAttribute(pkcs11.CKA_MODULUS_BITS, 2048),
			pkcs11.NewAttribute(pkcs11.CKA_PUBLIC_EXPONENT, []byte{1, 0, 1}),
		}
	}
	public = append(public,
		pkcs11.NewAttribute(pkcs11.CKA_ENCRYPT, true),
		pkcs11.NewAttribute(pkcs11.CKA_PRIVATE, false),
		pkcs11.NewAttribute(pkcs11.CKA_TOKEN, true),
		pkcs11.NewAttribute(pkcs11.CKA_VERIFY, true),
		pkcs11.NewAttribute(pkcs11.CKA_LABEL, label))
	private := []*pkcs11.Attribute{
		pkcs11.NewAttribute(pkcs11.CKA_DECRYPT, true),
		pkcs11.NewAttribute(pkcs11.CKA_PRIVATE, true),
		pkcs11.NewAttribute(pkcs11.CKA_SENSITIVE, true),
		pkcs11.NewAttribute(pkcs11.CKA_SIGN, true),
		pkcs11.NewAttribute(pkcs11.CKA_TOKEN, true),
		pkcs11.NewAttribute(pkcs11.CKA_LABEL, label),
	}
	_, _, err = s.module.GenerateKeyPair(s.handle,
		[]*pkcs11.Mechanism{pkcs11.NewMechanism(mechanism, nil)}, public, private)
	if err != nil {
		return fmt.Errorf("could not generate key pair: C_GenerateKeyPair failed with %w", err)
	}
	return nil
}

// each runs `do` on both halves of a pair, if they are there.
func (s session) each(label string, do func(pkcs11.ObjectHandle) error) error {
	for _, class := range []uint{pkcs11.CKO_PUBLIC_KEY, pkcs11.CKO_PRIVATE_KEY} {
		handle, err := s.find(class, label)
		if errors.Is(err, errNotFound) {
			continue
		}
		if err != nil {
			return err
		}
		if err := do(handle); err != nil {
			return err
		}
	}
	return nil
}

func (s session) destroy(label string) error {
	return s.each(label, func(handle pkcs11.ObjectHandle) error {
		if err := s.module.DestroyObject(s.handle, handle); err != nil {
			return fmt.Errorf("C_DestroyObject failed with %w", err)
		}
		return nil
	})
}

func (s session) rename(from, to string) error {
	return s.each(from, func(handle pkcs11.ObjectHandle) error {
		label := []*pkcs11.Attribute{pkcs11.NewAttribute(pkcs11.CKA_LABEL, to)}
		if err := s.module.SetAttributeValue(s.handle, handle, label); err != nil {
			return fmt.Errorf("C_SetAttributeValue failed with %w", err)
		}
		return nil
	})
}

func (s session) sign(label string, mechanism uint, input []byte) ([]byte, error) {
	handle, err := s.find(pkcs11.CKO_PRIVATE_KEY, label)
	if err != nil {
		return nil, err
	}
	list := []*pkcs11.Mechanism{pkcs11.NewMechanism(mechanism, nil)}
	if err := s.module.SignInit(s.handle, list, handle); err != nil {
		return nil, fmt.Errorf("C_SignInit failed with %w", err)
	}
	signature, err := s.module.Sign(s.handle, input)
	if err != nil {
		return nil, fmt.Errorf("C_Sign failed with %w", err)
	}
	return signature, nil
}

func littleEndian(value []byte) (out uint) {
	for i := len(value) - 1; i >= 0; i-- {
		out = out<<8 | uint(value[i])
	}
	return out
}
