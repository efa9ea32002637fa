package main

import (
	"math"
	"strings"
)

// readEdge reads what belongs to IoT Edge alone. But for the Edge CA nothing here is used by the
// stand-in; the tables are checked so that a writer's mistakes in them are seen.
func readEdge(t *table) (edgeCA *Issuance) {
	for _, key := range []string{"trust_bundle_cert", "additional_info"} {
		if t.has(key) {
			parsed(t, key, parseFileURI)
		}
	}
	t.text("imported_master_encryption_key")
	t.boolean("allow_elevated_docker_permissions")
	if t.has("auto_reprovisioning_mode") {
		t.oneOf("auto_reprovisioning_mode", "Dynamic", "AlwaysOnStartup", "OnErrorOnly")
	}
	readCounts(t.sub("iotedge_max_requests"), "management", "workload")
	edgeCA = readEdgeCA(t.sub("edge_ca"))
	readAgent(t.sub("agent"))
	for _, key := range []string{"connect", "listen"} {
		if uris := t.sub(key); uris != nil {
			uris.must("workload_uri")
			uris.must("management_uri")
			uris.end()
		}
	}
	readWatchdog(t.sub("watchdog"))
	readMoby(t.sub("moby_runtime"))
	if images := t.sub("image_garbage_collection"); images != nil {
		images.boolean("enabled")
		for _, key := range []string{
			"cleanup_recurrence", "image_age_cleanup_threshold", "cleanup_time",
		} {
			images.text(key)
		}
		images.end()
	}
	return edgeCA
}

// readEdgeCA tries the variants in the order of the real one: issued, preloaded, quickstart. It
// returns how the certificate is issued, if it is.
func readEdgeCA(t *table) *Issuance {
	if t == nil {
		return nil
	}
	var out *Issuance
	switch {
	case t.has("method"):
		out = readIssued(t, false)
		if out.Renew == nil {
			out.Renew = &defaultRenewal
		}
	case t.has("cert") || t.has("pk"):
		parsed(t, "cert", parseFileURI)
		parsed(t, "pk", parseKeyLocation)
	default:
		if !t.has("auto_generated_edge_ca_expiry_days") {
			t.problem("auto_generated_edge_ca_expiry_days", "missing field")
		}
		days := t.integer("auto_generated_edge_ca_expiry_days", 1, math.MaxUint32)
		out = &Issuance{Method: "self_signed", Days: days, Renew: &defaultRenewal}
		if renew := t.sub("auto_renew"); renew != nil {
			policy := readRenewal(renew)
			out.Renew = &policy
		}
		readSubject(t, out)
	}
	t.end()
	return out
}

func readAgent(t *table) {
	if t == nil {
		return
	}
	t.must("name")
	t.must("type")
	if t.has("imagePullPolicy") {
		t.oneOf("imagePullPolicy", "on-create", "never")
	}
	if env := t.sub("env"); env != nil {
		env.textMap()
	}
	if config := t.sub("config"); config != nil {
		config.must("image")
		config.text("imageHash")
		config.text("digest")
		config.boolean("allowElevatedDockerPermissions")
		config.free("createOptions", "auth")
		config.end()
	} else if !t.has("config") {
		t.problem("config", "missing field")
	}
	t.end()
}

func readWatchdog(t *table) {
	if t == nil {
		return
	}
	if text, isText := t.values["max_retries"].(string); isText && text == "infinite" {
		t.free("max_retries")
	}
	if !t.asked["max_retries"] {
		t.integer("max_retries", 0, math.MaxUint32)
	}
	t.end()
}

func readMoby(t *table) {
	if t == nil {
		return
	}
	t.must("uri")
	if !t.has("network") {
		t.problem("network", "missing field")
	}
	t.free("network")
	if trust := t.sub("content_trust"); trust != nil {
		if certs := trust.sub("ca_certs"); certs != nil {
			certs.textMap()
		}
		trust.end()
	}
	t.end()
}

// readTPM reads the table of aziot-tpmd.
func readTPM(t *table) TPMConfig {
	out := TPMConfig{TCTI: "device", AuthKeyIndex: authKeyIndex}
	if t == nil {
		return out
	}
	if t.has("tcti") {
		out.TCTI = t.must("tcti")
	}
	if t.has("auth_key_index") {
		out.AuthKeyIndex = t.integer("auth_key_index", 0, 0x7fffff)
	}
	if auth := t.sub("hierarchy_authorization"); auth != nil {
		out.Endorsement, out.Owner = passwordOf(auth, "endorsement"), passwordOf(auth, "owner")
		auth.end()
	}
	t.end()
	return out
}

// passwordOf is the text of a password that fits into a TPM2B_AUTH with a zero at its end. Of a
// longer one the real service says nothing before it starts, and then fails.
func passwordOf(t *table, key string) string {
	text := t.text(key)
	if len(text) > 63 || strings.Contains(text, "\x00") {
		t.problem(key, "is no C string of at most 63 bytes")
	}
	return text
}
