package main

import (
	"crypto/rand"
	"crypto/x509"
	"encoding/hex"
	"errors"
	"net/http"
	"sync"
	"time"
)

// Units are the services of the lab as systemd would have them. One process plays them all; each
// starts, fails, and is started again for itself.
type Units struct {
	mutex    sync.Mutex
	lab      *Lab
	identity *Identity
	edge     *EdgeCA
	log      *Log
	units    map[string]*Unit
	answers  bool // requests are answered even while aziot-identityd cannot start
}

// Unit is a service as `systemctl show` tells of it.
type Unit struct {
	Name       string // aziot-certd.service
	Active     string
	Sub        string
	Result     string
	Restarts   int
	Invocation string

	daemon Daemon
	start  func() error
	life   int  // counts starts and stops by command
	tried  bool // has once been started, whether or not that worked
}

var daemons = []Daemon{keyd, certd, identityd, tpmd, edged}

func newUnits(lab *Lab, identity *Identity) *Units {
	u := &Units{lab: lab, identity: identity, log: identity.log, units: map[string]*Unit{}}
	inner := identity.certs.(*Certs)
	identity.certs = &gatedCerts{inner, u}
	u.edge = newEdgeCA(identity)
	inside := func(service sync.Locker, start func() error) func() error {
		return func() error {
			service.Lock()
			defer service.Unlock()
			return start()
		}
	}
	starts := map[Daemon]func() error{
		certd:     inside(&inner.mutex, inner.startRenewals),
		identityd: inside(&identity.mutex, identity.begin),
		edged: func() error {
			life := u.life(edged)
			return u.edge.begin(func() bool { return u.life(edged) != life })
		},
	}
	for _, daemon := range daemons {
		start := starts[daemon]
		if start == nil {
			start = func() error { return nil }
		}
		u.units[daemon.service()] = &Unit{
			Name: daemon.service(), Active: "inactive", Sub: "dead", Result: "success",
			daemon: daemon, start: start,
		}
	}
	go ticking(&inner.mutex, inner.engine)
	go ticking(&identity.mutex, identity.engine)
	go ticking(&u.edge.mutex, u.edge.engine)
	return u
}

func (u *Units) life(daemon Daemon) int {
	u.mutex.Lock()
	defer u.mutex.Unlock()
	return u.units[daemon.service()].life
}

// startAll is what `config apply` does; in the end all are up, whoever is started by whom.
func (u *Units) startAll() {
	go func() {
		for _, daemon := range daemons {
			u.up(daemon)
		}
	}()
}

// up starts a service, unless it is up, and returns when that was tried.
func (u *Units) up(daemon Daemon) {
	u.mutex.Lock()
	unit := u.units[daemon.service()]
	if unit.Active != "inactive" {
		u.mutex.Unlock()
		return
	}
	life := u.begun(unit)
	u.mutex.Unlock()
	if !u.attempt(unit, life) {
		go u.again(unit, life)
	}
}

// begun is a start by command; the mutex is held.
func (u *Units) begun(unit *Unit) (life int) {
	unit.life++
	unit.Restarts = 0
	u.launched(unit)
	return unit.life
}

func (u *Units) launched(unit *Unit) {
	text := make([]byte, 16)
	if _, err := rand.Read(text); err != nil {
		panic(err)
	}
	unit.Active, unit.Sub, unit.Result, unit.tried = "active", "running", "success", false
	unit.Invocation = hex.EncodeToString(text)
	u.log.systemd(unit.Name, "Started %s - Azure IoT %s.", unit.Name, unit.daemon.name)
}

// attempt is the start itself; if it fails the service has ended, and systemd waits before it
// starts it again.
func (u *Units) attempt(unit *Unit, life int) bool {
	err := unit.start()
	if contains(readBroken(u.lab.state("broken.json")).Crash, "aziot-"+unit.daemon.name) {
		err = errors.New("the lab wants it")
	}
	u.mutex.Lock()
	defer u.mutex.Unlock()
	if unit.life != life {
		return true // somebody stopped it meanwhile
	}
	unit.tried = true
	if err == nil {
		return true
	}
	unit.Active, unit.Sub, unit.Result = "activating", "auto-restart", "exit-code"
	u.log.say(unit.daemon, levelError, "service encountered an error\n\tcaused by: %v", err)
	u.log.systemd(unit.Name, "%s: Main process exited, code=exited, status=1/FAILURE", unit.Name)
	u.log.systemd(unit.Name, "%s: Failed with result 'exit-code'.", unit.Name)
	return false
}

// again starts a service until that works, as Restart=on-failure does.
func (u *Units) again(unit *Unit, life int) {
	for {
		time.Sleep(u.lab.RestartInterval.Duration)
		served := u.answers && unit.daemon == identityd && u.assigned()
		u.mutex.Lock()
		if unit.life != life {
			u.mutex.Unlock()
			return
		}
		if served {
			unit.Active, unit.Sub, unit.Result = "active", "running", "success"
			u.mutex.Unlock()
			return // a caller asked for provisioning meanwhile, and it worked
		}
		unit.Restarts++
		u.log.systemd(unit.Name, "%s: Scheduled restart job, restart counter is at %d.",
			unit.Name, unit.Restarts)
		u.launched(unit)
		u.mutex.Unlock()
		if u.attempt(unit, life) {
			return
		}
	}
}

func (u *Units) assigned() bool {
	u.identity.mutex.Lock()
	defer u.identity.mutex.Unlock()
	return u.identity.device != nil
}

// down stops a service.
func (u *Units) down(daemon Daemon) {
	u.mutex.Lock()
	unit := u.units[daemon.service()]
	stopped := unit.Active != "inactive"
	unit.life++
	unit.Active, unit.Sub, unit.Result, unit.tried = "inactive", "dead", "success", false
	if stopped {
		u.log.systemd(unit.Name, "Stopped %s - Azure IoT %s.", unit.Name, daemon.name)
	}
	u.mutex.Unlock()
	switch certs := u.identity.certs.(*gatedCerts).Certs; daemon {
	case certd:
		certs.mutex.Lock()
		certs.engine.clear()
		certs.mutex.Unlock()
	case identityd:
		u.identity.mutex.Lock()
		u.identity.engine.clear()
		u.identity.mutex.Unlock()
	case edged:
		u.edge.mutex.Lock()
		u.edge.engine.clear()
		u.edge.mutex.Unlock()
	}
}

// ServeHTTP is the socket of aziot-identityd: systemd's, so callers wait until the service has
// started, which the first of them makes it do.
func (u *Units) ServeHTTP(w http.ResponseWriter, r *http.Request) {
	for !u.ready() {
		select {
		case <-r.Context().Done():
			return
		case <-time.After(20 * time.Millisecond):
		}
	}
	u.identity.ServeHTTP(w, r)
}

func (u *Units) ready() bool {
	u.mutex.Lock()
	defer u.mutex.Unlock()
	unit := u.units[identityd.service()]
	if unit.Active == "inactive" && unit.life > 0 {
		go u.up(identityd)
	}
	return unit.tried && (u.answers || unit.Active == "active")
}

// gatedCerts are certd's certificates behind its socket: the first who asks starts the service, and
// while it cannot start nobody gets an answer.
type gatedCerts struct {
	*Certs
	units *Units
}

func (g *gatedCerts) enter() error {
	g.units.up(certd)
	g.units.mutex.Lock()
	active := g.units.units[certd.service()].Active
	g.units.mutex.Unlock()
	if active != "active" {
		return errors.New("could not connect to aziot-certd")
	}
	g.Certs.mutex.Lock()
	return nil
}

func (g *gatedCerts) read(id string) ([]*x509.Certificate, error) {
	if err := g.enter(); err != nil {
		return nil, err
	}
	defer g.Certs.mutex.Unlock()
	return g.Certs.read(id)
}

func (g *gatedCerts) write(id string, chain []*x509.Certificate) error {
	if err := g.enter(); err != nil {
		return err
	}
	defer g.Certs.mutex.Unlock()
	return g.Certs.write(id, chain)
}

func (g *gatedCerts) remove(id string) error {
	if err := g.enter(); err != nil {
		return err
	}
	defer g.Certs.mutex.Unlock()
	return g.Certs.remove(id)
}

func (g *gatedCerts) issue(
	id string, issuance *Issuance, csr []byte,
) ([]*x509.Certificate, error) {
	if err := g.enter(); err != nil {
		return nil, err
	}
	defer g.Certs.mutex.Unlock()
	return g.Certs.issue(id, issuance, csr)
}
