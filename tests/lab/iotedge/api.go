package main

import (
	"context"
	"encoding/json"
	"errors"
	"fmt"
	"io"
	"net"
	"net/http"
	"net/url"
	"slices"
	"strings"
	"syscall"
)

type uidKey struct{}

// withPeer keeps the caller's user id, as the kernel says it, for the handlers.
func withPeer(ctx context.Context, conn net.Conn) context.Context {
	uid := -1
	if unix, right := conn.(*net.UnixConn); right {
		if raw, err := unix.SyscallConn(); err == nil {
			_ = raw.Control(func(fd uintptr) {
				cred, err := syscall.GetsockoptUcred(int(fd), syscall.SOL_SOCKET, syscall.SO_PEERCRED)
				if err == nil {
					uid = int(cred.Uid)
				}
			})
		}
	}
	return context.WithValue(ctx, uidKey{}, uid)
}

// caller is the user id that withPeer kept, or -1: nobody.
func caller(r *http.Request) int {
	if uid, known := r.Context().Value(uidKey{}).(int); known {
		return uid
	}
	return -1
}

type reply struct {
	status int
	body   any
}

func failed(status int, message string) reply { return reply{status, fields{"message": message}} }

// route is a path of the API: the version that brought it and its methods.
type route struct {
	since   string
	private bool // for some users
	methods map[string]func([]byte) reply
}

var apiVersions = []string{"2020-09-01", "2021-12-01", "2022-08-01"}

func (i *Identity) routes() map[string]route {
	type methods = map[string]func([]byte) reply
	return map[string]route{
		"/identities/provisioning":       {"2021-12-01", false, methods{"GET": i.getProvisioning}},
		"/identities/device":             {"2020-09-01", true, methods{"POST": i.postDevice}},
		"/identities/identity":           {"2020-09-01", true, methods{"GET": i.getDevice}},
		"/identities/device/reprovision": {"2020-09-01", true, methods{"POST": i.postReprovision}},
	}
}

// ServeHTTP answers as aziot-identityd does.
func (i *Identity) ServeHTTP(w http.ResponseWriter, r *http.Request) {
	body, err := io.ReadAll(io.LimitReader(r.Body, maxReply))
	var out reply
	if err != nil {
		out = failed(http.StatusBadRequest, err.Error())
	} else {
		out = i.answer(r, body)
	}
	i.log.event("api", fields{"method": r.Method, "path": r.URL.Path, "status": out.status})
	if out.body == nil {
		w.WriteHeader(out.status)
		return
	}
	text, err := json.Marshal(out.body)
	if err != nil {
		panic(err) // only strings are answered
	}
	w.Header().Set("Content-Type", "application/json")
	w.WriteHeader(out.status)
	if _, err := w.Write(text); err != nil {
		i.log.event("warning", fields{"error": err.Error()})
	}
}

func (i *Identity) answer(r *http.Request, body []byte) reply {
	version := query(r.URL.RawQuery).Get("api-version")
	if version == "" {
		return failed(http.StatusBadRequest, "api-version not specified")
	}
	if !contains(apiVersions, version) {
		return failed(http.StatusBadRequest, fmt.Sprintf("invalid api-version %q", version))
	}
	found, known := i.routes()[r.URL.Path]
	if !known || version < found.since {
		return failed(http.StatusNotFound, "not found")
	}
	method, known := found.methods[r.Method]
	if !known {
		return failed(http.StatusBadRequest, "method not allowed")
	}
	if r.Method == http.MethodPost && len(body) > 0 {
		kind, _, _ := strings.Cut(r.Header.Get("Content-Type"), ";")
		if kind = strings.TrimSpace(kind); kind != "" && kind != "application/json" {
			body = nil
		} else if !json.Valid(body) {
			return failed(http.StatusUnprocessableEntity, "request body is not JSON")
		}
	}
	i.mutex.Lock()
	defer i.mutex.Unlock()
	if found.private && !slices.Contains(i.callers, caller(r)) {
		return failed(http.StatusUnauthorized, "authorization error")
	}
	return method(body)
}

func query(raw string) url.Values {
	values, _ := url.ParseQuery(raw) // what cannot be parsed is not there
	return values
}

func (i *Identity) getProvisioning([]byte) reply {
	switch i.config.Source {
	case "none":
		return reply{http.StatusOK, fields{"source": "none"}}
	case "manual":
		return reply{http.StatusOK, fields{"source": "manual", "auth": "unsupported"}}
	}
	registration := i.config.RegistrationID
	if registration == "" {
		chain, err := i.certs.read(deviceID)
		if err != nil || chain == nil || chain[0].Subject.CommonName == "" {
			return failed(http.StatusInternalServerError, "internal error")
		}
		registration = chain[0].Subject.CommonName
	}
	payload, err := i.payload()
	if err != nil {
		return failed(http.StatusInternalServerError, "internal error")
	}
	return reply{http.StatusOK, fields{
		"source": "dps", "auth": i.config.Method, "endpoint": normalURL(i.config.Endpoint),
		"scope_id": i.config.IDScope, "registration_id": registration, "payload": payload,
	}}
}

// normalURL spells a URL as the real service does, whatever the spelling in the configuration.
func normalURL(text string) string {
	parsed, err := url.Parse(text)
	if err != nil {
		return text // it was parsed before
	}
	parsed.Host = strings.ToLower(parsed.Host)
	if parsed.Scheme == "https" {
		parsed.Host = strings.TrimSuffix(parsed.Host, ":443")
	}
	if parsed.Path == "" {
		parsed.Path = "/"
	}
	return parsed.String()
}

func (i *Identity) postDevice(body []byte) reply {
	if len(body) == 0 {
		return failed(http.StatusBadRequest, "missing request body")
	}
	var request struct {
		Type *string `json:"type"`
	}
	if err := json.Unmarshal(body, &request); err != nil || request.Type == nil {
		return failed(http.StatusUnprocessableEntity, "missing field `type`")
	}
	return i.getDevice(nil)
}

func (i *Identity) getDevice([]byte) reply {
	if i.device == nil {
		return failed(http.StatusBadRequest, "device identity not found")
	}
	auth := fields{"type": "tpm"}
	if i.config.Method != "tpm" {
		if _, err := i.keys.load(deviceID); err != nil {
			return failed(http.StatusNotFound, "Key client error\ncaused by: "+err.Error())
		}
		auth = fields{"type": "x509", "keyHandle": "lab:" + deviceID, "certId": deviceID}
	}
	return reply{http.StatusOK, fields{"type": "aziot", "spec": fields{
		"hubName": i.device.Hub, "gatewayHost": i.device.Gateway, "deviceId": i.device.DeviceID,
		"auth": auth,
	}}}
}

func (i *Identity) postReprovision([]byte) reply {
	err := i.reprovision()
	var public errDPS
	switch {
	case err == nil:
		return reply{status: http.StatusNoContent}
	case errors.As(err, &public):
		return failed(http.StatusNotFound, err.Error())
	}
	return failed(http.StatusInternalServerError, "internal error")
}
