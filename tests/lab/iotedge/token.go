package main

import (
	"errors"
	"fmt"
	"strings"
	"sync"

	"github.com/miekg/pkcs11"
)

// tokenMutex serialises all use of PKCS#11 modules. Who holds it may end the process knowing that
// no session and no key is left in the TPM.
var tokenMutex sync.Mutex

// modules are loaded once: unloading a module that has started a TSS is asking for trouble.
var modules = map[string]*pkcs11.Ctx{}

// keepSessions is the way of the real aziot-keyd: it initializes a module once and keeps a session
// per token, logged in, so the keys it used stay loaded in the TPM until it ends.
var keepSessions = false

// kept are the sessions by module and slot.
var kept = map[*pkcs11.Ctx]map[uint]session{}

type session struct {
	module *pkcs11.Ctx
	handle pkcs11.SessionHandle
}

var errNotFound = errors.New("did not find any keys in the slot")

// withToken runs `do` in a session of its own, logged in, and closes everything down to C_Finalize
// after it: a TPM without a resource manager has three slots, and another program may want them.
// With keepSessions it does none of this for a second time.
func withToken(library string, uri *PKCS11URI, do func(session) error) (err error) {
	tokenMutex.Lock()
	defer tokenMutex.Unlock()
	module, err := initialized(library)
	if err != nil {
		return err
	}
	if !keepSessions {
		defer func() { err = firstOf(err, module.Finalize()) }()
	}
	slot, err := findSlot(module, uri)
	if err != nil {
		return err
	}
	s, found := kept[module][slot]
	if !found {
		if s, err = login(module, slot, uri.PIN); err != nil {
			return err
		}
	}
	if keepSessions {
		kept[module][slot] = s
		return do(s)
	}
	defer func() { err = firstOf(err, s.logout(uri.PIN)) }()
	return do(s)
}

// initialized is the module after C_Initialize.
func initialized(library string) (*pkcs11.Ctx, error) {
	module := modules[library]
	if module == nil {
		if module = pkcs11.New(library); module == nil {
			return nil, fmt.Errorf("could not load PKCS#11 library %s", library)
		}
		modules[library] = module
	}
	if kept[module] != nil {
		return module, nil
	}
	if err := module.Initialize(); err != nil {
		return nil, fmt.Errorf("C_Initialize failed: %w", err)
	}
	if keepSessions {
		kept[module] = map[uint]session{}
	}
	return module, nil
}

func login(module *pkcs11.Ctx, slot uint, pin string) (session, error) {
	handle, err := module.OpenSession(slot, pkcs11.CKF_SERIAL_SESSION|pkcs11.CKF_RW_SESSION)
	if err != nil {
		return session{}, fmt.Errorf("could not open session: C_OpenSession failed with %w", err)
	}
	if pin == "" {
		return session{module, handle}, nil
	}
	if err := module.Login(handle, pkcs11.CKU_USER, pin); err != nil {
		err = fmt.Errorf("could not log in to the token: C_Login failed with %w", err)
		return session{}, firstOf(err, module.CloseSession(handle))
	}
	return session{module, handle}, nil
}

func (s session) logout(pin string) (err error) {
	if pin != "" {
		err = s.module.Logout(s.handle)
	}
	return firstOf(err, s.module.CloseSession(s.handle))
}

func firstOf(first, second error) error {
	if first != nil {
		return first
	}
	return second
}

func findSlot(module *pkcs11.Ctx, uri *PKCS11URI) (uint, error) {
	if uri.Slot != nil {
		return *uri.Slot, nil
	}
	slots, err := module.GetSlotList(true)
	if err != nil {
		return 0, fmt.Errorf("could not list slots: %w", err)
	}
	for _, slot := range slots {
		info, err := module.GetTokenInfo(slot)
		if err != nil {
			return 0, fmt.Errorf("could not get token info: %w", err)
		}
		named := strings.TrimRight(info.Label, " \x00") == uri.Token
		if named && info.Flags&pkcs11.CKF_TOKEN_INITIALIZED != 0 {
			return slot, nil
		}
	}
	return 0, errors.New("could not find a slot with a matching label")
}
