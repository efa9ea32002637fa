package main

import (
	"crypto/sha256"
	"crypto/x509"
	"errors"
	"sort"
	"sync"
	"time"
)

// tickInterval is short because time may be put forward.
const tickInterval = 200 * time.Millisecond

// Engine renews certificates when they are due, as the crate cert-renewal of the real services
// does, and stops where that stops. Who calls it holds the mutex of its service.
type Engine struct {
	service Daemon
	list    map[string]*renewing
	log     *Log
	broken  func() Broken
	began   time.Time // by the machine's clock
}

// Renewer is what a service does for a certificate; errors that are no errFatal are retried.
type Renewer interface {
	read() ([]*x509.Certificate, error)
	renew(old []*x509.Certificate) (chain []*x509.Certificate, key string, err error)
	write(old, chain []*x509.Certificate, key string) error
	loadKey() error
}

// errFatal ends the renewal of a certificate until the service starts anew.
type errFatal struct{ text string }

func (e errFatal) Error() string { return e.text }

// renewing is a certificate that is renewed.
type renewing struct {
	id     string
	by     Renewer
	policy Renewal
	next   time.Time
	retry  time.Duration
	digest [sha256.Size]byte
}

func newEngine(service Daemon, log *Log, broken func() Broken) *Engine {
	e := &Engine{service: service, log: log, broken: broken}
	e.clear()
	return e
}

// clear is as the service starts.
func (e *Engine) clear() { e.list, e.began = map[string]*renewing{}, time.Now() }

// stuck says whether the lab wants nothing to be tried for a certificate.
func (e *Engine) stuck(id string) bool {
	broken := e.broken()
	mode := broken.Renewals[id]
	return mode == "never" || mode == "stuck" && e.began.Before(broken.since)
}

// add takes a certificate on; it is renewed at once if that is due.
func (e *Engine) add(id string, policy Renewal, by Renewer) error {
	one := &renewing{id: id, by: by, policy: policy}
	chain, _, err := e.current(one)
	if err != nil {
		return err
	}
	if err := one.reset(chain[0]); err != nil {
		return err
	}
	e.list[id] = one
	e.log.say(e.service, levelInfo, "Certificate %s will be auto-renewed. Next renewal at %s.",
		id, rfc3339(one.next))
	return nil
}

// get is the chain to be used now, renewed before if that is due. A certificate of which the
// renewal has ended is not known here any more.
func (e *Engine) get(id string) ([]*x509.Certificate, error) {
	one := e.list[id]
	if one == nil {
		return nil, errFatal{id + " not found"}
	}
	delete(e.list, id)
	chain, renewed, err := e.current(one)
	if err == nil && renewed {
		err = one.reset(chain[0])
	}
	if err != nil && isFatal(err) {
		return nil, err
	}
	if err != nil {
		one.next = seconds(now().Add(one.retry))
	} else {
		err = one.by.loadKey()
	}
	e.list[id] = one
	return chain, err
}

// current reads a chain and renews it if that is due; to fail in that is no error while the old
// one is valid.
func (e *Engine) current(one *renewing) (chain []*x509.Certificate, renewed bool, err error) {
	if chain, err = one.by.read(); err != nil {
		return nil, false, err
	}
	if one.policy.Threshold.due(chain[0], now()) && !e.stuck(one.id) {
		var fresh []*x509.Certificate
		if fresh, err = e.replace(one, chain); err == nil {
			chain, renewed = fresh, true
		}
	}
	if err != nil && isFatal(err) {
		return nil, false, err
	}
	if !now().Before(chain[0].NotAfter) {
		e.log.say(e.service, levelError, "Cert %s is expired and could not be renewed.", one.id)
		return nil, false, errors.New("Cert " + one.id + " is expired and could not be renewed")
	}
	return chain, renewed, nil
}

// replace is a renewal outside of its time; it says itself what went wrong.
func (e *Engine) replace(
	one *renewing, old []*x509.Certificate,
) ([]*x509.Certificate, error) {
	chain, key, err := e.fresh(one, old)
	if err != nil {
		e.failed(one.id, err)
		if isFatal(err) {
			e.log.say(e.service, levelError,
				"Failed to initialize cert renewal for %s: %v.", one.id, err)
		} else {
			e.log.say(e.service, levelWarn, "Tried to renew %s, but %v.", one.id, err)
		}
		return nil, err
	}
	if err = one.by.write(old, chain, key); err != nil {
		e.failed(one.id, err)
		if isFatal(err) {
			e.log.say(e.service, levelError, "Failed to write new cert %s: %v.", one.id, err)
		} else {
			e.log.say(e.service, levelWarn,
				"Tried to renew %s, but failed to write new cert: %v.", one.id, err)
		}
		return nil, err
	}
	e.log.event("renewed", fields{"cert": one.id, "serial": serial(chain[0])})
	return chain, nil
}

// tick renews what is due. To be called a few times a second: time may be put forward.
func (e *Engine) tick() {
	var due []*renewing
	for _, one := range e.list {
		if !now().Before(one.next) && !e.stuck(one.id) {
			due = append(due, one)
		}
	}
	sort.Slice(due, func(i, j int) bool { return due[i].next.Before(due[j].next) })
	for _, one := range due {
		e.renew(one)
	}
}

func (e *Engine) renew(one *renewing) {
	e.log.say(e.service, levelInfo, "Attempting to renew certificate %s.", one.id)
	err := e.attempt(one)
	switch {
	case err == nil:
		e.log.say(e.service, levelInfo, "Certificate %s was renewed. Next renewal at %s.",
			one.id, rfc3339(one.next))
		return
	case isFatal(err):
		e.log.say(e.service, levelWarn,
			"Tried to renew %s, but %v. %s will no longer be auto-renewed.", one.id, err, one.id)
		delete(e.list, one.id)
		if len(e.list) == 0 {
			e.log.say(e.service, levelInfo, "No certificates left to renew.")
		}
	default:
		one.next = seconds(now().Add(one.retry))
		e.log.say(e.service, levelWarn, "Tried to renew %s, but %v. Retrying at %s.",
			one.id, err, rfc3339(one.next))
	}
	e.failed(one.id, err)
}

func (e *Engine) attempt(one *renewing) error {
	old, err := one.by.read()
	if err != nil {
		return err
	}
	if sha256.Sum256(old[0].Raw) != one.digest {
		return errFatal{"certificate has changed since last renewal"}
	}
	chain, key, err := e.fresh(one, old)
	if err != nil {
		return err
	}
	if err := one.reset(chain[0]); err != nil {
		return errors.New(err.Error()) // the old one is kept for now
	}
	if err := one.by.write(old, chain, key); err != nil {
		return err
	}
	e.log.event("renewed", fields{"cert": one.id, "serial": serial(chain[0])})
	return nil
}

// fresh gets a new certificate, if the lab does not want that to fail.
func (e *Engine) fresh(
	one *renewing, old []*x509.Certificate,
) ([]*x509.Certificate, string, error) {
	switch e.broken().Renewals[one.id] {
	case "retry":
		return nil, "", errors.New("failed to generate temp key")
	case "fatal":
		return nil, "", errFatal{"bad cert"}
	}
	return one.by.renew(old)
}

func (e *Engine) failed(id string, err error) {
	e.log.event("renewal-failed", fields{
		"cert": id, "error": err.Error(), "fatal": isFatal(err),
	})
}

// reset plans the next renewal by a certificate.
func (r *renewing) reset(cert *x509.Certificate) error {
	begin, end := cert.NotBefore, cert.NotAfter
	if !begin.Before(end) {
		return errFatal{"cert not_before is not before not_after"}
	}
	if !now().Before(end) {
		return errFatal{"cannot calculate initial renewal time for expired cert"}
	}
	life := end.Sub(begin)
	next := end.Add(-r.policy.Threshold.Before)
	if share := r.policy.Threshold.Percent; share > 0 {
		next = end.Add(-(life - part(life, share)))
	}
	r.retry = r.policy.Retry.Before
	if share := r.policy.Retry.Percent; share > 0 {
		r.retry = part(life, share)
	}
	r.retry = max(r.retry, time.Second)
	if !now().Before(next) {
		next = seconds(now().Add(r.retry))
	}
	r.next, r.digest = next, sha256.Sum256(cert.Raw)
	return nil
}

// part is a share in percent, in whole seconds.
func part(life time.Duration, percent int64) time.Duration {
	return time.Duration(int64(life/time.Second)*percent/100) * time.Second
}

func seconds(t time.Time) time.Time { return t.UTC().Truncate(time.Second) }

func rfc3339(t time.Time) string { return t.UTC().Format("2006-01-02T15:04:05+00:00") }

func isFatal(err error) bool {
	var fatal errFatal
	return errors.As(err, &fatal)
}

// ticking lets an engine renew what is due, while nobody else is at work in its service.
func ticking(service sync.Locker, engine *Engine) {
	for {
		time.Sleep(tickInterval)
		service.Lock()
		engine.tick()
		service.Unlock()
	}
}
