package main

// preloads are the certificates and keys that are somewhere already, by the ids the services know
// them by.
func (c *Config) preloads() (certs map[string]string, keys map[string]KeyLocation) {
	certs, keys = map[string]string{}, map[string]KeyLocation{}
	for id, list := range c.PreloadedCerts {
		if len(list) == 1 {
			certs[id] = list[0]
		}
	}
	for id, location := range c.PreloadedKeys {
		keys[id] = location
	}
	preload := func(id, cert string, key KeyLocation) { certs[id], keys[id] = cert, key }
	if c.Identity.Cert != "" {
		preload(deviceID, c.Identity.Cert, c.Identity.Key)
	}
	preloadAuth := func(auth *ESTAuth, suffix string) {
		if auth.hasPair() && auth.Bootstrap {
			preload(estBootstrapID+suffix, auth.Cert, auth.Key)
		} else if auth.hasPair() {
			preload(estID+suffix, auth.Cert, auth.Key)
		}
	}
	preloadAuth(c.EST.Auth, "")
	if issued := c.Identity.Issued; issued != nil {
		preloadAuth(issued.Auth, "-"+deviceID)
	}
	if c.EdgeCA != nil {
		preloadAuth(c.EdgeCA.Auth, "-"+edgeCA)
	}
	return certs, keys
}

// certdKeys are the keys that certd may use: to bootstrap means to make and to move some.
func (c *Config) certdKeys() []string {
	var ids []string
	add := func(auth *ESTAuth, suffix string) {
		if !auth.hasPair() {
			return
		}
		if auth.Bootstrap {
			ids = append(ids, estBootstrapID+suffix, estID+suffix+"-temp")
		}
		ids = append(ids, estID+suffix)
	}
	add(c.EST.Auth, "")
	if issued := c.Identity.Issued; issued != nil {
		add(issued.Auth, "-"+deviceID)
	}
	return ids
}

// identities are the ids of the device identity: a second one while it is renewed.
func (c *Config) identities() []string {
	ids := []string{deviceID}
	if issued := c.Identity.Issued; issued != nil && issued.Renew != nil {
		ids = append(ids, deviceID+"-temp")
	}
	return ids
}

func (c *Config) keydFile(certdUID, identitydUID int) KeydFile {
	_, keys := c.preloads()
	return KeydFile{
		Store:     c.Keys,
		Preloaded: keys,
		Principals: []Principal{
			{UID: certdUID, IDs: c.certdKeys()}, {UID: identitydUID, IDs: c.identities()},
		},
	}
}

func (c *Config) certdFile(identitydUID int) CertdFile {
	certs, _ := c.preloads()
	file := CertdFile{EST: c.EST, Issued: map[string]Issuance{}, Preloaded: certs}
	file.EST.Auth = file.EST.Auth.withoutKey()
	if c.Identity.Issued == nil {
		return file
	}
	issued := *c.Identity.Issued
	issued.Auth = issued.Auth.withoutKey()
	for _, id := range c.identities() {
		file.Issued[id] = issued
	}
	file.Principals = []Principal{{UID: identitydUID, IDs: c.identities()}}
	return file
}

// withoutKey is the authentication for those who reach the key by its id.
func (a *ESTAuth) withoutKey() *ESTAuth {
	if a == nil {
		return nil
	}
	out := *a
	out.Key = KeyLocation{}
	return &out
}

func (c *Config) identitydFile(callers ...int) IdentitydFile {
	file := IdentitydFile{
		Source: c.Source, Endpoint: c.Endpoint, IDScope: c.IDScope, Payload: c.Payload,
		Method: c.Method, RegistrationID: c.RegistrationID, Callers: callers,
	}
	if issued := c.Identity.Issued; issued != nil {
		known := Issuance{Method: issued.Method, Subject: issued.Subject, Renew: issued.Renew}
		file.Issued = &known
	}
	return file
}

// config is what the parts of identityd want to know.
func (f IdentitydFile) config() *Config {
	return &Config{
		Source: f.Source, Endpoint: f.Endpoint, IDScope: f.IDScope, Payload: f.Payload,
		Method: f.Method, RegistrationID: f.RegistrationID,
		Identity: X509Identity{Issued: f.Issued},
	}
}
