package main

import (
	"errors"
	"fmt"
	"os"
	"path/filepath"
	"time"

	"github.com/BurntSushi/toml"
)

// Lab is the content of iotedge-lab.toml; main.go describes the fields.
type Lab struct {
	AziotDir        string   `toml:"aziot_dir"`
	StateDir        string   `toml:"state_dir"`
	Socket          string   `toml:"socket"`
	PKCS11Store     string   `toml:"pkcs11_store"`
	PKCS11TCTI      string   `toml:"pkcs11_tcti"`
	SystemStore     string   `toml:"system_store"`
	PollInterval    duration `toml:"poll_interval"`
	StartupFailure  string   `toml:"startup_failure"`
	RestartInterval duration `toml:"restart_interval"`
	DieWithPid      int      `toml:"die_with_pid"`
	ClockFile       string   `toml:"clock_file"`

	invoked string // the program as invoked, absolute, so that the service finds the same file
}

type duration struct{ time.Duration }

func (d *duration) UnmarshalText(text []byte) (err error) {
	d.Duration, err = time.ParseDuration(string(text))
	return err
}

// findLab reads the file beside the program invoked as `path`.
func findLab(path string) (*Lab, error) {
	lab, err := readLab(filepath.Join(filepath.Dir(path), "iotedge-lab.toml"))
	if err != nil {
		return nil, err
	}
	lab.invoked, clockFile = path, lab.ClockFile
	return lab, nil
}

func readLab(file string) (*Lab, error) {
	lab := &Lab{
		PollInterval:    duration{5 * time.Second},
		StartupFailure:  "restart",
		RestartInterval: duration{5 * time.Second},
	}
	meta, err := toml.DecodeFile(file, lab)
	if err != nil {
		return nil, fmt.Errorf("cannot read the lab's settings %s: %w", file, err)
	}
	if unknown := meta.Undecoded(); len(unknown) > 0 {
		return nil, fmt.Errorf("cannot read the lab's settings %s: unknown %v", file, unknown)
	}
	if err := lab.check(); err != nil {
		return nil, fmt.Errorf("cannot use the lab's settings %s: %w", file, err)
	}
	return lab, nil
}

func (l *Lab) check() error {
	for name, path := range map[string]string{
		"aziot_dir": l.AziotDir, "state_dir": l.StateDir, "socket": l.Socket,
	} {
		if !filepath.IsAbs(path) {
			return fmt.Errorf("%s must be an absolute path, not %q", name, path)
		}
	}
	if l.StartupFailure != "restart" && l.StartupFailure != "answer" {
		return fmt.Errorf("startup_failure must be restart or answer, not %q", l.StartupFailure)
	}
	if l.PollInterval.Duration <= 0 || l.RestartInterval.Duration <= 0 {
		return errors.New("poll_interval and restart_interval must be positive")
	}
	return nil
}

// state is a path in the state directory.
func (l *Lab) state(elements ...string) string {
	return filepath.Join(append([]string{l.StateDir}, elements...)...)
}

// setModuleEnvironment says to libtpm2_pkcs11, in this process alone, where its store and TPM are.
func (l *Lab) setModuleEnvironment() error {
	for name, value := range map[string]string{
		"TPM2_PKCS11_STORE":     l.PKCS11Store,
		"TPM2_PKCS11_TCTI":      l.PKCS11TCTI,
		"TPM2_PKCS11_BACKEND":   "esysdb",
		"TPM2_PKCS11_LOG_LEVEL": "0",
		"TSS2_LOG":              "all+none",
	} {
		if value == "" {
			continue
		}
		if err := os.Setenv(name, value); err != nil {
			return err
		}
	}
	return nil
}
