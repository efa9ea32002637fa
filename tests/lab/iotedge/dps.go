package main

import (
	"bytes"
	"crypto/x509"
	"encoding/json"
	"errors"
	"fmt"
	"io"
	"net/http"
	"strconv"
	"strings"
	"time"
)

// DPS registers a device at a provisioning service, with an X.509 credential or by its TPM.
type DPS struct {
	endpoint, scope, registration string
	payload                       json.RawMessage
	credential                    *Credential
	tpm                           TPMService // nil where a certificate attests
	token                         string     // Authorization, where the TPM attests
	roots                         *x509.CertPool
	poll                          time.Duration
	log                           *Log
	asked                         bool // whether the service asked for the client certificate
}

// Assignment is what the provisioning service says.
type Assignment struct {
	Hub    string `json:"assignedHub"`
	Device string `json:"deviceId"`
	TPM    *struct {
		Key string `json:"authenticationKey"`
	} `json:"tpm"`
}

const (
	dpsVersion  = "?api-version=2021-06-01"
	maxThrottle = 4
)

func (d *DPS) url(rest string) string {
	return strings.TrimSuffix(d.endpoint, "/") + "/" + d.scope + "/registrations/" +
		d.registration + "/" + rest + dpsVersion
}

func (d *DPS) request() fields {
	body := fields{"registrationId": d.registration}
	if d.payload != nil {
		body["payload"] = d.payload
	}
	return body
}

// register sends the request and polls until the service has decided.
func (d *DPS) register() (*Assignment, error) {
	if d.tpm != nil {
		if err := d.challenge(); err != nil {
			return nil, err
		}
	}
	text, err := json.Marshal(d.request())
	if err != nil {
		return nil, err
	}
	reply, wait, err := d.call(http.MethodPut, d.url("register"), text, http.StatusAccepted)
	if err != nil {
		return nil, err
	}
	var operation struct {
		ID string `json:"operationId"`
	}
	if err := json.Unmarshal(reply, &operation); err != nil || operation.ID == "" {
		return nil, errors.New("the reply to the registration has no operationId")
	}
	for {
		time.Sleep(wait)
		reply, wait, err = d.call(http.MethodGet, d.url("operations/"+operation.ID), nil,
			http.StatusOK, http.StatusAccepted)
		if err != nil {
			return nil, err
		}
		assigned, err := d.decision(reply)
		if assigned != nil {
			err = d.hubKey(assigned)
		}
		if assigned != nil || err != nil {
			return assigned, err
		}
	}
}

// decision reads a status: an assignment, an error, or neither while the service is at it.
func (d *DPS) decision(reply []byte) (*Assignment, error) {
	var status struct {
		Status string          `json:"status"`
		State  json.RawMessage `json:"registrationState"`
	}
	if err := json.Unmarshal(reply, &status); err != nil {
		return nil, err
	}
	switch status.Status {
	case "assigned":
		assigned := &Assignment{}
		if err := json.Unmarshal(status.State, assigned); err != nil {
			return nil, err
		}
		if assigned.Hub == "" || assigned.Device == "" {
			return nil, errors.New("missing field `assignedHub` or `deviceId`")
		}
		return assigned, nil
	case "assigning":
		return nil, nil
	case "failed":
		return nil, serviceError(status.State, "registration failed")
	}
	return nil, fmt.Errorf("unknown variant `%s`", status.Status)
}

// serviceError is the message of an error body, which comes in two spellings.
func serviceError(body []byte, otherwise string) error {
	var fault struct {
		Message      string `json:"message"`
		ErrorMessage string `json:"errorMessage"`
	}
	if err := json.Unmarshal(body, &fault); err == nil && fault.Message+fault.ErrorMessage != "" {
		return errors.New(fault.Message + fault.ErrorMessage)
	}
	return errors.New(otherwise)
}

// call makes one request and waits out throttling. The wait it returns is for the next poll.
func (d *DPS) call(method, url string, body []byte, good ...int) ([]byte, time.Duration, error) {
	for attempt := 0; ; attempt++ {
		response, reply, err := d.once(method, url, body)
		if err != nil {
			return nil, 0, err
		}
		wait := d.retryAfter(response)
		d.log.event("dps", fields{"method": method, "url": url, "status": response.StatusCode})
		if response.StatusCode == http.StatusTooManyRequests && attempt < maxThrottle {
			time.Sleep(wait)
			continue
		}
		for _, status := range good {
			if response.StatusCode == status {
				return reply, wait, nil
			}
		}
		return nil, 0, serviceError(reply, "HTTP error "+response.Status)
	}
}

func (d *DPS) once(method, url string, body []byte) (*http.Response, []byte, error) {
	request, err := http.NewRequest(method, url, bytes.NewReader(body))
	if err != nil {
		return nil, nil, err
	}
	if body != nil {
		request.Header.Set("Content-Type", "application/json")
	}
	if d.token != "" {
		request.Header.Set("Authorization", d.token)
	}
	response, err := newClient(tlsConfig(d.roots, d.credential, &d.asked)).Do(request)
	if err != nil {
		return nil, nil, err
	}
	defer response.Body.Close()
	reply, err := io.ReadAll(io.LimitReader(response.Body, maxReply))
	if err != nil {
		return nil, nil, err
	}
	kind := response.Header.Get("Content-Type")
	if kind != "" && !strings.Contains(strings.ToLower(kind), "application/json") {
		return nil, nil, errors.New("invalid Content-Type; expected JSON")
	}
	return response, reply, nil
}

// retryAfter is the service's wish in seconds, else the interval of the lab.
func (d *DPS) retryAfter(response *http.Response) time.Duration {
	seconds, err := strconv.Atoi(response.Header.Get("Retry-After"))
	if err != nil || seconds < 0 {
		return d.poll
	}
	return time.Duration(seconds) * time.Second
}

// evidence is what is logged of an assignment: where to, and as whom.
func (d *DPS) evidence(assigned *Assignment) fields {
	out := fields{
		"hub": assigned.Hub, "device": assigned.Device, "tls_client_asked": d.asked,
		"hub_key": assigned.TPM != nil,
	}
	if c := d.credential; c != nil {
		out["tls_client"], out["tls_client_serial"] = c.id, serial(c.leaf())
		out["tls_client_spki"], out["chain"] = keyDigest(c.key.public), len(c.chain)
	}
	return out
}
