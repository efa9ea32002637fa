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
// per token, once logged in, so the keys it used stay loaded in the TPM until it ends.
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
// With keepSessions it closes nothing.
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
	s, err := open(module, uri)
	if err != nil {
		return err
	}
	if !keepSessions {
		defer func() { err = firstOf(err, module.CloseSession(s.handle)) }()
	}
	if uri.PIN == "" {
		return do(s)
	}
	if err := s.login(uri.PIN); err != nil {
		return err
	}
	if !keepSessions {
		defer func() { err = firstOf(err, module.Logout(s.handle)) }()
	}
	return do(s)
}

// keepSession opens the session that later work will use; it is not logged in yet.
func keepSession(library string, uri *PKCS11URI) error {
	tokenMutex.Lock()
	defer tokenMutex.Unlock()
	keepSessions = true
	module, err := initialized(library)
	if err != nil {
		return err
	}
	_, err = open(module, uri)
	return err
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

// open gives a session, with keepSessions always the same for a token.
func open(module *pkcs11.Ctx, uri *PKCS11URI) (session, error) {
	slot, err := findSlot(module, uri)
	if err != nil {
		return session{}, err
	}
	if s, found := kept[module][slot]; found {
		return s, nil
	}
	handle, err := module.OpenSession(slot, pkcs11.CKF_SERIAL_SESSION|pkcs11.CKF_RW_SESSION)
	if err != nil {
		return session{}, fmt.Errorf("could not open session: C_OpenSession failed with %w", err)
	}
	s := session{module, handle}
	if keepSessions {
		kept[module][slot] = s
	}
	return s, nil
}

func (s session) login(pin string) error {
	err := s.module.Login(s.handle, pkcs11.CKU_USER, pin)
	again := errors.Is(err, pkcs11.Error(pkcs11.CKR_USER_ALREADY_LOGGED_IN))
	if err != nil && !(keepSessions && again) {
		return fmt.Errorf("could not log in to the token: C_Login failed with %w", err)
	}
	return nil
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
