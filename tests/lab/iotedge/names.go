package main

import (
	"crypto/x509"
	"crypto/x509/pkix"
	"encoding/asn1"
	"fmt"
	"sort"
	"strings"
)

func serial(cert *x509.Certificate) string { return fmt.Sprintf("%x", cert.SerialNumber) }

// clientAuth is the one extension of an EST identity's CSR.
func clientAuth() []pkix.Extension {
	value, err := asn1.Marshal([]asn1.ObjectIdentifier{{1, 3, 6, 1, 5, 5, 7, 3, 2}})
	if err != nil {
		panic(err)
	}
	return []pkix.Extension{{Id: asn1.ObjectIdentifier{2, 5, 29, 37}, Value: value}}
}

// attributeOID knows the names people use in subjects.
func attributeOID(name string) asn1.ObjectIdentifier {
	return map[string]asn1.ObjectIdentifier{
		"CN": {2, 5, 4, 3}, "SERIALNUMBER": {2, 5, 4, 5}, "C": {2, 5, 4, 6}, "L": {2, 5, 4, 7},
		"ST": {2, 5, 4, 8}, "STREET": {2, 5, 4, 9}, "O": {2, 5, 4, 10}, "OU": {2, 5, 4, 11},
		"DC": {0, 9, 2342, 19200300, 100, 1, 25},
	}[strings.ToUpper(name)]
}

// encodeSubject is a DER name: the common name, cut at 64 characters, then the rest by name.
func encodeSubject(commonName string, rest map[string]string) []byte {
	var names []string
	for name := range rest {
		names = append(names, name)
	}
	sort.Strings(names)
	sequence := pkix.RDNSequence{}
	add := func(name, value string) {
		if strings.EqualFold(name, "CN") {
			value = string([]rune(value)[:min(len([]rune(value)), 64)])
		}
		sequence = append(sequence, pkix.RelativeDistinguishedNameSET{
			{Type: attributeOID(name), Value: value},
		})
	}
	if commonName != "" {
		add("CN", commonName)
	}
	for _, name := range names {
		if commonName == "" || !strings.EqualFold(name, "CN") {
			add(name, rest[name])
		}
	}
	der, err := asn1.Marshal(sequence)
	if err != nil {
		panic(err) // only strings are encoded
	}
	return der
}
