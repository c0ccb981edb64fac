package cli

import (
	"bufio"
	"context"
	"errors"
	"fmt"
	"io"
	"os"
	"path/filepath"
	"slices"
	"strings"

	"evermore/control"
	"evermore/logs"
)

// logsAction shows which logs there are or, with targets, the end of theirs.
func (s *settings) logsAction(targets []string) (int, error) {
	if len(targets) == 0 {
		return s.listLogs()
	}
	all, err := s.apps()
	if err != nil {
		return 1, err
	}
	chosen, missing := among(all, targets)
	code := 0
	for _, t := range missing {
		if len(all) == 0 {
			s.tell(levelError, "Cannot find "+s.program+" process: "+t)
		} else {
			s.tell(levelError, "No logs available for process: "+t)
		}
		code = 1
	}
	var paths []string
	var heads []string
	for _, a := range chosen {
		for _, path := range s.logFiles(a) {
			if path == "" {
				s.tell(levelError, fmt.Sprintf("%s has no such log file: %s", a.UID, a.whereOutput()))
				code = 1
				continue
			}
			if slices.Contains(paths, path) {
				continue // apps may share a file
			}
			file := a.file()
			if a.Script == "" {
				file = filepath.Base(a.Command[0])
			}
			paths = append(paths, path)
			heads = append(heads, s.logHead(file, a.pid()))
		}
	}
	if len(paths) == 0 {
		return code, nil
	}
	n := s.answer.lines
	if !s.isGiven("number") {
		c, err := s.readConfig()
		if err != nil {
			return 1, err
		}
		n = c.logLength()
	}
	out := bufio.NewWriterSize(os.Stdout, 64<<10)
	err = logs.Tail(context.Background(), paths, logs.TailOptions{N: n, Follow: s.answer.follow}, func(file int, line []byte) error {
		_, _ = out.WriteString(heads[file])
		_, _ = out.Write(line)
		err := out.WriteByte('\n')
		if s.answer.follow {
			err = errors.Join(err, out.Flush())
		}
		return err
	})
	if err = errors.Join(out.Flush(), err); err != nil {
		return 1, err
	}
	return code, nil
}

// whereOutput says where to look instead.
func (a *app) whereOutput() string {
	if a.LogFile != "" {
		return "its output is in " + a.LogFile
	}
	return "its output is where it was started"
}

// logFiles are the files that are asked for: that of -l, or those of -o and -e.
func (s *settings) logFiles(a *app) []string {
	var files []string
	if s.answer.out {
		files = append(files, a.OutFile)
	}
	if s.answer.err {
		files = append(files, a.ErrFile)
	}
	if len(files) == 0 {
		files = append(files, a.LogFile)
	}
	return files
}

// logHead stands before each line: forever's "data:    app.js:PID - ".
func (s *settings) logHead(file string, pid int) string {
	coloured := s.coloured(1)
	if coloured {
		file = "\x1b[35m" + file + "\x1b[39m"
	}
	return strings.TrimSuffix(line(levelData, fmt.Sprintf("%s:%s - ", file, number(int64(pid))), coloured), "\n")
}

// listLogs shows the log of each app.
func (s *settings) listLogs() (int, error) {
	list, err := s.apps()
	if err != nil {
		return 1, err
	}
	if len(list) == 0 {
		root, err := control.Root()
		if err != nil {
			return 1, err
		}
		s.tell(levelWarn, "No "+s.program+" logfiles in "+root)
		return 0, nil
	}
	s.tell(levelInfo, "Logs for running "+capital(s.program)+" processes")
	g := gridOf(list, []string{"script", "logfile"})
	for i, a := range list {
		g.rows[i+1][1].text = a.file()
	}
	s.tell(levelData, strings.Join(g.write(s.coloured(1)), "\n"))
	return 0, nil
}

// cleanLogsAction deletes the logs in evermore's folder that belong to no app,
// and what killed supervisors left behind.
func (s *settings) cleanLogsAction(args []string) (int, error) {
	if len(args) > 0 {
		return 0, usage("cleanlogs takes no argument: %q", args[0])
	}
	root, err := control.Root()
	if err != nil {
		return 1, err
	}
	records, err := control.List() // forgets the dead
	if err != nil {
		return 1, err
	}
	used := map[string]bool{}
	for _, r := range records { // those of other containers, too
		used[r.LogFile], used[r.OutFile], used[r.ErrFile], used[r.PIDFile] = true, true, true, true
	}
	var errs []error
	for _, pattern := range []string{"*.log", "*.log.gz", "pids/*.pid"} {
		files, _ := filepath.Glob(filepath.Join(globless(root), pattern))
		for _, file := range files {
			if info, err := os.Lstat(file); err != nil || !info.Mode().IsRegular() || used[file] || rotatedOf(file, used) {
				continue
			}
			errs = append(errs, os.Remove(file))
		}
	}
	if err := errors.Join(errs...); err != nil {
		return 1, err
	}
	return 0, nil
}

// globless quotes what filepath.Glob would take for a pattern.
func globless(path string) string {
	return strings.NewReplacer(`\`, `\\`, "*", `\*`, "?", `\?`, "[", `\[`).Replace(path)
}

// rotatedOf tells whether the file is an old one of a log in use:
// app-2006-01-02T15-04-05.000.log of app.log.
func rotatedOf(file string, used map[string]bool) bool {
	name := strings.TrimSuffix(file, ".gz")
	ext := filepath.Ext(name)
	stem := strings.TrimSuffix(name, ext)
	const stamp = len("-2006-01-02T15-04-05.000")
	return len(stem) > stamp && used[stem[:len(stem)-stamp]+ext]
}

// eventsAction shows what happens to an app, until it ends.
func (s *settings) eventsAction(targets []string) (int, error) {
	chosen, missing, err := s.choose(targets, "events")
	switch {
	case err != nil:
		return 0, err
	case len(missing) > 0:
		return 1, fmt.Errorf("%s cannot find process with id: %s", capital(s.program), missing[0])
	case len(chosen) != 1:
		return 0, usage("events are those of one app, not of %d", len(chosen))
	}
	a := chosen[0]
	if a.state == nil {
		if a.Status == control.Running {
			return 1, s.unanswered(a)
		}
		return 1, fmt.Errorf("%s: %w", a.UID, s.alone(a))
	}
	body, err := a.Open(context.Background(), "/v1/events")
	if err != nil {
		return 1, err
	}
	defer body.Close()
	_, err = io.Copy(os.Stdout, body)
	return 0, err
}
