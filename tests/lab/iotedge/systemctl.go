package main

import (
	"errors"
	"fmt"
	"net/http"
	"os"
	"path/filepath"
	"strings"
)

// The stand-ins for systemctl and journalctl know the services of the lab and nothing else. They
// understand what a companion of IoT Edge needs: systemctl start|stop|restart|show|is-active and,
// without effect, daemon-reload and reset-failed.

// errQuiet is an exit status without words.
type errQuiet struct{ status int }

func (e errQuiet) Error() string { return fmt.Sprintf("status %d", e.status) }

type controlRequest struct {
	Verb  string
	Units []string
}

type controlReply struct{ Units []Unit }

func (u *Units) listen() error {
	listener, err := listen(u.lab.state("control.sock"))
	if err != nil {
		return err
	}
	handle := handler(map[string]endpoint{"/control": typed(u.control)}, u.log)
	go func() { _ = (&http.Server{Handler: handle, ConnContext: withPeer}).Serve(listener) }()
	return nil
}

func (u *Units) control(_ int, request controlRequest) (any, error) {
	var reply controlReply
	for _, name := range request.Units {
		u.mutex.Lock()
		unit := u.units[name]
		u.mutex.Unlock()
		if unit == nil {
			continue // a socket, which is up as long as this process is
		}
		if request.Verb == "stop" || request.Verb == "restart" {
			u.down(unit.daemon)
		}
		if request.Verb == "start" || request.Verb == "restart" {
			go u.up(unit.daemon) // a service of the simple type has started when it runs
			u.awaitLife(unit)
		}
		u.mutex.Lock()
		reply.Units = append(reply.Units, *unit)
		u.mutex.Unlock()
	}
	return reply, nil
}

// awaitLife returns when a service is not inactive any more.
func (u *Units) awaitLife(unit *Unit) {
	for {
		u.mutex.Lock()
		active := unit.Active
		u.mutex.Unlock()
		if active != "inactive" {
			return
		}
	}
}

// systemctl is the program of that name.
func systemctl(lab *Lab, args []string) error {
	var verb string
	var units, properties []string
	for n := 0; n < len(args); n++ {
		name, value, given := strings.Cut(args[n], "=")
		switch {
		case args[n] == "-p" || args[n] == "--property":
			n++
			if n == len(args) {
				return errUsage
			}
			properties = append(properties, strings.Split(args[n], ",")...)
		case name == "--property" && given:
			properties = append(properties, strings.Split(value, ",")...)
		case strings.HasPrefix(args[n], "-"):
			// --no-pager, --quiet and the like
		case verb == "":
			verb = args[n]
		default:
			units = append(units, unitName(args[n]))
		}
	}
	switch verb {
	case "start", "stop", "restart":
		return controlUnits(lab, verb, units)
	case "show":
		return showUnits(lab, units, properties)
	case "is-active":
		return isActive(lab, units)
	case "daemon-reload", "reset-failed":
		return nil
	}
	return fmt.Errorf("Unknown command verb %s.", verb)
}

func unitName(text string) string {
	if filepath.Ext(text) == "" {
		return text + ".service"
	}
	return text
}

// known says whether there is such a unit: a service of IoT Edge, or its sockets.
func knownUnit(name string) bool {
	for _, daemon := range daemons {
		if name == daemon.service() || contains(daemon.sockets(), name) {
			return true
		}
	}
	return false
}

func controlUnits(lab *Lab, verb string, units []string) error {
	for _, name := range units {
		if !knownUnit(name) {
			return fmt.Errorf("Failed to %s %s: Unit %s not found.", verb, name, name)
		}
	}
	if runningService(lab) == 0 {
		services := 0
		for _, name := range units {
			if strings.HasSuffix(name, ".service") {
				services++
			}
		}
		if verb == "stop" || services == 0 {
			return nil
		}
		return startService(lab) // one process plays them all
	}
	_, err := control(lab, controlRequest{Verb: verb, Units: units})
	return err
}

func control(lab *Lab, request controlRequest) (map[string]Unit, error) {
	var reply controlReply
	if err := call(lab.state("control.sock"), "/control", request, &reply); err != nil {
		return nil, err
	}
	units := map[string]Unit{}
	for _, unit := range reply.Units {
		units[unit.Name] = unit
	}
	return units, nil
}

// states are those of the units, also while nothing runs.
func states(lab *Lab, names []string) ([]Unit, error) {
	running := runningService(lab) != 0
	found := map[string]Unit{}
	if running {
		var err error
		if found, err = control(lab, controlRequest{Verb: "show", Units: names}); err != nil {
			return nil, err
		}
	}
	var out []Unit
	for _, name := range names {
		unit, alive := found[name]
		if !alive {
			unit = Unit{Name: name, Active: "inactive", Sub: "dead", Result: "success"}
			if running && knownUnit(name) {
				unit.Active, unit.Sub = "active", "running" // a socket
			}
		}
		out = append(out, unit)
	}
	return out, nil
}

// showUnits prints in the order of systemd, which is not that of the request.
func showUnits(lab *Lab, names, wanted []string) error {
	units, err := states(lab, names)
	if err != nil {
		return err
	}
	for n, unit := range units {
		if n > 0 {
			fmt.Println()
		}
		load := "not-found"
		if knownUnit(unit.Name) {
			load = "loaded"
		}
		properties := [][2]string{
			{"Result", unit.Result}, {"NRestarts", fmt.Sprint(unit.Restarts)}, {"Id", unit.Name},
			{"LoadState", load}, {"ActiveState", unit.Active}, {"SubState", unit.Sub},
			{"InvocationID", unit.Invocation},
		}
		for _, property := range properties {
			socket := property[0] == "NRestarts" && !strings.HasSuffix(unit.Name, ".service")
			if !socket && (len(wanted) == 0 || contains(wanted, property[0])) {
				fmt.Printf("%s=%s\n", property[0], property[1])
			}
		}
	}
	return nil
}

func isActive(lab *Lab, names []string) error {
	units, err := states(lab, names)
	if err != nil {
		return err
	}
	const inactive = 3
	status := inactive
	for _, unit := range units {
		fmt.Println(unit.Active)
		if unit.Active == "active" {
			status = 0
		}
	}
	if status != 0 {
		return errQuiet{status}
	}
	return nil
}

// tool is systemctl or journalctl.
func tool(name, path string, args []string) error {
	lab, err := findLab(path)
	if err != nil {
		return err
	}
	lab.invoked = filepath.Join(filepath.Dir(path), "iotedge") // which plays the services
	act := map[string]func(*Lab, []string) error{
		"systemctl": systemctl, "journalctl": journalctl,
	}[name]
	err = act(lab, args)
	var quiet errQuiet
	if errors.As(err, &quiet) {
		os.Exit(quiet.status)
	}
	return err
}
