package main

import (
	"encoding/base64"
	"encoding/json"
	"errors"
	"fmt"
	"net/http"
	"net/url"
	"strings"
	"time"
)

// The steps of a registration that are there for attestation by TPM alone.

// tokenLife is the real service's: a clock that is slower by more makes tokens born expired.
const tokenLife = 30 * time.Second

// challenge shows EK and SRK, and imports the key that comes back with the refusal.
func (d *DPS) challenge() error {
	ek, srk, err := d.tpm.publics()
	if err != nil {
		return fmt.Errorf("could not get TPM keys: %w", err)
	}
	body := d.request()
	body["tpm"] = fields{
		"endorsementKey": base64.StdEncoding.EncodeToString(ek),
		"storageRootKey": base64.StdEncoding.EncodeToString(srk),
	}
	text, err := json.Marshal(body)
	if err != nil {
		return err
	}
	reply, _, err := d.call(http.MethodPut, d.url("register"), text, http.StatusUnauthorized)
	if err != nil {
		return err
	}
	var found struct {
		Key string `json:"authenticationKey"`
	}
	if err := json.Unmarshal(reply, &found); err != nil {
		return err
	}
	if found.Key == "" {
		return serviceError(reply, "missing field `authenticationKey`")
	}
	if err := d.importKey(found.Key); err != nil {
		return err
	}
	d.token, err = sasToken(d.tpm, d.scope+"/registrations/"+d.registration)
	return err
}

func (d *DPS) importKey(text string) error {
	blob, err := base64.StdEncoding.DecodeString(text)
	if err != nil {
		return err
	}
	if err := d.tpm.importKey(blob); err != nil {
		return fmt.Errorf("could not import auth key: %w", err)
	}
	return nil
}

// sasToken is an Authorization header for the registration, signed by the key imported last.
func sasToken(tpm TPMService, audience string) (string, error) {
	resource := escaped(strings.ToLower(audience))
	expiry := fmt.Sprint(now().Add(tokenLife).Unix())
	signature, err := tpm.sign([]byte(resource + "\n" + expiry))
	if err != nil {
		return "", fmt.Errorf("could not sign with auth key: %w", err)
	}
	sig := url.QueryEscape(base64.StdEncoding.EncodeToString(signature))
	return "SharedAccessSignature sr=" + resource + "&sig=" + sig + "&se=" + expiry +
		"&skn=registration", nil
}

// escaped escapes what the real service does: the set of a path (WHATWG URL, 1.3), and the equals
// sign. Slashes stay, as the provisioning service and the hub do not mind.
func escaped(text string) string {
	var out strings.Builder
	for _, each := range []byte(text) {
		if each <= ' ' || each > '~' || strings.IndexByte("\"#<>?`{}=", each) >= 0 {
			fmt.Fprintf(&out, "%%%02X", each)
		} else {
			out.WriteByte(each)
		}
	}
	return out.String()
}

// hubKey keeps the key for the hub in place of that for the registration.
func (d *DPS) hubKey(assigned *Assignment) error {
	switch {
	case assigned.TPM == nil:
		return nil
	case d.tpm == nil:
		return errors.New("a key was sent that nobody asked for")
	}
	return d.importKey(assigned.TPM.Key)
}
