package cli

import (
	"errors"
	"fmt"
	"io/fs"
	"math"
	"os"
	"path/filepath"
	"slices"
	"strconv"
	"strings"
	"syscall"

	"golang.org/x/sys/unix"
)

// identity is whom the command runs as.
type identity struct {
	credential *syscall.Credential // nil: as evermore itself
	name       string              // for USER and LOGNAME; empty: no --user was given
	home       string
}

// identity reads --user and tells whether evermore may become that user.
func (s *settings) identity() (identity, error) {
	if s.user == "" {
		return identity{}, nil
	}
	who, err := findUser(s.user, "/etc")
	if err != nil {
		return identity{}, s.about("user", err)
	}
	c := who.credential
	switch {
	case maySetIDs():
		c.NoSetGroups = setgroupsDenied()
	case int(c.Uid) == os.Getuid() && int(c.Uid) == os.Geteuid() && int(c.Gid) == os.Getgid() && int(c.Gid) == os.Getegid():
		who.credential = nil
	default:
		return identity{}, s.about("user", fmt.Errorf(
			"cannot become uid %d, gid %d: evermore is uid %d, gid %d, without the capabilities SETUID and SETGID",
			c.Uid, c.Gid, os.Geteuid(), os.Getegid()))
	}
	return who, nil
}

// findUser reads "USER", "USER:GROUP" or numbers in their place, as "docker run
// --user" does: names come before numbers, and a GROUP that is given is the only
// one. A number that no user has is its own group too.
//
// It reads /etc/passwd and /etc/group itself. os/user takes $USER at its word
// when the uid of evermore is in no passwd file, and would take root for the
// user of that name.
func findUser(text, etc string) (identity, error) {
	userText, groupText, withGroup := strings.Cut(text, ":")
	passwd, err := readTable(filepath.Join(etc, "passwd"), 7)
	if err != nil {
		return identity{}, err
	}
	// name:password:UID:GID:GECOS:directory:shell
	entry, err := findEntry(passwd, userText)
	if err != nil {
		return identity{}, fmt.Errorf("unknown user %q", userText)
	}
	who := identity{name: userText, home: "/"}
	uid := userText
	gid := userText
	if entry != nil {
		who.name, uid, gid = entry[0], entry[2], entry[3]
		if entry[5] != "" {
			who.home = entry[5]
		}
	}

	// name:password:GID:user_list
	groups, err := readTable(filepath.Join(etc, "group"), 4)
	if err != nil {
		return identity{}, err
	}
	var ids []uint32
	if withGroup {
		gid = groupText
		switch entry, err := findEntry(groups, groupText); {
		case err != nil:
			return identity{}, fmt.Errorf("unknown group %q", groupText)
		case entry != nil:
			gid = entry[2]
		}
	} else if entry != nil {
		for _, g := range groups {
			if slices.Contains(strings.Split(g[3], ","), entry[0]) {
				if id, err := parseID(g[2]); err == nil {
					ids = append(ids, id)
				}
			}
		}
	}
	u, errU := parseID(uid)
	g, errG := parseID(gid)
	if errU != nil || errG != nil {
		return identity{}, fmt.Errorf("user %q has no proper uid and gid in %s", userText, filepath.Join(etc, "passwd"))
	}
	if !slices.Contains(ids, g) {
		ids = append([]uint32{g}, ids...)
	}
	who.credential = &syscall.Credential{Uid: u, Gid: g, Groups: ids}
	return who, nil
}

// findEntry finds a name, else a number, in passwd(5) or group(5); nil for a
// number that nobody has.
func findEntry(table [][]string, text string) ([]string, error) {
	for _, entry := range table {
		if text != "" && entry[0] == text {
			return entry, nil
		}
	}
	id, err := parseID(text)
	if err != nil {
		return nil, err
	}
	for _, entry := range table {
		if n, err := parseID(entry[2]); err == nil && n == id {
			return entry, nil
		}
	}
	return nil, nil
}

// parseID reads a uid or gid; the last one, (uid_t)-1, means "unchanged" to
// setresuid(2).
func parseID(text string) (uint32, error) {
	n, err := strconv.ParseUint(text, 10, 32)
	if err == nil && n == math.MaxUint32 {
		err = strconv.ErrRange
	}
	return uint32(n), err
}

// readTable reads a file of lines with a number of fields and colons between
// them. No file is no lines: an image from scratch has none.
func readTable(path string, fields int) ([][]string, error) {
	text, err := os.ReadFile(path)
	if errors.Is(err, fs.ErrNotExist) {
		return nil, nil
	}
	var table [][]string
	for line := range strings.Lines(string(text)) {
		if entry := strings.Split(strings.TrimSuffix(line, "\n"), ":"); len(entry) == fields {
			table = append(table, entry)
		}
	}
	return table, err
}

// maySetIDs tells whether evermore has the capabilities of capabilities(7) that
// setuid and setgid need.
func maySetIDs() bool {
	header := unix.CapUserHeader{Version: unix.LINUX_CAPABILITY_VERSION_3}
	var data [2]unix.CapUserData
	if err := unix.Capget(&header, &data[0]); err != nil {
		return false
	}
	const needed = 1<<unix.CAP_SETUID | 1<<unix.CAP_SETGID
	return data[0].Effective&needed == needed
}

// setgroupsDenied tells whether this is a user namespace whose maker was not
// allowed to drop groups, see user_namespaces(7).
func setgroupsDenied() bool {
	text, err := os.ReadFile("/proc/self/setgroups")
	return err == nil && strings.TrimSpace(string(text)) == "deny"
}
