package cli

import (
	"errors"
	"fmt"
	"io"
	"io/fs"
	"os"
	"path/filepath"
	"strings"
)

// installAction copies this program to where the first argument says: a folder
// that exists, or the name of the copy. The copy takes its name when it is whole,
// so that what runs the old one goes on and nobody runs half of one.
func (s *settings) installAction(args []string) (int, error) {
	if len(args) != 1 || args[0] == "" {
		return 0, usage("install takes one argument: the folder for the program, or the path of the copy")
	}
	dest := args[0]
	info, err := os.Stat(dest)
	switch {
	case err == nil && info.IsDir():
		dest = filepath.Join(dest, "evermore")
	case err == nil && !info.Mode().IsRegular():
		return 0, fmt.Errorf("cannot install to %s: it is neither a folder nor a file", dest)
	case errors.Is(err, fs.ErrNotExist) && strings.HasSuffix(dest, "/"):
		return 0, fmt.Errorf("cannot install to %s: there is no such folder", dest)
	}
	if err := install(dest); err != nil {
		return 0, fmt.Errorf("cannot install to %s: %w", dest, reason(err))
	}
	return 0, s.print(dest + "\n")
}

// install writes the running program to a file, mode 0755.
func install(dest string) (err error) {
	// The file that runs, also where it was replaced or its folder can't be
	// entered; see proc(5).
	from, err := os.Open("/proc/self/exe")
	if err != nil {
		return err
	}
	defer from.Close()
	to, err := os.CreateTemp(filepath.Dir(dest), ".evermore-")
	if err != nil {
		return err
	}
	defer func() {
		if err != nil {
			os.Remove(to.Name())
		}
	}()
	_, err = io.Copy(to, from)
	if err == nil {
		err = to.Chmod(0o755) // whatever the umask: another user is to run it
	}
	if err == nil {
		err = to.Sync()
	}
	if e := to.Close(); err == nil {
		err = e
	}
	if err == nil {
		err = os.Rename(to.Name(), dest)
	}
	return err
}
