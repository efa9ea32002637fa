package main

import (
	"errors"
	"fmt"
	"os"
	"os/exec"
	"path/filepath"
	"strings"
)

// Tool is iotedge or aziotctl where it is installed among the services it controls.
type Tool struct {
	layout Layout
	edge   bool // iotedge, so aziot-edged is one of the services
}

// findTool is the tool invoked as `path`, or nil if it is not installed in a bin directory.
func findTool(path string) *Tool {
	name := filepath.Base(path)
	layout, err := findLayout(path, "/usr/bin/"+name)
	if err != nil && path == "/bin/"+name { // the same directory on a merged /usr
		layout, err = Layout{}, nil
	}
	if err != nil || name != "iotedge" && name != "aziotctl" {
		return nil
	}
	return &Tool{layout: layout, edge: name == "iotedge"}
}

func (t *Tool) run(verb string, rest []string) error {
	if verb == "config apply" {
		file, err := configFile(rest)
		if err != nil {
			return err
		}
		if file == "" {
			file = t.layout.path("/etc/aziot/config.toml")
		}
		if err := t.apply(file); err != nil {
			return fmt.Errorf("Command failed: %w", err)
		}
		return nil
	}
	if verb == "system logs" {
		return t.logs(rest)
	}
	action, known := map[string]func() error{
		"system reprovision": t.reprovision,
		"system restart":     t.restart,
		"system stop":        t.stop,
		"system status":      t.status,
	}[verb]
	if !known || len(rest) > 0 {
		return errUsage
	}
	return action()
}

// apply checks the super-config, writes the services' files, and restarts them. Systemd's failures
// are told and make no difference to the exit status.
func (t *Tool) apply(file string) error {
	if t.layout.prefix == "" && os.Getuid() != 0 {
		return errors.New("this command must be run as root")
	}
	users := map[Daemon]int{}
	for _, daemon := range t.daemons() {
		uid, _, err := t.layout.account(daemon)
		if err != nil {
			return err
		}
		users[daemon] = uid
	}
	config, _, err := readConfig(file)
	if err != nil {
		return err
	}
	warnHTTP(config)
	var callers []int
	if t.edge {
		callers = []int{users[edged]}
	}
	content := map[Daemon]any{
		keyd:      config.keydFile(users[certd], users[identityd]),
		certd:     config.certdFile(users[identityd]),
		identityd: config.identitydFile(callers...),
		tpmd:      config.TPM,
		edged:     OtherFile{Configured: true},
	}
	for _, daemon := range t.daemons() {
		if err := writeFile(t.layout, daemon, content[daemon]); err != nil {
			return err
		}
	}
	fmt.Print("Azure IoT Edge has been configured successfully!\n\n" +
		"Restarting service for configuration to take effect...\n")
	if err := t.restart(); err != nil {
		return err
	}
	fmt.Println("Done.")
	return nil
}

// daemons are the services in the order of the real tools; the first one is started by name, the
// others by their sockets.
func (t *Tool) daemons() []Daemon {
	if t.edge {
		return []Daemon{edged, identityd, keyd, certd, tpmd}
	}
	return []Daemon{identityd, keyd, certd, tpmd}
}

func (d Daemon) service() string { return "aziot-" + d.name + ".service" }

func (d Daemon) sockets() []string {
	if d == edged {
		return []string{"aziot-edged.mgmt.socket", "aziot-edged.workload.socket"}
	}
	return []string{"aziot-" + d.name + ".socket"}
}

func (t *Tool) restart() error { return t.restartThese(t.daemons()) }

func (t *Tool) restartThese(daemons []Daemon) error {
	if err := t.stopThese(daemons); err != nil {
		return err
	}
	for _, daemon := range daemons {
		for _, socket := range daemon.sockets() {
			if err := t.systemctl("start", socket); err != nil {
				return err
			}
		}
	}
	return t.systemctl("start", daemons[0].service())
}

func (t *Tool) stop() error { return t.stopThese(t.daemons()) }

func (t *Tool) stopThese(daemons []Daemon) error {
	for _, daemon := range daemons {
		if err := t.systemctl("stop", daemon.service()); err != nil {
			return err
		}
	}
	return nil
}

// command is systemctl; below a prefix it can refuse to act, but not act on the machine's services.
func (t *Tool) command(arguments ...string) *exec.Cmd {
	if t.layout.prefix != "" {
		arguments = append([]string{"--root=" + t.layout.prefix}, arguments...)
	}
	return exec.Command("systemctl", arguments...)
}

// systemctl fails only if there is no systemctl.
func (t *Tool) systemctl(verb, unit string) error {
	doing := map[string]string{"start": "Starting", "stop": "Stopping"}[verb]
	fmt.Printf("%s %s...", doing, unit)
	out, err := t.command(verb, unit).CombinedOutput()
	var failed *exec.ExitError
	switch {
	case err == nil:
		fmt.Println(map[string]string{"start": "Started!", "stop": "Stopped!"}[verb])
	case errors.As(err, &failed):
		fmt.Fprintf(os.Stderr, "systemctl exited with non-zero status code.\n%s\n", out)
	default:
		fmt.Fprintf(os.Stderr, "Failed to call systemctl %s: %v\n", verb, err)
		return errSystem
	}
	return nil
}

func (t *Tool) status() error {
	fmt.Println("System services:")
	for _, daemon := range t.daemons() {
		out, err := t.command("is-active", daemon.service()).Output()
		var failed *exec.ExitError
		if err != nil && !errors.As(err, &failed) {
			fmt.Fprintf(os.Stderr, "Failed to call systemctl is-active: %v\n", err)
			return errSystem
		}
		said := strings.TrimSpace(string(out))
		shown, usual := map[string]string{"active": "Running", "inactive": "Ready"}[said]
		if !usual {
			shown = "Down - " + said
		}
		fmt.Printf("    %-24s%s\n", "aziot-"+daemon.name, shown)
	}
	return nil
}

func (t *Tool) logs(rest []string) error {
	var arguments []string
	for _, daemon := range t.daemons() {
		arguments = append(arguments, "-u", daemon.service())
	}
	command := exec.Command("journalctl", append(arguments, rest...)...)
	command.Stdout, command.Stderr = os.Stdout, os.Stderr
	if err := command.Run(); err != nil {
		fmt.Fprintln(os.Stderr, err)
		return errSystem
	}
	return nil
}

func (t *Tool) reprovision() error {
	if err := postReprovision(t.layout.socket(identityd)); err != nil {
		fmt.Fprintf(os.Stderr, "Failed to reprovision: %v\n", err)
		return errSystem
	}
	fmt.Println("Successfully reprovisioned with IoT Hub.")
	if !t.edge {
		return nil
	}
	return t.restartThese([]Daemon{edged})
}
