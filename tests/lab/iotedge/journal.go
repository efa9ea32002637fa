package main

import (
	"encoding/json"
	"fmt"
	"os"
	"time"
)

// Levels as the real services write them, and as syslog(3) numbers them.
type level struct {
	name     string
	priority int
}

var (
	levelInfo  = level{"INFO", 6}
	levelWarn  = level{"WARN", 4}
	levelError = level{"ERR!", 3}
)

// entry is a line of the lab's journal.
type entry struct {
	Time       time.Time `json:"time"`
	Unit       string    `json:"unit"` // aziot-certd.service
	Priority   int       `json:"priority"`
	Message    string    `json:"message"`
	Identifier string    `json:"identifier"`
	Invocation string    `json:"invocation,omitempty"`
}

// say speaks for a service: on stderr, which systemd reads where there is one, and in the journal
// of the lab, where there is not.
func (l *Log) say(service Daemon, how level, format string, values ...any) {
	text := fmt.Sprintf("%s [%s] - %s", now().UTC().Format("2006-01-02T15:04:05Z"), how.name,
		fmt.Sprintf(format, values...))
	fmt.Fprintf(os.Stderr, "<%d>%s\n", how.priority, text)
	l.journalize(entry{
		Unit: service.service(), Identifier: "aziotd", Priority: how.priority, Message: text,
	})
}

// systemd speaks of a unit in the lab's journal.
func (l *Log) systemd(unit, format string, values ...any) {
	l.journalize(entry{
		Unit: unit, Identifier: "systemd", Priority: 5, Message: fmt.Sprintf(format, values...),
	})
}

func (l *Log) journalize(line entry) {
	if l.journal == nil {
		return
	}
	line.Time = now().UTC()
	text, err := json.Marshal(line)
	if err != nil {
		panic(err) // only strings and numbers
	}
	l.mutex.Lock()
	defer l.mutex.Unlock()
	if _, err := l.journal.Write(append(text, '\n')); err != nil {
		panic(err) // without evidence the lab proves nothing
	}
}
