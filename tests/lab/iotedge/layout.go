package main

import (
	"fmt"
	"os"
	"os/exec"
	"os/user"
	"path/filepath"
	"strconv"
	"strings"
)

// Layout is where an installation has its files: at the real paths, below a prefix for tests. The
// prefix is what stands in front of the real path of the program as invoked.
type Layout struct{ prefix string }

// A Daemon is a service that runs as a user of its own.
type Daemon struct{ name, user string }

var (
	keyd      = Daemon{"keyd", "aziotks"}
	certd     = Daemon{"certd", "aziotcs"}
	identityd = Daemon{"identityd", "aziotid"}
	tpmd      = Daemon{"tpmd", "aziottpm"}
	edged     = Daemon{"edged", "iotedge"}
)

// superConfig is the file of a service that `config apply` writes.
const superConfig = "00-super.toml"

func (d Daemon) program() string {
	if d == edged {
		return "/usr/libexec/aziot/aziot-edged"
	}
	return "/usr/libexec/aziot-identity-service/aziot-" + d.name
}

// invoked is the absolute path of the program `argv0`, searched in $PATH as a shell would.
// Symbolic links are not followed.
func invoked(argv0 string) (string, error) {
	if strings.Contains(argv0, "/") {
		return filepath.Abs(argv0)
	}
	found, err := exec.LookPath(argv0)
	if err != nil {
		return "", fmt.Errorf("cannot find myself as %q: %w", argv0, err)
	}
	return filepath.Abs(found)
}

// findLayout takes the real path off the end of the invoked one.
func findLayout(invoked, real string) (Layout, error) {
	prefix, found := strings.CutSuffix(invoked, real)
	if !found {
		return Layout{}, fmt.Errorf("%s is not installed as %s", invoked, real)
	}
	return Layout{prefix}, nil
}

func (l Layout) path(real string) string { return l.prefix + real }

func (l Layout) etc(d Daemon) string { return l.path("/etc/aziot/" + d.name) }

func (l Layout) superConfig(d Daemon) string {
	return filepath.Join(l.etc(d), "config.d", superConfig)
}

func (l Layout) home(d Daemon) string { return l.path("/var/lib/aziot/" + d.name) }

func (l Layout) socket(d Daemon) string { return l.path("/run/aziot/" + d.name + ".sock") }

// trustStore is what OpenSSL trusts on Debian.
func (l Layout) trustStore() string { return l.path("/etc/ssl/certs/ca-certificates.crt") }

// account is the numeric user and group of a service; below a prefix everything is the caller's.
func (l Layout) account(d Daemon) (uid, gid int, err error) {
	if l.prefix != "" {
		return os.Getuid(), os.Getgid(), nil
	}
	found, err := user.Lookup(d.user)
	if err != nil {
		return 0, 0, fmt.Errorf("could not query %s user information: %w", d.user, err)
	}
	if uid, err = strconv.Atoi(found.Uid); err != nil {
		return 0, 0, err
	}
	gid, err = strconv.Atoi(found.Gid)
	return uid, gid, err
}
