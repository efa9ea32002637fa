module iotedge-standin

go 1.22

require (
	github.com/BurntSushi/toml v1.4.0
	github.com/miekg/pkcs11 v1.1.1
)
