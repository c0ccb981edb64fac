package cli

import (
	"errors"
	"fmt"
	"math"
	"net"
	"strconv"
	"strings"
	"syscall"
	"time"
	"unicode/utf8"

	"github.com/bmatcuk/doublestar/v4"
	"github.com/robfig/cron/v3"

	"evermore/signals"
)

// parseTime reads a time as forever writes it, in milliseconds ("1500"), or with
// a unit ("1.5s", "2m"). It is never negative.
func parseTime(s string) (time.Duration, error) {
	if ms, err := strconv.ParseUint(s, 10, 64); err == nil {
		if ms > math.MaxInt64/uint64(time.Millisecond) {
			return 0, fmt.Errorf("cannot take %q as a time: it is more than 292 years", s)
		}
		return time.Duration(ms) * time.Millisecond, nil
	}
	d, err := time.ParseDuration(s)
	if err != nil {
		return 0, fmt.Errorf("cannot read %q as a time: use milliseconds (1500) or a unit (1.5s)", s)
	}
	if d < 0 {
		return 0, fmt.Errorf("cannot take %q as a time: it is negative", s)
	}
	return d, nil
}

func setTime(field func(*settings) *time.Duration) func(*settings, string) error {
	return func(s *settings, v string) (err error) {
		*field(s), err = parseTime(v)
		return err
	}
}

// parseRuns reads forever's -m: the script is run once before that is looked at,
// and so 0 is 1.
func parseRuns(s string) (int, error) {
	n, err := strconv.ParseUint(s, 10, 31)
	if err != nil {
		return 0, fmt.Errorf("cannot read %q as a number of runs: use a whole number such as 5", s)
	}
	return max(int(n), 1), nil
}

// parseUID reads a name of which files are named.
func parseUID(s string) (string, error) {
	if s == "" || !utf8.ValidString(s) || s == "." || s == ".." || len(s) > 128 || strings.ContainsFunc(s, func(r rune) bool { return r == '/' || r < ' ' || r == 0x7f }) {
		return "", fmt.Errorf("cannot take %q as a uid: files are named after it; use letters and digits", s)
	}
	return s, nil
}

// parseCount reads a whole number of 0 or more.
func parseCount(s string) (int, error) {
	n, err := strconv.ParseUint(s, 10, 31)
	if err != nil {
		return 0, fmt.Errorf("cannot read %q as a number: use a whole number such as 100", s)
	}
	return int(n), nil
}

// parseSize reads a number of bytes, with K, M or G for powers of 1024: "300M".
func parseSize(s string) (int64, error) {
	number, unit := strings.ToUpper(s), 1.0
	number = strings.TrimSuffix(strings.TrimSuffix(number, "B"), "I")
	for i, suffix := range []string{"K", "M", "G", "T"} {
		if n, ok := strings.CutSuffix(number, suffix); ok {
			number, unit = n, math.Pow(1024, float64(i+1))
			break
		}
	}
	n, err := strconv.ParseFloat(number, 64)
	if err != nil || !(n*unit >= 1) || n*unit > math.MaxInt64/2 || strings.ContainsAny(number, "XPN_") {
		return 0, fmt.Errorf("cannot read %q as a size: use bytes or a unit (300M, 1.5G)", s)
	}
	return int64(n * unit), nil
}

// parseCron reads the five fields of crontab(5), or six with seconds in front,
// or a word such as @daily.
func parseCron(s string) (func(time.Time) time.Time, error) {
	parser := cron.NewParser(cron.SecondOptional | cron.Minute | cron.Hour | cron.Dom | cron.Month | cron.Dow | cron.Descriptor)
	schedule, err := parser.Parse(s)
	if err != nil {
		return nil, fmt.Errorf("cannot read %q as times of crontab(5): %w", s, err)
	}
	return schedule.Next, nil
}

// parseWatchAction reads "restart", "reload" or "signal:NAME".
func parseWatchAction(s string) (reload bool, signal syscall.Signal, err error) {
	name, ok := strings.CutPrefix(s, "signal:")
	switch {
	case s == "restart":
		return false, 0, nil
	case s == "reload":
		return true, 0, nil
	case !ok:
		return false, 0, fmt.Errorf("unknown action %q: use restart, reload or signal:NAME", s)
	}
	signal, err = signals.Parse(name)
	return false, signal, err
}

func parseReloadMode(s string) (string, error) {
	if s != reloadOverlap && s != reloadRestart {
		return "", fmt.Errorf("unknown mode %q: use %s or %s", s, reloadOverlap, reloadRestart)
	}
	return s, nil
}

// parseVariable reads the name of an environment variable.
func parseVariable(s string) (string, error) {
	if s == "" || strings.ContainsAny(s, "=\x00") {
		return "", fmt.Errorf("cannot take %q as the name of a variable", s)
	}
	return s, nil
}

func (s *settings) addIgnore(glob string) error {
	if !doublestar.ValidatePattern(strings.TrimPrefix(glob, "!")) {
		return fmt.Errorf("cannot read %q as a glob", glob)
	}
	s.watchIgnore = append(s.watchIgnore, glob)
	return nil
}

func (s *settings) addStopCodes(list string) error {
	for text := range strings.SplitSeq(list, ",") {
		code, err := strconv.ParseUint(strings.TrimSpace(text), 10, 8)
		if err != nil {
			return fmt.Errorf("cannot read %q as an exit code: use numbers from 0 to 255", text)
		}
		s.app.Policy.StopCodes = append(s.app.Policy.StopCodes, int(code))
	}
	return nil
}

func parseBool(s string) (bool, error) {
	b, err := strconv.ParseBool(s)
	if err != nil {
		return false, fmt.Errorf("cannot read %q as yes or no: use true or false", s)
	}
	return b, nil
}

func parseUmask(s string) (int, error) {
	n, err := strconv.ParseUint(s, 8, 32)
	if err != nil || n > 0o777 {
		return 0, fmt.Errorf("cannot read %q as a mask of permissions: use an octal number from 0 to 777 such as 027", s)
	}
	return int(n), nil
}

// parseRemap reads "A=B", or several of them with commas between.
func parseRemap(s string) (map[int]int, error) {
	codes := map[int]int{}
	for pair := range strings.SplitSeq(s, ",") {
		from, to, _ := strings.Cut(strings.TrimSpace(pair), "=")
		a, errA := strconv.ParseUint(from, 10, 8)
		b, errB := strconv.ParseUint(to, 10, 8)
		if errA != nil || errB != nil {
			return nil, fmt.Errorf("cannot read %q as two exit codes: use A=B, each from 0 to 255, such as 143=0", pair)
		}
		codes[int(a)] = int(b)
	}
	return codes, nil
}

// parseRewrites reads "FROM=TO", or several of them with commas between.
func parseRewrites(s string) (map[syscall.Signal]syscall.Signal, error) {
	rewrites := map[syscall.Signal]syscall.Signal{}
	for pair := range strings.SplitSeq(s, ",") {
		from, to, err := signals.ParseRewrite(strings.TrimSpace(pair))
		if err != nil {
			return nil, err
		}
		rewrites[from] = to
	}
	return rewrites, nil
}

func parseKillSignal(s string) (syscall.Signal, error) {
	sig, err := signals.Parse(s)
	if err != nil {
		return 0, err
	}
	if sig == 32 || sig == 33 {
		return 0, fmt.Errorf("signal %d ends nothing: C libraries use it for their threads", int(sig))
	}
	return sig, nil
}

func parseStopSignals(s string) (signals.Set, error) {
	set, err := signals.ParseSet(s)
	if err != nil {
		return 0, err
	}
	for _, sig := range set.Signals() {
		if why := signals.WhyNot(sig); why != "" {
			return 0, fmt.Errorf("%s cannot mean stop: %s", signals.Name(sig), why)
		}
	}
	return set, nil
}

// parseHTTP reads an address to listen on: "127.0.0.1:9797", "[::1]:9797",
// ":9797" or "9797" for every address, a port 0 for any free one. "off" is "".
func parseHTTP(s string) (string, error) {
	bad := func(why string) (string, error) {
		return "", fmt.Errorf("cannot read %q as an address: %s (use HOST:PORT, PORT or off)", s, why)
	}
	if s == "off" {
		return "", nil
	}
	address := s
	if strings.Trim(s, "0123456789") == "" {
		address = ":" + s
	}
	host, port, err := net.SplitHostPort(address)
	if err != nil {
		// Its own error repeats the address.
		if e := new(net.AddrError); errors.As(err, &e) {
			return bad(e.Err)
		}
		return bad(err.Error())
	}
	if n, err := strconv.ParseUint(port, 10, 16); err != nil || port != strconv.FormatUint(n, 10) {
		return bad("its port is no number from 0 to 65535")
	}
	if strings.ContainsFunc(host, func(r rune) bool { return r <= ' ' || r == '/' || r == '@' || r == 0x7f }) {
		return bad("its host is no name")
	}
	return net.JoinHostPort(host, port), nil
}

// shellWords are what a shell alone can run, as GNU make has them (job.c,
// sh_cmds_sh).
var shellWords = strings.Fields(`. : alias bg break case cd command continue eval exec exit export fc fg for getopts
	hash if jobs login logout read readonly return set shift test times trap type ulimit umask unalias unset wait while`)

// parseCommand reads a command line into the words to execute. As GNU make does,
// it is left to /bin/sh only when there is something in it for a shell: an image
// may have none.
func parseCommand(s string) ([]string, error) {
	list, err := splitWords(s)
	if err != nil {
		return nil, err
	}
	shell := strings.ContainsAny(s, "#;*?[]&|<>(){}$`^~!\n") || strings.Contains(list[0], "=")
	for _, w := range shellWords {
		shell = shell || w == list[0]
	}
	if shell {
		return []string{"/bin/sh", "-c", s}, nil
	}
	return list, nil
}

// splitWords splits a command line into words, by the quoting of POSIX shells
// (XCU 2.2): nothing is expanded.
func splitWords(s string) ([]string, error) {
	var list []string
	var word []byte
	inWord := false
	var quote byte // the quote that is open, 0: none
	for i := 0; i < len(s); i++ {
		c := s[i]
		switch {
		case quote == '\'' && c != '\'', quote == '"' && c != '"' && c != '\\':
			word = append(word, c)
		case quote != 0 && c == quote:
			quote = 0
		case c == '\\':
			if i++; i == len(s) {
				return nil, fmt.Errorf("cannot read %q as a command: it ends in a backslash", s)
			}
			// Between double quotes a backslash is itself, but before these.
			if quote == '"' && !strings.ContainsRune("$`\"\\", rune(s[i])) {
				word = append(word, c)
			}
			word, inWord = append(word, s[i]), true
		case c == '\'' || c == '"':
			quote, inWord = c, true
		case strings.IndexByte(" \t\r\n", c) >= 0:
			if inWord {
				list = append(list, string(word))
			}
			word, inWord = nil, false
		default:
			word, inWord = append(word, c), true
		}
	}
	if quote != 0 {
		return nil, fmt.Errorf("cannot read %q as a command: a quote is not closed", s)
	}
	if inWord {
		list = append(list, string(word))
	}
	if len(list) == 0 || list[0] == "" {
		return nil, errors.New("the command is empty")
	}
	return list, nil
}

func setWords(field *[]string, v string) (err error) {
	*field, err = splitWords(v)
	return err
}

func setText(field *string, v string) error {
	if v == "" {
		return errors.New("the value is empty")
	}
	*field = v
	return nil
}

func setFormat(field *string, v string) error {
	if v != "console" && v != "json" {
		return fmt.Errorf("unknown format %q: use console or json", v)
	}
	*field = v
	return nil
}
