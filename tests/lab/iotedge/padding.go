package main

import (
	"crypto"
	"crypto/rsa"
	"crypto/x509/pkix"
	"encoding/asn1"
	"encoding/binary"
	"errors"
	"fmt"
	"io"
)

var hashOIDs = map[crypto.Hash]asn1.ObjectIdentifier{
	crypto.SHA256: {2, 16, 840, 1, 101, 3, 4, 2, 1},
	crypto.SHA384: {2, 16, 840, 1, 101, 3, 4, 2, 2},
	crypto.SHA512: {2, 16, 840, 1, 101, 3, 4, 2, 3},
}

// digestInfo is what PKCS#1 v1.5 pads: RFC 8017 section 9.2, step 2.
func digestInfo(digest []byte, hash crypto.Hash) ([]byte, error) {
	oid, known := hashOIDs[hash]
	if !known {
		return nil, fmt.Errorf("cannot sign a digest of %v", hash)
	}
	return asn1.Marshal(struct {
		Algorithm pkix.AlgorithmIdentifier
		Digest    []byte
	}{pkix.AlgorithmIdentifier{Algorithm: oid, Parameters: asn1.NullRawValue}, digest})
}

// encodePSS is EMSA-PSS-ENCODE of RFC 8017 section 9.1.1 with a salt as long as the digest, padded
// in front to the length of the modulus.
func encodePSS(
	random io.Reader, digest []byte, hash crypto.Hash, key *rsa.PublicKey,
) ([]byte, error) {
	bits := key.N.BitLen() - 1
	length := (bits + 7) / 8
	if length < 2*hash.Size()+2 {
		return nil, errors.New("encoding error: the RSA key is too small for PSS")
	}
	salt := make([]byte, hash.Size())
	if _, err := io.ReadFull(random, salt); err != nil {
		return nil, err
	}
	h := hash.New()
	h.Write(make([]byte, 8))
	h.Write(digest)
	h.Write(salt)
	sum := h.Sum(nil)
	block := make([]byte, length)
	masked := block[:length-len(sum)-1]
	masked[len(masked)-len(salt)-1] = 1
	copy(masked[len(masked)-len(salt):], salt)
	xorMGF1(masked, sum, hash)
	masked[0] &= 0xff >> (8*length - bits)
	copy(block[len(masked):], sum)
	block[length-1] = 0xbc
	return append(make([]byte, key.Size()-length), block...), nil
}

// xorMGF1 masks `out` with MGF1 of RFC 8017 appendix B.2.1.
func xorMGF1(out, seed []byte, hash crypto.Hash) {
	for offset, counter := 0, uint32(0); offset < len(out); counter++ {
		h := hash.New()
		h.Write(seed)
		h.Write(binary.BigEndian.AppendUint32(nil, counter))
		for _, b := range h.Sum(nil) {
			if offset == len(out) {
				break
			}
			out[offset] ^= b
			offset++
		}
	}
}
