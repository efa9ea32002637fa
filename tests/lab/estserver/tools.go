//go:build tools

// Package tools pins the EST server of the lab: GlobalSign's, which nobody here wrote.
package tools

import _ "github.com/globalsign/est/cmd/estserver"
