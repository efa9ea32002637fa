module tpm2cloud/tests/lab/estserver

go 1.22.1

require (
	github.com/globalsign/est v1.0.6
	github.com/globalsign/pemfile v1.0.0
	github.com/google/go-tpm v0.3.2
	go.mozilla.org/pkcs7 v0.0.0-20200128120323-432b2356ecb1
)

require (
	github.com/go-chi/chi v4.1.2+incompatible // indirect
	golang.org/x/crypto v0.0.0-20200602180216-279210d13fed // indirect
	golang.org/x/sys v0.0.0-20210220050731-9a76102bfb43 // indirect
	golang.org/x/time v0.0.0-20210220033141-f8bda1e9f3ba // indirect
)
