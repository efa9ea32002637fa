package main

import (
	"encoding/json"
	"errors"
	"fmt"
	"os"
	"time"
)

// Broken is how the lab wants the services to fail: broken.json in the state directory, read each
// time it matters.
//
//	{"renewals": {"est-id": "retry"}, "crash": ["aziot-certd"], "tear": ["device-id"]}
type Broken struct {
	// Renewals by certificate: "retry" fails each time and goes on trying, "fatal" fails once and
	// for all, "never" does not try and says nothing, "stuck" is the same until its service starts
	// anew.
	Renewals map[string]string `json:"renewals"`
	// Crash are services that end as soon as they are started, and are started again.
	Crash []string `json:"crash"`
	// Tear are certificates at whose renewal the power goes: certificate written, key not yet moved.
	Tear []string `json:"tear"`

	since time.Time // by the machine's clock
}

// whole is nothing broken, where the services are separate and each can be broken for itself.
func whole() Broken { return Broken{} }

// readBroken is the content of the file; there being none is the usual case.
func readBroken(path string) Broken {
	var broken Broken
	text, err := os.ReadFile(path)
	if errors.Is(err, os.ErrNotExist) {
		return broken
	}
	if err == nil {
		err = json.Unmarshal(text, &broken)
	}
	if info, missing := os.Stat(path); missing == nil {
		broken.since = info.ModTime()
	}
	if err != nil {
		panic(fmt.Sprintf("%s: %v", path, err)) // whoever wrote it expects it to matter
	}
	return broken
}
