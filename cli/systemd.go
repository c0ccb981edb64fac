package cli

import (
	"context"
	"encoding/json"
	"errors"
	"fmt"
	"io/fs"
	"net"
	"os"
	"path/filepath"
	"slices"
	"strings"
	"unicode"

	"golang.org/x/sys/unix"

	"evermore/control"
)

// serviceManager is what started evermore and wants to know how it is, see
// sd_notify(3); nil: nobody.
type serviceManager struct{ conn *net.UnixConn }

func managerOf(getenv func(string) string) *serviceManager {
	address := getenv("NOTIFY_SOCKET")
	if address == "" {
		return nil
	}
	conn, err := net.DialUnix("unixgram", nil, &net.UnixAddr{Net: "unixgram", Name: address})
	if err != nil {
		return nil
	}
	return &serviceManager{conn}
}

// tell never waits: a full socket misses it.
func (m *serviceManager) tell(state string) {
	if m == nil {
		return
	}
	raw, err := m.conn.SyscallConn()
	if err == nil {
		_ = raw.Control(func(fd uintptr) { _ = unix.Sendto(int(fd), []byte(state), unix.MSG_DONTWAIT|unix.MSG_NOSIGNAL, nil) })
	}
}

// environOf reads the environment that a process was started with.
func environOf(pid int) ([]string, error) {
	text, err := os.ReadFile(fmt.Sprintf("/proc/%d/environ", pid))
	if err != nil {
		return nil, reason(err)
	}
	return slices.DeleteFunc(strings.Split(string(text), "\x00"), func(v string) bool { return v == "" || strings.HasPrefix(v, "EVERMORE_RUN_ID=") }), nil
}

// recipeOf is how an app is started again, its environment included.
func (s *settings) recipeOf(a *app) (control.Recipe, error) {
	switch a.Status {
	case control.Stopped:
		return a.Recipe, nil
	case control.Unsupervised:
		r := a.Recipe
		var err error
		r.Env, err = environOf(a.Child.PID)
		return r, err
	}
	if a.state == nil {
		return control.Recipe{}, s.unanswered(a)
	}
	ctx, cancel := context.WithTimeout(context.Background(), answerTime)
	defer cancel()
	return a.AskRecipe(ctx)
}

// saved is an app in the file of save.
type saved struct {
	UID     string         `json:"uid"`
	LogFile string         `json:"log_file"`
	Recipe  control.Recipe `json:"recipe"`
}

func savedPath(root string) string { return filepath.Join(root, "saved.json") }

// saveAction remembers the daemons that run. The file has their environments, and
// so is its owner's alone.
func (s *settings) saveAction(args []string) (int, error) {
	if len(args) > 0 {
		return 0, usage("save takes no argument: %q", args[0])
	}
	root, err := control.Root()
	if err != nil {
		return 1, err
	}
	list, err := s.apps()
	if err != nil {
		return 1, err
	}
	apps := []saved{}
	for _, a := range list {
		if !a.Daemon || a.Status == control.Stopped {
			continue // what runs in the foreground belongs to who started it
		}
		r, err := s.recipeOf(a)
		if err != nil {
			return 1, fmt.Errorf("cannot save %s, and so nothing: %w", a.UID, err)
		}
		apps = append(apps, saved{a.UID, a.LogFile, r})
	}
	if len(apps) == 0 {
		return 1, fmt.Errorf("no %s processes running: what was saved before is kept; to forget it, delete %s", s.program, savedPath(root))
	}
	text, err := json.MarshalIndent(apps, "", "  ")
	if err != nil {
		return 1, err
	}
	if err := replaceFile(savedPath(root), text, 0o600); err != nil {
		return 1, err
	}
	s.tell(levelInfo, fmt.Sprintf("%s saved %d processes: %s", capital(s.program), len(apps), savedPath(root)))
	return 0, nil
}

// replaceFile writes a file anew. Who reads it finds the old one or the new one.
func replaceFile(path string, text []byte, mode fs.FileMode) error {
	next, err := os.CreateTemp(filepath.Dir(path), "."+filepath.Base(path)+".")
	if err == nil {
		_, err = next.Write(text)
		err = errors.Join(err, next.Chmod(mode), next.Close())
		if err == nil {
			err = os.Rename(next.Name(), path)
		}
		if err != nil {
			_ = os.Remove(next.Name())
		}
	}
	if err != nil {
		return fmt.Errorf("cannot write %s: %w", path, reason(err))
	}
	return nil
}

// resurrectAction starts what save remembered and does not run.
func (s *settings) resurrectAction(args []string) (int, error) {
	if len(args) > 0 {
		return 0, usage("resurrect takes no argument: %q", args[0])
	}
	root, err := control.Root()
	if err != nil {
		return 1, err
	}
	text, err := readRegular(savedPath(root))
	if err != nil {
		return 1, fmt.Errorf("cannot read what %s save remembers: %w", s.program, err)
	}
	var apps []saved
	if err := json.Unmarshal(text, &apps); err != nil {
		return 1, fmt.Errorf("cannot read %s: %w", savedPath(root), err)
	}
	list, err := s.apps()
	if err != nil {
		return 1, err
	}
	code, started := 0, 0
	for _, one := range apps {
		i := slices.IndexFunc(list, func(a *app) bool { return a.UID == one.UID })
		if i >= 0 && list[i].Status != control.Stopped {
			continue
		}
		if _, err := launch(again(one.Recipe), one.LogFile, nil); err != nil {
			s.tell(levelError, fmt.Sprintf("cannot start %s: %v", one.UID, err))
			code = 1
			continue
		}
		if i >= 0 {
			list[i].Forget()
		}
		s.tell(levelInfo, capital(s.program)+" started process: "+one.UID)
		started++
	}
	if started == 0 && code == 0 {
		s.tell(levelInfo, "All that was saved runs")
	}
	return code, nil
}

// startupTable is the options of startup.
func startupTable() []option {
	return []option{
		{
			name: "user", flagOnly: true,
			help: "units of the user's own systemd, not the system's",
			on:   func(s *settings) *bool { return &s.answer.user },
		},
		{
			name: "write", flagOnly: true,
			help: "write the units where systemd looks for them, in place of showing them",
			on:   func(s *settings) *bool { return &s.answer.write },
		},
	}
}

// startupAction makes a systemd unit of each app that runs: evermore in the
// foreground, as systemd wants its services.
func (s *settings) startupAction(targets []string) (int, error) {
	var chosen []*app
	code := 0
	if len(targets) == 0 {
		all, err := s.apps()
		if err != nil {
			return 1, err
		}
		chosen = all
	} else {
		found, missing, err := s.choose(targets, "startup")
		if err != nil {
			return 1, err
		}
		for _, t := range missing {
			s.tell(levelError, capital(s.program)+" cannot find process with id: "+t)
			code = 1
		}
		chosen = found
	}
	if len(chosen) == 0 && code == 0 {
		return 1, fmt.Errorf("no %s processes running: start what is to run at boot, then ask for its unit", s.program)
	}
	dir, reload := "/etc/systemd/system", "systemctl daemon-reload && systemctl enable --now "
	if s.answer.user {
		config, err := os.UserConfigDir()
		if err != nil {
			return 1, err
		}
		dir, reload = filepath.Join(config, "systemd", "user"), "systemctl --user daemon-reload && systemctl --user enable --now "
	}
	var names []string
	for _, a := range chosen {
		unit, err := s.unit(a)
		if err != nil {
			return 1, fmt.Errorf("cannot make a unit of %s: %w", a.UID, err)
		}
		name := "evermore-" + unitName(a.UID) + ".service"
		path := filepath.Join(dir, name)
		names = append(names, name)
		if !s.answer.write {
			if err := s.print("# " + path + "\n" + unit + "\n"); err != nil {
				return 1, err
			}
			continue
		}
		if err := os.MkdirAll(dir, 0o755); err != nil {
			return 1, err
		}
		// Its environment may hold secrets.
		if err := replaceFile(path, []byte(unit), 0o600); err != nil {
			return 1, err
		}
		s.tell(levelInfo, capital(s.program)+" wrote "+path)
	}
	if s.answer.write {
		s.tell(levelHelp, s.program+" stop what runs, then: "+reload+strings.Join(names, " "))
	}
	return code, nil
}

// unitName makes what a unit may be called of a uid: other bytes are written as
// systemd-escape(1) does.
func unitName(uid string) string {
	var b strings.Builder
	for i := range len(uid) {
		switch c := uid[i]; {
		case strings.IndexByte("-_.:", c) >= 0, '0' <= c && c <= '9', 'a' <= c && c <= 'z', 'A' <= c && c <= 'Z':
			b.WriteByte(c)
		default:
			fmt.Fprintf(&b, `\x%02x`, c)
		}
	}
	return b.String()
}

// sessionVariables belong to the login that an app was started from.
var sessionVariables = []string{
	"_", "PWD", "OLDPWD", "SHLVL", "TERM", "COLUMNS", "LINES", "DISPLAY", "WINDOWID", "XDG_SESSION_ID", "XDG_SESSION_TYPE", "XDG_SESSION_CLASS",
	"XDG_SEAT", "XDG_VTNR", "SSH_CLIENT", "SSH_CONNECTION", "SSH_TTY", "SSH_AUTH_SOCK", "TMUX", "TMUX_PANE", "STY", "DBUS_SESSION_BUS_ADDRESS", "XDG_RUNTIME_DIR",
	"LS_COLORS", "MAIL", "SUDO_COMMAND", "SUDO_GID", "SUDO_UID", "SUDO_USER", "INVOCATION_ID", "JOURNAL_STREAM", "MANAGERPID", "SYSTEMD_EXEC_PID",
}

// unit is the unit of an app. The app may start others and do what it likes: the
// hardening is what no node app notices.
func (s *settings) unit(a *app) (string, error) {
	r, err := s.recipeOf(a)
	if err != nil {
		return "", err
	}
	if strings.ContainsFunc(r.Dir, unicode.IsControl) || strings.HasSuffix(r.Dir, `\`) {
		return "", fmt.Errorf("systemd cannot take its working directory %q: it has control characters, or ends in a backslash", r.Dir)
	}
	self, err := os.Executable()
	if err != nil {
		return "", err
	}
	words := append([]string{self}, again(r).Args...)
	for i := range words {
		words[i] = strings.ReplaceAll(systemdQuote(words[i], true), "$", "$$")
	}
	var b strings.Builder
	say := func(format string, args ...any) { fmt.Fprintf(&b, format+"\n", args...) }
	say("[Unit]")
	say("Description=%s, kept alive by evermore", systemdQuote(strings.Join(append(slices.Clone(a.Command), a.script()), " "), false))
	say("Wants=network-online.target")
	say("After=network-online.target")
	say("")
	say("[Service]")
	say("Type=notify")
	say("NotifyAccess=main")
	say("ExecStart=%s", strings.Join(words, " "))
	say("WorkingDirectory=%s", strings.ReplaceAll(r.Dir, "%", "%%"))
	for _, v := range r.Env {
		name, _, _ := strings.Cut(v, "=")
		if !slices.Contains(sessionVariables, name) {
			say("Environment=%s", systemdQuote(v, true))
		}
	}
	if !s.answer.user {
		say("User=%d", os.Geteuid())
		say("Group=%d", os.Getegid())
	}
	// evermore restarts the app; systemd restarts evermore.
	say("Restart=on-failure")
	// What a signal stopped did not fail: evermore's exit code is the app's.
	say("SuccessExitStatus=129 130 143")
	say("RestartSec=5s")
	say("KillMode=mixed")
	say("TimeoutStartSec=infinity")
	timeout := "infinity"
	if a.state != nil && a.state.KillTimeoutMS > 0 {
		timeout = fmt.Sprintf("%ds", a.state.KillTimeoutMS/1000+30)
	}
	say("TimeoutStopSec=%s", timeout)
	say("NoNewPrivileges=yes")
	if !s.answer.user {
		say("ProtectSystem=full")
		say("ProtectKernelTunables=yes")
		say("ProtectKernelModules=yes")
		say("ProtectControlGroups=yes")
		say("RestrictSUIDSGID=yes")
		say("LockPersonality=yes")
	}
	say("")
	say("[Install]")
	if s.answer.user {
		say("WantedBy=default.target")
	} else {
		say("WantedBy=multi-user.target")
	}
	return b.String(), nil
}

// systemdQuote writes a text so that systemd reads it unchanged: no specifier, no
// variable, no quote in it is one (systemd.syntax(7), systemd.service(5)).
func systemdQuote(text string, word bool) string {
	text = strings.ReplaceAll(text, "%", "%%")
	if !word {
		return strings.ReplaceAll(plain(text), `\`, `\\`)
	}
	var b strings.Builder
	b.WriteByte('"')
	for i := range len(text) {
		switch c := text[i]; {
		case c == '"' || c == '\\':
			b.WriteString(`\` + string(c))
		case c == '\n':
			b.WriteString(`\n`)
		case c == '\t':
			b.WriteString(`\t`)
		case c < ' ' || c == 0x7f:
			fmt.Fprintf(&b, `\x%02x`, c)
		default:
			b.WriteByte(c)
		}
	}
	b.WriteByte('"')
	return b.String()
}
