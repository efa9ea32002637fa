package main

import (
	"crypto/sha1"
	"crypto/tls"
	"crypto/x509"
	"encoding/hex"
	"encoding/json"
	"fmt"
	"net/http"
	"os"
	"strings"
	"sync"
	"time"
)

// Request is what the log says of one, in the words of nginx's log where they are the same.
type Request struct {
	Time        string `json:"time"`
	Method      string `json:"method"` // empty if the TLS handshake failed
	URI         string `json:"uri"`
	Status      int    `json:"status"` // 0 if the TLS handshake failed
	User        string `json:"user"`
	Protocol    string `json:"protocol"`
	Verify      string `json:"verify"` // SUCCESS, NONE, or FAILED:reason
	Subject     string `json:"subject"`
	Issuer      string `json:"issuer"`
	Serial      string `json:"serial"`
	Fingerprint string `json:"fingerprint"`
	Issued      string `json:"issued"` // the serial number of the certificate made, if any
}

// Log has a line of JSON for each request.
type Log struct {
	mutex sync.Mutex
	file  *os.File
}

func (l *Log) write(line Request) {
	line.Time = now().UTC().Format(time.RFC3339)
	text, err := json.Marshal(line)
	if err != nil {
		panic(err) // there are only strings in it
	}
	l.mutex.Lock()
	defer l.mutex.Unlock()
	if _, err := l.file.Write(append(text, '\n')); err != nil {
		panic(err) // without evidence the lab proves nothing
	}
}

func (l *Log) refused(state *tls.ConnectionState, why error) {
	line := client(state)
	line.Verify = "FAILED:" + why.Error()
	l.write(line)
}

func (l *Log) answered(r *http.Request, status int, issued *x509.Certificate) {
	line := client(r.TLS)
	line.Method, line.URI, line.Status = r.Method, r.RequestURI, status
	line.User, _, _ = r.BasicAuth()
	if issued != nil {
		line.Issued = number(issued)
	}
	l.write(line)
}

func client(state *tls.ConnectionState) Request {
	line := Request{Verify: "NONE", Protocol: strings.Replace(
		tls.VersionName(state.Version), "TLS 1", "TLSv1", 1)}
	if len(state.PeerCertificates) == 0 {
		return line
	}
	shown := state.PeerCertificates[0]
	sum := sha1.Sum(shown.Raw)
	line.Verify, line.Fingerprint = "SUCCESS", hex.EncodeToString(sum[:])
	line.Subject, line.Issuer = shown.Subject.String(), shown.Issuer.String()
	line.Serial = number(shown)
	return line
}

// number is a serial number as nginx, that is OpenSSL, writes it.
func number(certificate *x509.Certificate) string {
	text := fmt.Sprintf("%X", certificate.SerialNumber)
	if len(text)%2 == 1 {
		text = "0" + text
	}
	return text
}
