package main

import (
	"bytes"
	"errors"
	"fmt"
	"io"
	"net"
	"net/http"
	"os"
	"os/exec"
	"strconv"
	"strings"
	"syscall"
	"time"
)

const (
	stopPatience  = 15 * time.Second
	startPatience = 10 * time.Second
	callPatience  = 10 * time.Minute // of the real client, for a service that waits out throttling
)

// apply checks the super-config, keeps it for the service and restarts that. Like the real one it
// does not wait for provisioning and knows nothing of its outcome.
func apply(lab *Lab, file string) error {
	config, text, err := readConfig(file)
	if err != nil {
		return err
	}
	warnHTTP(config)
	if err := os.MkdirAll(lab.StateDir, 0o700); err != nil {
		return err
	}
	if err := writeConfig(lab.state("super.toml"), text); err != nil {
		return err
	}
	fmt.Println("Azure IoT Edge has been configured successfully!")
	fmt.Println()
	fmt.Println("Restarting service for configuration to take effect...")
	if err := systemRestart(lab); err != nil {
		return err
	}
	fmt.Println("Done.")
	return nil
}

func warnHTTP(config *Config) {
	urls := map[string]string{"": ""}
	for id, url := range config.EST.URLs {
		urls[id] = url
	}
	if config.Identity.Issued != nil {
		urls["identity_cert"] = config.Identity.Issued.URL
	}
	for _, url := range urls {
		if strings.HasPrefix(url, "http:") {
			fmt.Fprintf(os.Stderr, "Warning: EST server URL %q is configured with unencrypted HTTP, "+
				"which may expose device to man-in-the-middle attacks.\n", url)
		}
	}
}

func writeConfig(path string, text []byte) error {
	if err := os.WriteFile(path+".new", text, 0o600); err != nil {
		return err
	}
	return os.Rename(path+".new", path)
}

func systemRestart(lab *Lab) error {
	if err := systemStop(lab); err != nil {
		return err
	}
	fmt.Print("Starting aziot-edged.service...")
	if err := startService(lab); err != nil {
		fmt.Println()
		fmt.Fprintf(os.Stderr, "Failed to start the service: %v\n", err)
		return errSystem
	}
	fmt.Println("Started!")
	return nil
}

func systemStop(lab *Lab) error {
	fmt.Print("Stopping aziot-edged.service...")
	if err := stopService(lab); err != nil {
		fmt.Println()
		fmt.Fprintf(os.Stderr, "Failed to stop the service: %v\n", err)
		return errSystem
	}
	fmt.Println("Stopped!")
	return nil
}

func systemStatus(lab *Lab) error {
	state := "Running"
	if runningService(lab) == 0 {
		state = "Down"
	}
	fmt.Printf("System services:\n    aziot-edged             %s\n    aziot-identityd         %s\n",
		state, state)
	return nil
}

// runningService is the pid of the service, or 0: the lock tells, not the pid in the file.
func runningService(lab *Lab) int {
	file, err := os.Open(lab.state("service.lock"))
	if err != nil {
		return 0
	}
	defer file.Close()
	if syscall.Flock(int(file.Fd()), syscall.LOCK_SH|syscall.LOCK_NB) == nil {
		return 0
	}
	text := make([]byte, 20)
	n, _ := file.Read(text) // an empty file is no pid
	pid, _ := strconv.Atoi(strings.TrimSpace(string(text[:n])))
	return pid
}

func stopService(lab *Lab) error {
	deadline := time.Now().Add(stopPatience)
	sent := 0
	for {
		pid := runningService(lab)
		if pid == 0 {
			return nil
		}
		if pid != sent {
			if err := syscall.Kill(pid, syscall.SIGTERM); err != nil && err != syscall.ESRCH {
				return err
			}
			sent = pid
		}
		if time.Now().After(deadline) {
			return syscall.Kill(pid, syscall.SIGKILL)
		}
		time.Sleep(5 * time.Millisecond)
	}
}

// startService runs the service detached, in a session of its own, and waits for its socket.
func startService(lab *Lab) error {
	if _, err := os.Stat(lab.state("super.toml")); err != nil {
		return err
	}
	out, err := os.OpenFile(lab.state("service.log"), os.O_CREATE|os.O_TRUNC|os.O_RDWR, 0o600)
	if err != nil {
		return err
	}
	defer out.Close()
	command := exec.Command(lab.invoked, strings.Fields(serviceVerb)...)
	command.Dir = "/"
	command.Env = []string{"PATH=" + os.Getenv("PATH"), "LANG=C.UTF-8"}
	command.Stdout, command.Stderr = out, out
	command.SysProcAttr = &syscall.SysProcAttr{Setsid: true}
	if err := command.Start(); err != nil {
		return err
	}
	ended := make(chan error, 1)
	go func() { ended <- command.Wait() }()
	return awaitSocket(lab, ended, out)
}

func awaitSocket(lab *Lab, ended <-chan error, out *os.File) error {
	for deadline := time.Now().Add(startPatience); time.Now().Before(deadline); {
		if conn, err := net.Dial("unix", lab.Socket); err == nil {
			return conn.Close()
		}
		select {
		case <-ended:
			text, _ := os.ReadFile(out.Name()) // without the text the failure is told all the same
			return fmt.Errorf("it ended: %s", bytes.TrimSpace(text))
		case <-time.After(5 * time.Millisecond):
		}
	}
	return fmt.Errorf("its socket %s does not answer", lab.Socket)
}

// systemReprovision says what the real one says: of a refusal only the HTTP status.
func systemReprovision(lab *Lab) error {
	if err := postReprovision(lab.Socket); err != nil {
		fmt.Fprintf(os.Stderr, "Failed to reprovision: %v\n", err)
		return errSystem
	}
	fmt.Println("Successfully reprovisioned with IoT Hub.")
	fmt.Println("Stopping aziot-edged.service...Stopped!")
	fmt.Println("Starting aziot-edged.service...Started!")
	return nil
}

func postReprovision(socket string) error {
	response, err := unixClient(socket).Post(
		"http://identityd.sock/identities/device/reprovision?api-version=2020-09-01",
		"application/json", strings.NewReader(`{"type":"aziot"}`))
	if err != nil {
		return err
	}
	defer response.Body.Close()
	if _, err := io.Copy(io.Discard, response.Body); err != nil {
		return err
	}
	if response.StatusCode != http.StatusNoContent {
		return errors.New("unexpected HTTP status code: " + response.Status)
	}
	return nil
}
