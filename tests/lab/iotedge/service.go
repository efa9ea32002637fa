package main

import (
	"errors"
	"fmt"
	"net"
	"net/http"
	"os"
	"os/signal"
	"path/filepath"
	"strconv"
	"strings"
	"syscall"
	"time"
)

// serviceVerb starts the service in the foreground; `config apply` runs it detached.
const serviceVerb = "lab service"

// serve runs until a signal, or until the process of die_with_pid is gone.
func serve(lab *Lab) error {
	if err := lab.setModuleEnvironment(); err != nil {
		return err
	}
	lock, err := lockService(lab)
	if err != nil {
		return err
	}
	defer lock.Close()
	log, err := openLog(lab.state("log.jsonl"))
	if err != nil {
		return err
	}
	if log.journal, err = openAppending(lab.state("journal.jsonl")); err != nil {
		return err
	}
	config, _, err := readConfig(lab.state("super.toml"))
	if err != nil {
		return err
	}
	listener, err := listen(lab.Socket)
	if err != nil {
		return err
	}
	go endOnSignal(lab, log)
	go endWith(lab.DieWithPid, lab, log)
	identity := newIdentity(lab, config, log)
	log.event("started", fields{"pid": os.Getpid(), "startup_failure": lab.StartupFailure})
	units := newUnits(lab, identity)
	units.answers = lab.StartupFailure == "answer" || config.unsupported() != nil
	if err := units.listen(); err != nil {
		return err
	}
	units.startAll()
	server := &http.Server{Handler: units, ConnContext: withPeer}
	return server.Serve(listener)
}

// lockService takes the lock that says a service is running; the file holds its pid.
func lockService(lab *Lab) (*os.File, error) {
	file, err := os.OpenFile(lab.state("service.lock"), os.O_CREATE|os.O_RDWR, 0o600)
	if err != nil {
		return nil, err
	}
	for try := 0; ; try++ { // who looks whether a service runs holds the lock for a moment
		err := syscall.Flock(int(file.Fd()), syscall.LOCK_EX|syscall.LOCK_NB)
		if err == nil {
			break
		}
		if try == 100 {
			return nil, fmt.Errorf("a service is running already: %w", err)
		}
		time.Sleep(5 * time.Millisecond)
	}
	if err := file.Truncate(0); err != nil {
		return nil, err
	}
	if _, err := file.WriteString(strconv.Itoa(os.Getpid()) + "\n"); err != nil {
		return nil, err
	}
	return file, nil
}

func listen(socket string) (net.Listener, error) {
	if err := os.MkdirAll(filepath.Dir(socket), 0o755); err != nil {
		return nil, err
	}
	if err := os.Remove(socket); err != nil && !errors.Is(err, os.ErrNotExist) {
		return nil, err
	}
	listener, err := net.Listen("unix", socket)
	if err != nil {
		return nil, err
	}
	return listener, os.Chmod(socket, 0o660)
}

func endOnSignal(lab *Lab, log *Log) {
	signals := make(chan os.Signal, 1)
	signal.Notify(signals, syscall.SIGTERM, syscall.SIGINT)
	end(lab, log, (<-signals).String())
}

// end leaves no session in the TPM: it waits for the operation at hand.
func end(lab *Lab, log *Log, why string) {
	tokenMutex.Lock()
	log.event("stopped", fields{"why": why})
	_ = os.Remove(lab.Socket) // a socket left over is removed at the next start
	os.Exit(0)
}

func endWith(pid int, lab *Lab, log *Log) {
	for pid > 0 {
		if !alive(pid) {
			end(lab, log, fmt.Sprintf("process %d is gone", pid))
		}
		time.Sleep(300 * time.Millisecond)
	}
}

// alive says whether a process runs; one that only waits to be reaped does not.
func alive(pid int) bool {
	text, err := os.ReadFile(fmt.Sprintf("/proc/%d/stat", pid))
	if err != nil {
		return false
	}
	_, rest, _ := strings.Cut(string(text), ") ")
	return !strings.HasPrefix(rest, "Z") && !strings.HasPrefix(rest, "X")
}
