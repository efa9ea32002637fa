package main

import (
	"bytes"
	"context"
	"encoding/json"
	"errors"
	"fmt"
	"io"
	"net"
	"net/http"
	"os"
	"strconv"
	"strings"
	"syscall"
)

// The services talk among themselves in JSON, one POST for a call; who calls is what the kernel
// says. The paths and contents are the stand-in's own.

// endpoint answers a call of a user.
type endpoint func(uid int, request []byte) (any, error)

// errForbidden is an id that the caller was not granted.
var errForbidden = errors.New("authorization error")

// typed makes an endpoint of a function on a request of type T.
func typed[T any](do func(uid int, request T) (any, error)) endpoint {
	return func(uid int, text []byte) (any, error) {
		var request T
		if err := json.Unmarshal(text, &request); err != nil {
			return nil, err
		}
		return do(uid, request)
	}
}

// handler serves the endpoints by their paths. What fails is told to the caller, and
// logged, unless something is only not there.
func handler(endpoints map[string]endpoint, log *Log) http.Handler {
	return http.HandlerFunc(func(w http.ResponseWriter, r *http.Request) {
		status, out := http.StatusOK, any(nil)
		uid := caller(r)
		do := endpoints[r.URL.Path]
		body, err := io.ReadAll(io.LimitReader(r.Body, maxReply))
		if err == nil && do == nil {
			err = errors.New("not supported by this stand-in")
		}
		if err == nil {
			out, err = do(uid, body)
		}
		switch {
		case errors.Is(err, errNotFound):
			status = http.StatusNotFound
		case errors.Is(err, errForbidden):
			status = http.StatusForbidden
		case err != nil:
			status = http.StatusInternalServerError
		}
		if err != nil {
			out = fields{"message": err.Error()}
		}
		if err != nil && status != http.StatusNotFound {
			log.event("refused", fields{"path": r.URL.Path, "uid": uid, "error": err.Error()})
		}
		w.Header().Set("Content-Type", "application/json")
		w.WriteHeader(status)
		if err := json.NewEncoder(w).Encode(out); err != nil {
			log.event("warning", fields{"error": err.Error()})
		}
	})
}

// unixClient reaches whatever host is named through one socket.
func unixClient(socket string) *http.Client {
	return &http.Client{Timeout: callPatience, Transport: &http.Transport{
		DisableKeepAlives: true,
		DialContext: func(ctx context.Context, _, _ string) (net.Conn, error) {
			return (&net.Dialer{}).DialContext(ctx, "unix", socket)
		},
	}}
}

// call asks a service; its refusal is the error, and a missing thing is errNotFound.
func call(socket, path string, request, into any) error {
	text, err := json.Marshal(request)
	if err != nil {
		return err
	}
	response, err := unixClient(socket).Post("http://unix"+path, "application/json",
		bytes.NewReader(text))
	if err != nil {
		return err
	}
	defer response.Body.Close()
	reply, err := io.ReadAll(io.LimitReader(response.Body, maxReply))
	if err != nil {
		return err
	}
	if response.StatusCode == http.StatusOK {
		return json.Unmarshal(reply, into)
	}
	var fault struct{ Message string }
	if err := json.Unmarshal(reply, &fault); err != nil || fault.Message == "" {
		return fmt.Errorf("%s: %s", path, response.Status)
	}
	if response.StatusCode == http.StatusNotFound {
		return fmt.Errorf("%w (%s)", errNotFound, fault.Message)
	}
	return errors.New(fault.Message)
}

// incoming is the socket that systemd passes (sd_listen_fds(3)), else one made at its path.
func incoming(path string) (net.Listener, error) {
	pid, _ := strconv.Atoi(os.Getenv("LISTEN_PID"))
	count, _ := strconv.Atoi(os.Getenv("LISTEN_FDS"))
	if pid != os.Getpid() || count == 0 {
		return listen(path)
	}
	if count > 1 {
		return nil, fmt.Errorf("%d sockets were passed, expected one", count)
	}
	const first = 3 // SD_LISTEN_FDS_START
	syscall.CloseOnExec(first)
	file := os.NewFile(first, strings.TrimSuffix(path, ".sock"))
	defer file.Close()
	return net.FileListener(file)
}
