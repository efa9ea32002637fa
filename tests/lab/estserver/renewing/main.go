// Command renewing is an EST server for years of virtual time: GlobalSign's library answers, behind
// it a CA that does what a file says, from one request to the next. It ends TLS itself, since the
// library renews only for who shows the certificate to be renewed.
//
//	renewing PORT CONTROL.json LOG.jsonl [CLOCK]
//
// CONTROL.json is described by the type Control, the log by the type Request. CLOCK is a file whose
// first eight bytes say how many seconds the time is ahead of the machine's.
package main

import (
	"fmt"
	"net/http"
	"os"
	"time"
)

func main() {
	if err := run(os.Args[1:]); err != nil {
		fmt.Fprintln(os.Stderr, err)
		os.Exit(1)
	}
}

func run(args []string) error {
	if len(args) != 3 && len(args) != 4 {
		return fmt.Errorf("usage: renewing PORT CONTROL.json LOG.jsonl [CLOCK]")
	}
	if len(args) == 4 {
		clockFile = args[3]
	}
	log, err := os.OpenFile(args[2], os.O_CREATE|os.O_APPEND|os.O_WRONLY, 0o600)
	if err != nil {
		return err
	}
	service := &Service{control: args[1], log: &Log{file: log}}
	if _, err := readControl(service.control); err != nil {
		return err
	}
	server := &http.Server{
		Addr:              "127.0.0.1:" + args[0],
		Handler:           service,
		TLSConfig:         service.tls(),
		ReadHeaderTimeout: 30 * time.Second,
	}
	return server.ListenAndServeTLS("", "")
}
