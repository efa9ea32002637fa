package main

import (
	"errors"
	"fmt"
	"io"
	"net/http"
	"os"
	"os/signal"
	"path/filepath"
	"strings"
	"syscall"
	"time"
)

// pollDPS is the real service's, unless Retry-After says otherwise.
const pollDPS = 5 * time.Second

// runDaemon is a service from start to end. It fails as the real ones do, at once, without its
// configuration, or if what it needs at start is not there; systemd starts it again.
func runDaemon(path string, daemon Daemon) error {
	layout, err := findLayout(path, daemon.program())
	if err != nil {
		return err
	}
	log, err := openLog(filepath.Join(layout.home(daemon), "log.jsonl"))
	if err != nil {
		return err
	}
	groups, err := os.Getgroups()
	if err != nil {
		return err
	}
	log.event("started", fields{
		"pid": os.Getpid(), "uid": os.Getuid(), "gid": os.Getgid(), "groups": groups,
		"sockets": os.Getenv("LISTEN_FDS"),
	})
	if err := serveAs(layout, daemon, log); err != nil {
		log.event("failed", fields{"error": err.Error()})
		return err
	}
	return nil
}

func serveAs(layout Layout, daemon Daemon, log *Log) error {
	if daemon == edged {
		return runEdged(layout, log)
	}
	serve := map[Daemon]func(Layout, *Log) (http.Handler, error){
		keyd: serveKeys, certd: serveCerts, identityd: serveIdentity, tpmd: serveTPM,
	}[daemon]
	handler, err := serve(layout, log)
	if err != nil {
		return err
	}
	listener, err := incoming(layout.socket(daemon))
	if err != nil {
		return err
	}
	log.event("serving", fields{"socket": listener.Addr().String()})
	return (&http.Server{Handler: handler, ConnContext: withPeer}).Serve(listener)
}

// serveIdentity plays aziot-identityd, which provisions before it serves, and ends if it cannot.
func serveIdentity(layout Layout, log *Log) (http.Handler, error) {
	var file IdentitydFile
	if err := readFiles(layout, identityd, &file); err != nil {
		return nil, err
	}
	identity := &Identity{
		config: file.config(), info: filepath.Join(layout.home(identityd), "device_info"),
		system: []string{layout.trustStore()}, poll: pollDPS, log: log,
		keys:    &RemoteKeys{layout.socket(keyd)},
		certs:   &RemoteCerts{layout.socket(certd)},
		tpm:     &RemoteTPM{layout.socket(tpmd)},
		callers: append(file.Callers, 0),
		engine:  newEngine(identityd, log, whole), torn: func(string) {},
	}
	if err := identity.begin(); err != nil {
		return nil, fmt.Errorf("failed to provision with IoT Hub, and no valid device backup "+
			"was found: %w", err)
	}
	go ticking(&identity.mutex, identity.engine)
	return identity, nil
}

// runEdged plays aziot-edged: it asks who the device is, and then stays. It runs no modules.
func runEdged(layout Layout, log *Log) error {
	if err := readFiles(layout, edged, &OtherFile{}); err != nil {
		return err
	}
	stop := make(chan os.Signal, 1)
	signal.Notify(stop, syscall.SIGTERM, syscall.SIGINT)
	failed := make(chan error, 1)
	go func() {
		identity, err := askIdentity(layout.socket(identityd))
		if err != nil {
			failed <- fmt.Errorf("failed to obtain device identity: %w", err)
			return
		}
		log.event("identity", fields{"answer": identity})
	}()
	select {
	case err := <-failed:
		return err
	case got := <-stop:
		log.event("stopped", fields{"why": got.String()})
		return nil
	}
}

func askIdentity(socket string) (string, error) {
	response, err := unixClient(socket).Post(
		"http://identityd.sock/identities/device?api-version=2020-09-01",
		"application/json", strings.NewReader(`{"type":"aziot"}`))
	if err != nil {
		return "", err
	}
	defer response.Body.Close()
	text, err := io.ReadAll(io.LimitReader(response.Body, maxReply))
	if err == nil && response.StatusCode != http.StatusOK {
		err = errors.New(response.Status)
	}
	return string(text), err
}
