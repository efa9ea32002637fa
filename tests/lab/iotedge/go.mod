module iotedge-standin

go 1.22

require (
	github.com/BurntSushi/toml v1.4.0
	github.com/google/go-tpm v0.9.5
	github.com/miekg/pkcs11 v1.1.1
)

require golang.org/x/sys v0.8.0 // indirect
