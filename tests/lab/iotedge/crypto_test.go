package main

import (
	"crypto"
	"crypto/rand"
	"crypto/rsa"
	"crypto/sha256"
	"crypto/x509"
	"encoding/json"
	"math/big"
	"net/http/httptest"
	"path/filepath"
	"strings"
	"testing"
	"time"
)

// raw is the RSA operation that a token does with CKM_RSA_X_509.
func raw(key *rsa.PrivateKey, block []byte) []byte {
	out := new(big.Int).Exp(new(big.Int).SetBytes(block), key.D, key.N)
	return out.FillBytes(make([]byte, key.Size()))
}

func TestPSSPaddingVerifies(t *testing.T) {
	for _, bits := range []int{2048, 2049, 1031} { // also where the padding is shorter than the key
		key, err := rsa.GenerateKey(rand.Reader, bits)
		if err != nil {
			t.Fatal(err)
		}
		digest := sha256.Sum256([]byte("text"))
		block, err := encodePSS(rand.Reader, digest[:], crypto.SHA256, &key.PublicKey)
		if err != nil {
			t.Fatal(err)
		}
		options := &rsa.PSSOptions{SaltLength: rsa.PSSSaltLengthEqualsHash}
		err = rsa.VerifyPSS(&key.PublicKey, crypto.SHA256, digest[:], raw(key, block), options)
		if err != nil {
			t.Errorf("%d bits: %v", bits, err)
		}
	}
}

func TestDigestInfoIsThatOfPKCS1(t *testing.T) {
	key, err := rsa.GenerateKey(rand.Reader, 2048)
	if err != nil {
		t.Fatal(err)
	}
	digest := sha256.Sum256([]byte("text"))
	info, err := digestInfo(digest[:], crypto.SHA256)
	if err != nil {
		t.Fatal(err)
	}
	signature, err := rsa.SignPKCS1v15(nil, key, 0, info)
	if err != nil {
		t.Fatal(err)
	}
	if err := rsa.VerifyPKCS1v15(&key.PublicKey, crypto.SHA256, digest[:], signature); err != nil {
		t.Error(err)
	}
}

func TestFilesAreNamedLikeTheRealOnes(t *testing.T) {
	const hash = "c45f3e96a312cc524fecceddbc40dfc2aa789eae911d8bc7dd4eda19b93be900"
	if name := fileName("est-id", ".cer"); name != "estid-"+hash+".cer" {
		t.Error(name)
	}
}

func TestRenewalIsDueByShareOfLifeOrTimeLeft(t *testing.T) {
	start := time.Date(2030, 1, 1, 0, 0, 0, 0, time.UTC)
	cert := &x509.Certificate{NotBefore: start, NotAfter: start.Add(1000 * time.Hour)}
	at := func(hours int) time.Time { return start.Add(time.Duration(hours) * time.Hour) }
	for _, c := range []struct {
		policy string
		hours  int
		due    bool
	}{
		{"80%", 799, false}, {"80%", 800, true}, {"80%", 1000, true}, {"1%", 9, false},
		{"120min", 997, false}, {"120min", 998, true}, {"10day", 759, false}, {"10day", 760, true},
	} {
		policy, err := parsePolicy(c.policy)
		if err != nil {
			t.Fatal(err)
		}
		if due := policy.due(cert, at(c.hours)); due != c.due {
			t.Errorf("%s after %d hours: %v", c.policy, c.hours, due)
		}
	}
}

func TestAPIAnswersLikeTheRealOne(t *testing.T) {
	directory := t.TempDir()
	log, err := openLog(filepath.Join(directory, "log.jsonl"))
	if err != nil {
		t.Fatal(err)
	}
	config, err := parseConfig(attestation)
	if err != nil {
		t.Fatal(err)
	}
	identity := newIdentity(&Lab{StateDir: directory}, config, log)
	for _, c := range []struct {
		method, target string
		status         int
		says           string
	}{
		{"GET", "/identities/provisioning", 400, "api-version not specified"},
		{"GET", "/identities/device?api-version=2019-01-01", 400, `invalid api-version "2019-01-01"`},
		{"GET", "/identities/provisioning?api-version=2020-09-01", 404, "not found"},
		{"PUT", "/identities/provisioning?api-version=2021-12-01", 400, "method not allowed"},
		{"POST", "/identities/device?api-version=2020-09-01", 401, "authorization error"},
		{"GET", "/identities/nothing?api-version=2020-09-01", 404, "not found"},
	} {
		recorder := httptest.NewRecorder()
		identity.ServeHTTP(recorder, httptest.NewRequest(c.method, c.target, strings.NewReader("")))
		var said struct{ Message string }
		err := json.Unmarshal(recorder.Body.Bytes(), &said)
		if err != nil || recorder.Code != c.status || said.Message != c.says {
			t.Errorf("%s %s: %d %s", c.method, c.target, recorder.Code, recorder.Body)
		}
	}
	recorder := httptest.NewRecorder()
	identity.ServeHTTP(recorder,
		httptest.NewRequest("GET", "/identities/provisioning?api-version=2022-08-01", nil))
	const expected = `{"auth":"tpm","endpoint":"https://dps.example/","payload":null,` +
		`"registration_id":"sensor-7","scope_id":"0ne000","source":"dps"}`
	if recorder.Body.String() != expected {
		t.Error(recorder.Body)
	}
}
