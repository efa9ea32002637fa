package main

import (
	"errors"
	"fmt"
	"net/url"
	"path/filepath"
	"strconv"
	"strings"
	"unicode/utf8"
)

// PKCS11URI is what aziot reads of an RFC 7512 URI. It ignores other attributes; here they are
// refused, since who wrote them expected them to matter.
type PKCS11URI struct {
	Token  string
	Slot   *uint
	Object string
	PIN    string
}

// Characters RFC 7512 section 2.3 allows unencoded in a value of the path and of the query.
const (
	unreserved = "ABCDEFGHIJKLMNOPQRSTUVWXYZabcdefghijklmnopqrstuvwxyz0123456789-._~"
	pathChars  = unreserved + ":[]@!$'()*+,=&"
	queryChars = unreserved + ":[]@!$'()*+,=/?|"
	fileChars  = unreserved + "/!$&'()*+,;=:@" // RFC 3986 section 3.3
)

func parsePKCS11(text string) (*PKCS11URI, error) {
	rest, found := strings.CutPrefix(text, "pkcs11:")
	if !found {
		return nil, errors.New("URI does not have pkcs11 scheme")
	}
	path, query, hasQuery := strings.Cut(rest, "?")
	uri := &PKCS11URI{}
	seen := map[string]bool{}
	for _, pair := range strings.Split(path, ";") {
		if err := uri.take(pair, pathChars, seen, "token", "object", "slot-id"); err != nil {
			return nil, err
		}
	}
	if hasQuery {
		for _, pair := range strings.Split(query, "&") {
			if err := uri.take(pair, queryChars, seen, "pin-value"); err != nil {
				return nil, err
			}
		}
	}
	if uri.Slot == nil && uri.Token == "" {
		return nil, errors.New("URI has neither [slot-id] nor [token] components")
	}
	return uri, nil
}

// take reads one attribute. Messages never repeat a value: it may be the PIN.
func (u *PKCS11URI) take(pair, allowed string, seen map[string]bool, known ...string) error {
	key, raw, found := strings.Cut(pair, "=")
	if !found || !contains(known, key) {
		return fmt.Errorf("URI attribute%s is not one of %v", printable(key), known)
	}
	if seen[key] {
		return fmt.Errorf("URI attribute %q is there twice", key)
	}
	seen[key] = true
	value, err := percentDecode(raw, allowed)
	if err != nil {
		return fmt.Errorf("URI attribute %q %w", key, err)
	}
	if value == "" {
		return fmt.Errorf("URI attribute %q is empty", key)
	}
	switch key {
	case "token":
		u.Token = value
	case "object":
		u.Object = value
	case "pin-value":
		u.PIN = value
	case "slot-id":
		number, err := strconv.ParseUint(value, 10, 32)
		if err != nil {
			return errors.New("URI attribute \"slot-id\" is not a number")
		}
		slot := uint(number)
		u.Slot = &slot
	}
	return nil
}

func percentDecode(raw, allowed string) (string, error) {
	var out strings.Builder
	for i := 0; i < len(raw); i++ {
		switch c := raw[i]; {
		case c == '%' && i+2 < len(raw):
			value, err := strconv.ParseUint(raw[i+1:i+3], 16, 8)
			if err != nil {
				return "", errors.New("has a '%' without two hexadecimal digits")
			}
			out.WriteByte(byte(value))
			i += 2
		case strings.IndexByte(allowed, c) < 0:
			return "", fmt.Errorf("has an unencoded %q", string(rune(c)))
		default:
			out.WriteByte(c)
		}
	}
	if !utf8.ValidString(out.String()) {
		return "", errors.New("is not valid UTF-8")
	}
	return out.String(), nil
}

// parseFileURI gives the absolute path of a file URI. The parser of the real tool repairs what is
// wrong in it, or silently cuts it at '#' and '?'; here it is refused.
func parseFileURI(text string) (string, error) {
	rest, found := strings.CutPrefix(text, "file://")
	if !found {
		return "", errors.New("is not a file:// URI")
	}
	if !strings.HasPrefix(rest, "/") {
		return "", errors.New("cannot convert to file path: it is not absolute")
	}
	path, err := percentDecode(rest, fileChars)
	if err != nil {
		return "", fmt.Errorf("cannot convert to file path: it %w", err)
	}
	if strings.ContainsRune(path, 0) || filepath.Clean(path) != path {
		return "", errors.New("cannot convert to file path: it is not a clean path")
	}
	return path, nil
}

// parseHTTPS checks an absolute URL, e.g. an EST or DPS endpoint.
func parseHTTPS(text string) (string, error) {
	parsed, err := url.Parse(text)
	if err != nil {
		return "", errors.New("is not a URL")
	}
	if (parsed.Scheme != "https" && parsed.Scheme != "http") || parsed.Host == "" {
		return "", errors.New("is not an absolute https URL")
	}
	if parsed.User != nil || parsed.RawQuery != "" || parsed.Fragment != "" {
		return "", errors.New("has a user, a query or a fragment")
	}
	return text, nil
}

// KeyLocation is a key that exists already: a PEM file or an object in a token.
type KeyLocation struct {
	File  string
	Token *PKCS11URI
}

func parseKeyLocation(text string) (KeyLocation, error) {
	scheme, _, found := strings.Cut(text, ":")
	switch {
	case !found:
		return KeyLocation{}, errors.New("missing scheme")
	case scheme == "file":
		path, err := parseFileURI(text)
		return KeyLocation{File: path}, err
	case scheme == "pkcs11":
		uri, err := parsePKCS11(text)
		if err == nil && uri.Object == "" {
			err = errors.New("URI has no [object] component")
		}
		return KeyLocation{Token: uri}, err
	}
	return KeyLocation{}, errors.New("unrecognized scheme")
}

func contains(list []string, wanted string) bool {
	for _, item := range list {
		if item == wanted {
			return true
		}
	}
	return false
}

// printable is a key worth repeating: others may be a part of a PIN with an unencoded '&'.
func printable(key string) string {
	if contains([]string{"id", "type", "pin-source", "serial", "manufacturer", "model"}, key) {
		return " " + strconv.Quote(key)
	}
	return ""
}
