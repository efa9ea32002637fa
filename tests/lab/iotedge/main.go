// Command iotedge stands in for Azure IoT Edge in the lab: it takes the real tool's arguments, is
// at least as strict about config.toml as the real one, and then uses what it was given. It signs
// through the PKCS#11 module, enrols certificates over EST and registers at a provisioning service,
// by a certificate or by the TPM, to which it speaks itself.
//
//	iotedge config apply [-c FILE]
//	iotedge system reprovision | restart | stop | status
//	iotedge version
//
// It runs in one of two ways.
//
// Installed: it is invoked as /usr/bin/iotedge (or aziotctl, which knows nothing of edged), or as
// /usr/libexec/aziot-identity-service/aziot-{keyd,certd,identityd,tpmd} or
// /usr/libexec/aziot/aziot-edged. Then all files have the real paths, owners and modes, each
// service is a process of its own user, talks to the others through the real sockets alone, is
// started by systemd and ends when it cannot go on. keyd is the only one that loads the PKCS#11
// module; it has store and TPM from its environment, and keeps its session open. What each is told
// by `config apply` is divided as in the real ones; the form of these files, and of the requests to
// keyd and certd, is the stand-in's own. The evidence is in /var/lib/aziot/SERVICE/log.jsonl. All
// paths may lie below a prefix, found by the invoked path: then every file is the caller's, and
// systemctl cannot reach the machine's services.
//
// In the lab: one detached process plays the four daemons. Its outside is that of aziot-identityd:
// a Unix socket with the same paths, api-version query, JSON and errors. Inside, keys have the ids
// and labels, certificates the file names, and requests the order of the real services.
//
// Certificates are renewed as by the real services, by a timer and when they are used (engine.go),
// with their words in the journal. Invoked as systemctl or journalctl, in the lab, the program shows
// and controls the services it plays (units.go); broken.go says how they can be made to fail.
//
// # Where things are in the lab
//
// A file iotedge-lab.toml says the paths. It lies in the directory of the executable as invoked,
// symbolic links not followed, so that a bin/ directory per device can hold a link to the one built
// program and its own file. No environment variable is read. Keys:
//
//	aziot_dir          plays /etc/aziot: config.toml is in it (required)
//	state_dir          plays /var/lib/aziot; is made, mode 0700 (required). In it: super.toml (the
//	                   applied configuration), certd/certs/, keyd/keys/, identityd/device_info,
//	                   service.lock (held by the service, contains its pid), service.log (its
//	                   stderr), journal.jsonl (what journalctl reads), control.sock, broken.json
//	                   and log.jsonl, the evidence: one JSON object a line, with time, event
//	socket             plays /run/aziot/identityd.sock (required)
//	pkcs11_store       directory, becomes TPM2_PKCS11_STORE of the service
//	pkcs11_tcti        becomes TPM2_PKCS11_TCTI
//	system_store       PEM file of further roots, plays the device's system certificate store
//	poll_interval      between polls of a registration, unless Retry-After says; default "5s"
//	startup_failure    what happens when provisioning fails at start. "restart", the default, is the
//	                   real thing: identityd exits, systemd keeps the socket, so callers wait in
//	                   its queue, unanswered, until a later start succeeds. "answer": requests are
//	                   answered meanwhile ("device identity not found"), attempts go on
//	restart_interval   between those attempts; default "5s", as in the real unit
//	die_with_pid       the service ends when this process is gone
//	clock_file         the time is ahead of the machine's by what this file says (clock.go)
//
// # Where it differs
//
// It is stricter: unknown keys, doubtful URIs, half credentials, a config.toml others may read,
// expired certificates, keys that do not match and labels that are not unique are errors. It has no
// containers, so a change of the hostname is never refused, and does not talk to the hub. The
// Edge CA is there only in the lab, and if configured; services do not watch their files. In the lab
// it does not ask for root or change users. Symmetric keys, manual provisioning and local issuance
// are checked in the configuration, and then provisioning fails; the lab's service then always
// answers: that the device is not provisioned.
package main

import (
	"errors"
	"fmt"
	"os"
	"path/filepath"
	"strings"
)

const usage = "Usage: iotedge config apply [-c FILE] | " +
	"iotedge system reprovision|restart|stop|status | iotedge version"

var errUsage = errors.New("usage")

// errSystem is what the real tool says last when a `system` verb failed; the cause goes before it.
var errSystem = errors.New("Error running system command")

func main() {
	err := run(os.Args)
	if err == nil {
		return
	}
	if errors.Is(err, errUsage) {
		fmt.Fprintf(os.Stderr, "error: unrecognized arguments '%s'\n\n%s\n",
			strings.Join(os.Args[1:], " "), usage)
		os.Exit(2)
	}
	fmt.Fprintf(os.Stderr, "%v\n\n", err)
	os.Exit(1)
}

func run(argv []string) error {
	path, err := invoked(argv[0])
	if err != nil {
		return err
	}
	for _, daemon := range []Daemon{keyd, certd, identityd, tpmd, edged} {
		if filepath.Base(path) == filepath.Base(daemon.program()) {
			return runDaemon(path, daemon)
		}
	}
	if name := filepath.Base(path); name == "systemctl" || name == "journalctl" {
		return tool(name, path, argv[1:])
	}
	verb := strings.Join(argv[1:min(len(argv), 3)], " ")
	rest := argv[min(len(argv), 3):]
	if verb == "version" || verb == "--version" {
		fmt.Println("iotedge 1.6.0 (lab stand-in)")
		return nil
	}
	if tool := findTool(path); tool != nil {
		return tool.run(verb, rest)
	}
	if verb == "config apply" {
		return configApply(path, rest)
	}
	action, known := map[string]func(*Lab) error{
		"system reprovision": systemReprovision,
		"system restart":     systemRestart,
		"system stop":        systemStop,
		"system status":      systemStatus,
		serviceVerb:          serve,
	}[verb]
	if !known || len(rest) > 0 {
		return errUsage
	}
	lab, err := findLab(path)
	if err != nil {
		return err
	}
	return action(lab)
}

// configFile is the file in the arguments of `config apply`, or none.
func configFile(args []string) (string, error) {
	switch {
	case len(args) == 0:
		return "", nil
	case len(args) == 2 && (args[0] == "-c" || args[0] == "--config-file"):
		return args[1], nil
	case len(args) == 1 && strings.HasPrefix(args[0], "--config-file="):
		return strings.TrimPrefix(args[0], "--config-file="), nil
	}
	return "", errUsage
}

func configApply(path string, args []string) error {
	given, err := configFile(args)
	if err != nil {
		return err
	}
	lab, err := findLab(path)
	if err != nil {
		return err
	}
	if given == "" {
		given = filepath.Join(lab.AziotDir, "config.toml")
	}
	if err := apply(lab, given); err != nil {
		return fmt.Errorf("Command failed: %w", err)
	}
	return nil
}
