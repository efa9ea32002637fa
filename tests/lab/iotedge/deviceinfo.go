package main

import (
	"errors"
	"os"
	"path/filepath"

	"github.com/BurntSushi/toml"
)

// readInfo takes the assignment of an earlier run, if there is one.
func (i *Identity) readInfo() bool {
	device := &Device{}
	_, err := toml.DecodeFile(i.info, device)
	if err != nil || device.Hub == "" || device.DeviceID == "" {
		return false
	}
	i.device = device
	return true
}

func (i *Identity) writeInfo() error {
	if err := os.MkdirAll(filepath.Dir(i.info), 0o700); err != nil {
		return err
	}
	file, err := os.OpenFile(i.info, os.O_CREATE|os.O_TRUNC|os.O_WRONLY, 0o600)
	if err != nil {
		return err
	}
	return firstOf(toml.NewEncoder(file).Encode(i.device), file.Close())
}

func (i *Identity) forget() error {
	i.device = nil
	if err := os.Remove(i.info); err != nil && !errors.Is(err, os.ErrNotExist) {
		return err
	}
	return nil
}
