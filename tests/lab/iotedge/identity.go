package main

import (
	"crypto/x509"
	"encoding/json"
	"errors"
	"fmt"
	"os"
	"sync"
	"time"
)

// Identity plays aziot-identityd: it gets the device its identity and knows where it was assigned.
type Identity struct {
	mutex  sync.Mutex // one request at a time, as the real one
	config *Config
	info   string // the file that keeps the assignment
	system []string
	poll   time.Duration
	keys   KeyService
	certs  CertService
	tpm    TPMService
	log    *Log
	device *Device

	callers []int // user ids that may ask for the device's identity
	engine  *Engine
	torn    func(id string)
}

// Device is the assignment, in the form of the real device_info file.
type Device struct {
	Hub      string `toml:"hub_name"`
	Gateway  string `toml:"local_gateway_hostname"`
	DeviceID string `toml:"device_id"`
}

// errInternal is all that callers of the API learn of errors of this kind.
type errInternal struct{ cause error }

func (e errInternal) Error() string { return e.cause.Error() }

// errDPS is told to callers with its cause.
type errDPS struct{ cause error }

func (e errDPS) Error() string { return "DPS client error\ncaused by: " + e.cause.Error() }

func newIdentity(lab *Lab, config *Config, log *Log) *Identity {
	certs, keys := config.preloads()
	var system []string
	if lab.SystemStore != "" {
		system = []string{lab.SystemStore}
	}
	store := &Keys{store: config.Keys, preloaded: keys, home: lab.state("keyd"), log: log}
	broken := func() Broken { return readBroken(lab.state("broken.json")) }
	torn := func(id string) {
		if contains(broken().Tear, id) {
			end(lab, log, "the power goes while "+id+" is renewed")
		}
	}
	return &Identity{
		config: config, info: lab.state("identityd", "device_info"), system: system,
		poll: lab.PollInterval.Duration, keys: store, log: log,
		tpm:     &TPM{config: config.TPM, log: log},
		callers: []int{0, os.Getuid()}, torn: torn, engine: newEngine(identityd, log, broken),
		certs: &Certs{
			est: &config.EST, preloaded: certs, home: lab.state("certd"), system: system,
			keys: store, log: log, torn: torn, engine: newEngine(certd, log, broken),
			issued: map[string]*Issuance{
				deviceID: config.Identity.Issued, edgeCA: config.EdgeCA,
			},
		},
	}
}

// unsupported says what the stand-in cannot do of what the configuration asks for.
func (c *Config) unsupported() error {
	switch {
	case c.Source == "manual":
		return errors.New("the lab does not support manual provisioning")
	case c.Source == "dps" && c.Method == "symmetric_key":
		return fmt.Errorf("the lab does not support attestation by %s", c.Method)
	case c.Identity.Issued != nil && c.Identity.Issued.Method != "est":
		return fmt.Errorf("the lab cannot issue by method %s", c.Identity.Issued.Method)
	}
	return nil
}

// provision gets the credential in any case, and asks the provisioning service unless an earlier
// answer is kept and `keep` says to be content with it.
func (i *Identity) provision(reason string, keep bool) error {
	i.log.event("provisioning", fields{"reason": reason})
	err := i.provisionOnce(keep)
	if err != nil {
		i.log.event("provisioning-failed", fields{"reason": reason, "error": err.Error()})
		i.log.say(identityd, levelError, "Failed to provision with IoT Hub, and no valid device "+
			"backup was found: %v", err)
		return err
	}
	if i.device != nil {
		i.log.event("provisioned", fields{
			"hub": i.device.Hub, "device": i.device.DeviceID, "reason": reason,
			"registration": i.config.RegistrationID, "scope": i.config.IDScope,
		})
	}
	return nil
}

func (i *Identity) provisionOnce(keep bool) error {
	if i.config.Source == "none" {
		return nil
	}
	if err := i.config.unsupported(); err != nil {
		return errDPS{err}
	}
	if i.config.Method == "tpm" {
		if keep && i.readInfo() {
			return nil
		}
		return i.assign(nil)
	}
	credential, err := i.credential()
	if err != nil {
		return errInternal{fmt.Errorf("could not create certificate: %w", err)}
	}
	if i.config.RegistrationID == "" {
		i.config.RegistrationID = credential.leaf().Subject.CommonName
	}
	if i.config.RegistrationID == "" {
		return errInternal{errors.New("identity certificate missing common name")}
	}
	if keep && i.readInfo() {
		return nil
	}
	return i.assign(credential)
}

// assign registers the device: by a certificate, or, without one, by the TPM.
func (i *Identity) assign(credential *Credential) error {
	roots, err := rootPool(i.system...)
	if err != nil {
		return errInternal{err}
	}
	payload, err := i.payload()
	if err != nil {
		return errInternal{err}
	}
	dps := &DPS{
		endpoint: i.config.Endpoint, scope: i.config.IDScope, registration: i.config.RegistrationID,
		payload: payload, credential: credential, roots: roots,
		poll: i.poll, log: i.log,
	}
	if credential == nil {
		dps.tpm = i.tpm
	}
	assigned, err := dps.register()
	if err != nil {
		return errDPS{err}
	}
	i.log.event("assigned", dps.evidence(assigned))
	i.device = &Device{Hub: assigned.Hub, Gateway: assigned.Hub, DeviceID: assigned.Device}
	if err := i.writeInfo(); err != nil {
		return errInternal{fmt.Errorf("could not save device information state: %w", err)}
	}
	return nil
}

func (i *Identity) payload() (json.RawMessage, error) {
	if i.config.Payload == "" {
		return nil, nil
	}
	text, err := os.ReadFile(i.config.Payload)
	if err == nil && !json.Valid(text) {
		err = fmt.Errorf("%s is not JSON", i.config.Payload)
	}
	return text, err
}

// reprovision forgets the assignment and asks anew, whether or not that succeeds.
func (i *Identity) reprovision() error {
	if err := i.forget(); err != nil {
		i.log.event("warning", fields{"error": err.Error()})
	}
	return i.provision("Api", false)
}

// reprovisionAs does the same with a credential that is not in its place yet.
func (i *Identity) reprovisionAs(credential *Credential) error {
	if err := i.forget(); err != nil {
		i.log.event("warning", fields{"error": err.Error()})
	}
	i.log.event("provisioning", fields{"reason": "Api"})
	if err := i.assign(credential); err != nil {
		i.log.event("provisioning-failed", fields{"reason": "Api", "error": err.Error()})
		return err
	}
	return nil
}

// begin is the start of the service: the device identity is got, taken on for renewal if that is
// wanted, and registered unless it is.
func (i *Identity) begin() error {
	i.engine.clear()
	i.device = nil
	if err := i.startRenewal(); err != nil {
		i.log.event("provisioning-failed", fields{"reason": "Startup", "error": err.Error()})
		return err
	}
	return i.provision("Startup", true)
}

func (i *Identity) startRenewal() error {
	issued := i.config.Identity.Issued
	if i.config.Source != "dps" || i.config.unsupported() != nil || issued == nil ||
		issued.Renew == nil {
		return nil
	}
	chain, err := i.certs.read(deviceID)
	if err == nil && chain == nil {
		_, err = i.firstCredential(issued)
	}
	if err != nil {
		return errInternal{fmt.Errorf("could not create certificate: %w", err)}
	}
	by := &deviceRenewer{identity: i, issued: issued}
	if err := i.engine.add(deviceID, *issued.Renew, by); err != nil {
		return errInternal{fmt.Errorf("could not create certificate: %w", err)}
	}
	return nil
}

// credential is the device identity, renewed before if need be.
func (i *Identity) credential() (*Credential, error) {
	issued := i.config.Identity.Issued
	if issued == nil {
		return credential(i.certs, i.keys, deviceID)
	}
	if issued.Renew != nil {
		chain, err := i.engine.get(deviceID)
		if err != nil {
			return nil, err
		}
		key, err := i.keys.load(deviceID)
		if err != nil {
			return nil, err
		}
		return matching(deviceID, chain, key)
	}
	chain, err := i.certs.read(deviceID)
	if err != nil {
		return nil, err
	}
	if chain == nil {
		return i.firstCredential(issued)
	}
	return credential(i.certs, i.keys, deviceID)
}

func (i *Identity) firstCredential(issued *Issuance) (*Credential, error) {
	key, err := i.keys.create(deviceID, algorithmRSA)
	if err != nil {
		return nil, err
	}
	chain, err := i.issue(deviceID, issued, i.subject(issued), key)
	return &Credential{id: deviceID, chain: chain, key: key}, err
}

func (i *Identity) issue(
	id string, issued *Issuance, subject []byte, key *Key,
) ([]*x509.Certificate, error) {
	csr, err := newCSR(subject, nil, key)
	if err != nil {
		return nil, err
	}
	return i.certs.issue(id, issued, csr)
}

// subject is that of the CSR: the registration ID as common name, and what else is configured.
func (i *Identity) subject(issued *Issuance) []byte {
	return encodeSubject(i.config.RegistrationID, issued.Subject)
}
