package main

import (
	"crypto/hmac"
	"crypto/sha256"
	"encoding/base64"
	"fmt"
	"net/url"
	"strings"
	"testing"
)

type signer struct{ key []byte }

func (signer) publics() (ek, srk []byte, err error) { return nil, nil, nil }
func (signer) importKey([]byte) error               { return nil }

func (s signer) sign(data []byte) ([]byte, error) {
	mac := hmac.New(sha256.New, s.key)
	mac.Write(data)
	return mac.Sum(nil), nil
}

func TestTokenIsSignedAsItIsWritten(t *testing.T) {
	key := signer{[]byte("of DPS")}
	header, err := sasToken(key, "0ne00AB/registrations/Device:1=x")
	if err != nil {
		t.Fatal(err)
	}
	text := strings.TrimPrefix(header, "SharedAccessSignature ")
	if !strings.HasPrefix(text, "sr=0ne00ab/registrations/device:1%3Dx&sig=") {
		t.Error(header)
	}
	values, err := url.ParseQuery(text)
	if err != nil || values.Get("skn") != "registration" {
		t.Fatal(header, err)
	}
	signed := fmt.Sprintf("0ne00ab/registrations/device:1%%3Dx\n%s", values.Get("se"))
	mac, _ := key.sign([]byte(signed))
	if values.Get("sig") != base64.StdEncoding.EncodeToString(mac) {
		t.Error("signed something else")
	}
}

func TestBlobIsTakenApartAndItsTrailerIgnored(t *testing.T) {
	parts, err := split([]byte("\x00\x01a\x00\x00\x00\x02bctrailer"), 3)
	if err != nil || string(parts[0])+"|"+string(parts[1])+"|"+string(parts[2]) != "a||bc" {
		t.Error(parts, err)
	}
	for _, cut := range []string{"", "\x00", "\x00\x03ab"} {
		if _, err := split([]byte(cut), 1); err == nil {
			t.Errorf("%q was taken", cut)
		}
	}
}
