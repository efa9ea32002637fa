package main

import (
	"encoding/json"
	"os"
	"sync"
	"time"
)

// Log is the evidence of what the service did, for tests to read: JSON lines in log.jsonl.
// Nothing secret goes into it.
type Log struct {
	mutex   sync.Mutex
	file    *os.File
	journal *os.File // in the lab, where no systemd keeps one
}

type fields map[string]any

func openLog(path string) (*Log, error) {
	file, err := openAppending(path)
	if err != nil {
		return nil, err
	}
	return &Log{file: file}, nil
}

func openAppending(path string) (*os.File, error) {
	return os.OpenFile(path, os.O_CREATE|os.O_APPEND|os.O_WRONLY, 0o600)
}

func (l *Log) event(name string, more fields) {
	line := fields{"time": now().UTC().Format(time.RFC3339Nano), "event": name}
	for key, value := range more {
		line[key] = value
	}
	text, err := json.Marshal(line)
	if err != nil {
		panic(err) // a programming error: only strings, numbers and lists are logged
	}
	l.mutex.Lock()
	defer l.mutex.Unlock()
	if _, err := l.file.Write(append(text, '\n')); err != nil {
		panic(err) // without evidence the lab proves nothing
	}
}
