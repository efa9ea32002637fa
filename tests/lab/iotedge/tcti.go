package main

import (
	"encoding/binary"
	"errors"
	"fmt"
	"io"
	"net"
	"os"
	"strings"
	"syscall"
	"time"

	"github.com/google/go-tpm/tpm2/transport"
)

const patience = 30 * time.Second

// wire is a TPM behind a socket that takes turns: one connection for one command.
type wire struct{ network, address string }

func (w wire) Send(command []byte) ([]byte, error) {
	connection, err := w.dial()
	if err != nil {
		return nil, err
	}
	defer connection.Close()
	if _, err := connection.Write(command); err != nil {
		return nil, err
	}
	head := make([]byte, 10) // tag, size of the whole, code: TPM 2.0 Library, part 1, 18.3
	if _, err := io.ReadFull(connection, head); err != nil {
		return nil, err
	}
	size := binary.BigEndian.Uint32(head[2:])
	if size < 10 || size > 1<<16 {
		return nil, fmt.Errorf("a response of %d bytes", size)
	}
	reply := append(head, make([]byte, size-10)...)
	_, err = io.ReadFull(connection, reply[10:])
	return reply, err
}

// dial waits where others stand in line already, as connect(2) does; Go's sockets never block.
func (w wire) dial() (net.Conn, error) {
	end := time.Now().Add(patience)
	for {
		connection, err := net.Dial(w.network, w.address)
		if !errors.Is(err, syscall.EAGAIN) || time.Now().After(end) {
			return connection, err
		}
		time.Sleep(10 * time.Millisecond)
	}
}

// node is a character device: the kernel's resource manager knows its clients by their open files.
type node struct{ file *os.File }

func (n node) Send(command []byte) ([]byte, error) {
	if _, err := n.file.Write(command); err != nil {
		return nil, err
	}
	reply := make([]byte, 1<<16)
	count, err := n.file.Read(reply)
	return reply[:count], err
}

// open reaches the TPM by a TCTI as tpm2-tss writes it.
func (c TPMConfig) open() (transport.TPM, func() error, error) {
	none := func() error { return nil }
	kind, conf, _ := strings.Cut(c.TCTI, ":")
	switch kind {
	case "device", "":
		if conf == "" {
			conf = "/dev/tpmrm0"
		}
		file, err := os.OpenFile(conf, os.O_RDWR, 0)
		if err != nil {
			return nil, nil, err
		}
		return node{file}, file.Close, nil
	case "swtpm":
		network, address := "tcp", map[string]string{"host": "127.0.0.1", "port": "2321"}
		for _, pair := range strings.Split(conf, ",") {
			key, value, _ := strings.Cut(pair, "=")
			address[key] = value
		}
		if path := address["path"]; path != "" {
			return wire{"unix", path}, none, nil
		}
		return wire{network, net.JoinHostPort(address["host"], address["port"])}, none, nil
	}
	return nil, nil, fmt.Errorf("the lab has no TCTI %q", kind)
}
