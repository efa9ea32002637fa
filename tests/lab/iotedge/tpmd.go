package main

import "net/http"

// tpmRequest and tpmReply are those of aziot-tpmd's calls, one shape for all of them.
type tpmRequest struct {
	Key  []byte `json:",omitempty"` // as the provisioning service sent it
	Data []byte `json:",omitempty"`
}

type tpmReply struct {
	EndorsementKey []byte `json:",omitempty"` // TPM2B_PUBLIC
	StorageRootKey []byte `json:",omitempty"`
	Digest         []byte `json:",omitempty"`
}

// serveTPM plays aziot-tpmd, which opens the TPM at its start and ends if it cannot.
func serveTPM(layout Layout, log *Log) (http.Handler, error) {
	var file TPMConfig
	if err := readFiles(layout, tpmd, &file); err != nil {
		return nil, err
	}
	tpm := &TPM{config: file, log: log}
	return handler(map[string]endpoint{
		"/get_tpm_keys": typed(func(int, tpmRequest) (any, error) {
			ek, srk, err := tpm.publics()
			return tpmReply{EndorsementKey: ek, StorageRootKey: srk}, err
		}),
		"/import_auth_key": typed(func(_ int, request tpmRequest) (any, error) {
			return tpmReply{}, tpm.importKey(request.Key)
		}),
		"/sign_with_auth_key": typed(func(_ int, request tpmRequest) (any, error) {
			digest, err := tpm.sign(request.Data)
			return tpmReply{Digest: digest}, err
		}),
	}, log), nil
}

// RemoteTPM is aziot-tpmd behind its socket.
type RemoteTPM struct{ socket string }

func (r *RemoteTPM) call(path string, request tpmRequest) (reply tpmReply, err error) {
	err = call(r.socket, path, request, &reply)
	return reply, err
}

func (r *RemoteTPM) publics() (ek, srk []byte, err error) {
	reply, err := r.call("/get_tpm_keys", tpmRequest{})
	return reply.EndorsementKey, reply.StorageRootKey, err
}

func (r *RemoteTPM) importKey(blob []byte) error {
	_, err := r.call("/import_auth_key", tpmRequest{Key: blob})
	return err
}

func (r *RemoteTPM) sign(data []byte) ([]byte, error) {
	reply, err := r.call("/sign_with_auth_key", tpmRequest{Data: data})
	return reply.Digest, err
}
