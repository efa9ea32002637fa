package main

import (
	"bufio"
	"encoding/json"
	"errors"
	"fmt"
	"os"
	"regexp"
	"strconv"
	"strings"
	"time"
)

// query is what journalctl was asked for.
type journalQuery struct {
	units  []string
	since  time.Time
	output string
	grep   *regexp.Regexp
	lines  int // 0: all
}

// journalctl reads the lab's journal: -u, --since, -g, -n, -o cat|json|short.
func journalctl(lab *Lab, args []string) error {
	asked := journalQuery{output: "short"}
	for n := 0; n < len(args); n++ {
		name, value, given := strings.Cut(args[n], "=")
		long := map[string]string{
			"-u": "--unit", "-S": "--since", "-g": "--grep", "-o": "--output", "-n": "--lines",
		}[name]
		if long != "" {
			name = long
		}
		if !asked.wants(name) {
			continue // --no-pager, --quiet and the like
		}
		if !given {
			if n++; n == len(args) {
				return fmt.Errorf("journalctl: option '%s' requires an argument", name)
			}
			value = args[n]
		}
		if err := asked.set(name, value); err != nil {
			return err
		}
	}
	return asked.print(lab.state("journal.jsonl"))
}

func (q *journalQuery) wants(name string) bool {
	return contains([]string{"--unit", "--since", "--grep", "--output", "--lines"}, name)
}

func (q *journalQuery) set(name, value string) (err error) {
	switch name {
	case "--unit":
		q.units = append(q.units, unitName(value))
	case "--since":
		q.since, err = parseSince(value)
	case "--grep":
		if value == strings.ToLower(value) {
			value = "(?i)" + value
		}
		q.grep, err = regexp.Compile(value)
	case "--output":
		q.output = value
	case "--lines":
		q.lines, err = strconv.Atoi(value)
	}
	return err
}

// parseSince reads @SECONDS or a local date and time (systemd.time(7)).
func parseSince(text string) (time.Time, error) {
	if rest, found := strings.CutPrefix(text, "@"); found {
		at, err := strconv.ParseFloat(rest, 64)
		return time.UnixMicro(int64(at * 1e6)), err
	}
	for _, layout := range []string{"2006-01-02 15:04:05", "2006-01-02 15:04", "2006-01-02"} {
		if at, err := time.ParseInLocation(layout, text, time.Local); err == nil {
			return at, nil
		}
		if at, err := time.Parse(layout+" UTC", text); err == nil {
			return at, nil
		}
	}
	return time.Time{}, fmt.Errorf("Failed to parse timestamp: %s", text)
}

func (q *journalQuery) print(file string) error {
	found, err := q.find(file)
	if err != nil {
		return err
	}
	if q.lines > 0 && len(found) > q.lines {
		found = found[len(found)-q.lines:]
	}
	for _, line := range found {
		fmt.Println(q.text(line))
	}
	if len(found) == 0 && q.grep != nil {
		return errQuiet{1}
	}
	return nil
}

func (q *journalQuery) find(path string) ([]entry, error) {
	file, err := os.Open(path)
	if errors.Is(err, os.ErrNotExist) {
		return nil, nil
	}
	if err != nil {
		return nil, err
	}
	defer file.Close()
	var found []entry
	for lines := bufio.NewScanner(file); lines.Scan(); {
		var line entry
		if err := json.Unmarshal(lines.Bytes(), &line); err != nil {
			return nil, err
		}
		if len(q.units) > 0 && !contains(q.units, line.Unit) || line.Time.Before(q.since) {
			continue
		}
		if q.grep == nil || q.grep.MatchString(line.Message) {
			found = append(found, line)
		}
	}
	return found, nil
}

func (q *journalQuery) text(line entry) string {
	switch q.output {
	case "cat":
		return line.Message
	case "json":
		text, err := json.Marshal(map[string]string{
			"__REALTIME_TIMESTAMP": strconv.FormatInt(line.Time.UnixMicro(), 10),
			"_SYSTEMD_UNIT":        line.Unit,
			"SYSLOG_IDENTIFIER":    line.Identifier,
			"PRIORITY":             strconv.Itoa(line.Priority),
			"MESSAGE":              line.Message,
		})
		if err != nil {
			panic(err) // only strings
		}
		return string(text)
	}
	return fmt.Sprintf("%s lab %s[1]: %s", line.Time.Local().Format("Jan 02 15:04:05"),
		line.Identifier, line.Message)
}
