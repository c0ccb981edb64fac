package reaper

import (
	"errors"
	"io/fs"
	"os"
	"strconv"
	"strings"
)

// maxOOMScore is the highest value of oom_score_adj, proc_pid_oom_score_adj(5).
const maxOOMScore = 1000

// RaiseOOMScore adds to the process's oom_score_adj, so that the kernel's
// out-of-memory killer takes it rather than the calling process. What it was
// given by somebody else stays. Raising needs no privilege, but the file belongs
// to the process's user.
func (p *Process) RaiseOOMScore(by int) error {
	own, err := readScore("self")
	if err != nil {
		return err
	}
	pid := strconv.Itoa(p.pid)
	if now, err := readScore(pid); err != nil || now != own {
		return err
	}
	write := func() error {
		return os.WriteFile("/proc/"+pid+"/oom_score_adj", []byte(strconv.Itoa(min(own+by, maxOOMScore))), 0)
	}
	if err = write(); errors.Is(err, fs.ErrPermission) && p.user != nil {
		asUser(p.user, func() { err = write() })
	}
	return err
}

func readScore(pid string) (int, error) {
	text, err := os.ReadFile("/proc/" + pid + "/oom_score_adj")
	if err != nil {
		return 0, err
	}
	return strconv.Atoi(strings.TrimSpace(string(text)))
}
