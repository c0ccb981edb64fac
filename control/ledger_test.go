package control

import (
	"encoding/json"
	"fmt"
	"os"
	"path/filepath"
	"reflect"
	"strings"
	"testing"
	"time"
)

// keeper is a supervisor that keeps a ledger.
type keeper struct {
	*Ledger
	t     *testing.T
	past  chan Past
	warns chan error
}

const ledgerTime = time.Minute // far more than anything takes

// keep lets a supervisor of the key begin, in the root that EVERMORE_ROOT names.
func keep(t *testing.T, key string, adopted ...int) *keeper {
	t.Helper()
	k := &keeper{NewLedger(key, "web", 5), t, make(chan Past, 1), make(chan error, 10)}
	k.Keep(adopted, func(p Past) { k.past <- p }, func(err error) { k.warns <- err })
	return k
}

// takes gives what was on file.
func (k *keeper) takes() Past {
	k.t.Helper()
	select {
	case p := <-k.past:
		return p
	case err := <-k.warns:
		k.t.Fatalf("warned: %v", err)
	case <-time.After(ledgerTime):
		k.t.Fatal("nothing was taken up")
	}
	return Past{}
}

func (k *keeper) warned() string {
	k.t.Helper()
	select {
	case err := <-k.warns:
		return err.Error()
	case <-time.After(ledgerTime):
		k.t.Fatal("there was no warning")
		return ""
	}
}

func (k *keeper) quiet() {
	k.t.Helper()
	select {
	case err := <-k.warns:
		k.t.Errorf("warned: %v", err)
	default:
	}
}

func ledgerRoot(t *testing.T) string {
	t.Helper()
	root := filepath.Join(t.TempDir(), "root")
	t.Setenv(RootVariable, "")
	t.Setenv("EVERMORE_ROOT", root)
	t.Setenv("HOME", t.TempDir())
	t.Setenv("XDG_RUNTIME_DIR", "")
	return root
}

func death(pid int, reason string, code int) Death {
	return Death{At: time.Now().Round(0), Reason: reason, PID: pid, Code: &code}
}

func TestLedgerIsTakenUp(t *testing.T) {
	root := ledgerRoot(t)
	a := keep(t, "uid.web")
	a.Began(7)
	a.OOMKilled(2)
	a.StopKilled()
	a.Died(death(7, "oom", 137))
	a.Restarted("oom", true)
	a.Began(8)
	a.Died(death(8, "request", 143))
	a.Restarted("request", false)
	a.Began(9)
	a.Died(death(9, "exit", 1))
	a.Ended()
	a.Close(ledgerTime)
	a.quiet()

	b := keep(t, "uid.web")
	p := b.takes()
	want := newCounts(p.Counts.Since)
	want.Starts, want.OOMKills, want.StopKills = 3, 2, 1
	want.Restarts["oom"], want.Restarts["request"] = 1, 1
	want.exit("oom", "137")
	want.exit("request", "143")
	want.exit("exit", "1")
	if !reflect.DeepEqual(p.Counts, want) || p.Lost != 0 {
		t.Errorf("taken up are %+v, lost %v; want %+v", p.Counts, p.Lost, want)
	}
	if len(p.Restarts) != 1 || p.Restarts[0] < 0 || p.Restarts[0] > ledgerTime {
		t.Errorf("the restarts that count were %v ago", p.Restarts)
	}
	b.Began(10)
	b.Died(death(10, "signal", 139))
	if got := reasons(b.Deaths()); got != "signal exit request oom" {
		t.Errorf("the story is %s", got)
	}
	if c := b.Deaths().Counts; c.Starts != 4 || c.Exits["signal"]["139"] != 1 || c.Exits["oom"]["137"] != 1 {
		t.Errorf("counted are %+v", c)
	}
	b.Close(ledgerTime)
	if got := onFile("uid.web"); reasons(got) != "signal exit request oom" || got.UID != "web" {
		t.Errorf("on file are %+v", got)
	}
	for path, mode := range map[string]os.FileMode{"deaths": 0o700, "deaths/uid.web.json": 0o600} {
		if info, err := os.Stat(filepath.Join(root, path)); err != nil || info.Mode().Perm() != mode {
			t.Errorf("%s: %v, %v", path, info.Mode(), err)
		}
	}
	if files, _ := os.ReadDir(filepath.Join(root, "deaths")); len(files) != 1 {
		t.Errorf("there are %v", files)
	}
}

// onFile is the story of a key; the zero value: there is none.
func onFile(key string) Deaths {
	for _, s := range ReadLedgers() {
		if s.Key == key {
			return s.Deaths
		}
	}
	return Deaths{}
}

func reasons(d Deaths) string {
	var all []string
	for _, one := range d.Deaths {
		all = append(all, one.Reason)
	}
	return strings.Join(all, " ")
}

func TestLedgerIsBounded(t *testing.T) {
	ledgerRoot(t)
	for range 2 {
		k := keep(t, "uid.web")
		for i := range 100 {
			k.Began(i)
			k.Died(death(i, "exit", i%7))
			k.Restarted("exit", true)
		}
		k.Ended()
		k.Close(ledgerTime)
	}
	k := keep(t, "uid.web")
	p := k.takes()
	if len(p.Restarts) != 5 || len(k.Deaths().Deaths) != maxDeaths || p.Counts.Starts != 200 {
		t.Errorf("kept are %d restarts and %d deaths of %d", len(p.Restarts), len(k.Deaths().Deaths), p.Counts.Starts)
	}
	k.Close(ledgerTime)
}

// A limit of many restarts does not make a file that is too large to be read.
func TestLedgerOfManyRestarts(t *testing.T) {
	ledgerRoot(t)
	l := NewLedger("uid.web", "web", 1_000_000)
	for range 20_000 {
		l.Restarted("exit", true)
	}
	l.Keep(nil, func(Past) {}, func(err error) { t.Error(err) })
	l.Close(ledgerTime)
	k := keep(t, "uid.web")
	if p := k.takes(); p.Counts.Restarts["exit"] != 20_000 || len(p.Restarts) == 0 {
		t.Errorf("taken up are %d restarts, counted %d", len(p.Restarts), p.Counts.Restarts["exit"])
	}
	k.Close(ledgerTime)
}

// A run that has no end on record was lost, unless it goes on. What happens before
// the file was read comes after what is in it.
func TestLostRun(t *testing.T) {
	root := ledgerRoot(t)
	a := keep(t, "uid.web")
	a.Began(7)
	a.Close(ledgerTime) // the supervisor is killed
	if got := onFile("uid.web"); reasons(got) != "lost" || got.Deaths[0].PID != 7 || got.Deaths[0].Code != nil || got.Counts.Exits["lost"]["unknown"] != 1 {
		t.Errorf("before the next start: %+v", got)
	}

	b := keep(t, "uid.web", 7) // it is adopted
	if p := b.takes(); p.Lost != 0 {
		t.Error("a run that goes on is lost")
	}
	b.Began(7)
	b.Close(ledgerTime)

	c := NewLedger("uid.web", "web", 5)
	c.Began(8)
	c.Died(death(8, "exit", 1))
	c.Began(9)
	past := make(chan Past, 1)
	c.Keep(nil, func(p Past) { past <- p }, func(err error) { t.Error(err) })
	if p := <-past; p.Lost != 1 || p.Counts.Exits["lost"]["unknown"] != 1 {
		t.Errorf("taken up: %+v", p)
	}
	if got := reasons(c.Deaths()); got != "exit lost" {
		t.Errorf("the story is %s", got)
	}
	c.Ended()
	c.Close(ledgerTime)

	// A clock that was set, and a machine that was started anew.
	edit(t, root, func(f *ledgerFile) {
		f.Boot = "another"
		f.Runs = []openRun{{moment{At: time.Now().Add(time.Hour)}, 5}}
		f.Recent = []moment{{At: time.Now().Add(-time.Hour), Up: 1}, {At: time.Now().Add(time.Hour), Up: 2}}
	})
	d := keep(t, "uid.web")
	p := d.takes()
	if len(p.Restarts) != 2 || p.Restarts[0] < time.Hour || p.Restarts[0] > time.Hour+ledgerTime || p.Restarts[1] != 0 {
		t.Errorf("on another boot the restarts were %v ago", p.Restarts)
	}
	if got := d.Deaths().Deaths[0]; got.UptimeMS != 0 || got.Reason != "lost" {
		t.Errorf("a run that began in the future: %+v", got)
	}
	d.Close(ledgerTime)
	edit(t, root, func(f *ledgerFile) {
		for i := range f.Recent {
			f.Recent[i].At = time.Now().Add(1000 * time.Hour) // on the same boot it does not matter
		}
		f.Recent = append(f.Recent, moment{Up: uptime() + time.Hour})
	})
	e := keep(t, "uid.web")
	if p := e.takes(); len(p.Restarts) != 3 || p.Restarts[0] < time.Hour || p.Restarts[1] > ledgerTime || p.Restarts[2] != 0 {
		t.Errorf("on the same boot the restarts were %v ago", p.Restarts)
	}
	e.Close(ledgerTime)
}

// Of an app of several processes each run that has no end on record was lost, and
// none that another one has replaced.
func TestLostRuns(t *testing.T) {
	root := ledgerRoot(t)
	a := keep(t, "uid.web")
	for _, pid := range []int{1, 2, 3} {
		a.Began(pid)
	}
	a.Began(4) // in the place of 1
	a.Restarted("reload", false)
	a.Died(death(1, "reload", 0))
	a.Died(death(2, "exit", 1))
	a.Died(death(0, "spawn", 127)) // it cannot begin again
	a.Close(ledgerTime)            // the supervisor is killed
	if got := onFile("uid.web"); reasons(got) != "lost lost spawn exit reload" || got.Deaths[0].PID != 4 || got.Deaths[1].PID != 3 || got.Counts.Exits["lost"]["unknown"] != 2 {
		t.Errorf("before the next start: %+v", got)
	}

	b := keep(t, "uid.web", 9, 3) // one of the two is adopted
	if p := b.takes(); p.Lost != 1 {
		t.Errorf("%d were lost", p.Lost)
	}
	if got := b.Deaths(); got.Deaths[0].PID != 4 || got.Counts.Exits["lost"]["unknown"] != 1 {
		t.Errorf("the story is %+v", got)
	}
	b.Began(3)
	b.Began(5)
	b.Died(death(3, "request", 0))
	b.Died(death(5, "request", 0))
	b.Close(ledgerTime)
	if f, err := readLedger(filepath.Join(root, "deaths", "uid.web.json")); err != nil || len(f.Runs) != 0 {
		t.Errorf("on file are the runs %v, %v", f.Runs, err)
	}
	c := keep(t, "uid.web")
	if p := c.takes(); p.Lost != 0 {
		t.Errorf("%d were lost that had ended", p.Lost)
	}
	c.Close(ledgerTime)
}

// edit changes the ledger on file.
func edit(t *testing.T, root string, change func(*ledgerFile)) {
	t.Helper()
	path := filepath.Join(root, "deaths", "uid.web.json")
	f, err := readLedger(path)
	if err != nil {
		t.Fatal(err)
	}
	change(&f)
	if err := f.save(path); err != nil {
		t.Fatal(err)
	}
}

func TestLedgerOfTwo(t *testing.T) {
	ledgerRoot(t)
	a := keep(t, "uid.web")
	a.Began(1)
	a.Died(death(1, "exit", 1))
	for start := time.Now(); len(onFile("uid.web").Deaths) == 0; time.Sleep(time.Millisecond) {
		if time.Since(start) > ledgerTime {
			t.Fatal("nothing is written")
		}
	}
	b := keep(t, "uid.web")
	if got := b.warned(); !strings.Contains(got, "in memory only") {
		t.Errorf("warned of %s", got)
	}
	b.Began(2)
	b.Died(death(2, "oom", 137))
	if got := reasons(b.Deaths()); got != "oom" {
		t.Errorf("the story of the second is %s", got)
	}
	b.Close(ledgerTime)
	b.quiet()
	c := keep(t, "uid.api")
	c.Close(ledgerTime)
	c.quiet()
	a.Close(ledgerTime)
	if got := reasons(onFile("uid.web")); got != "exit" {
		t.Errorf("on file is %s", got)
	}
}

func TestBadLedgers(t *testing.T) {
	for name, text := range map[string]string{
		"empty": "", "no JSON": "\x00\x01", "half of one": `{"version":1,"deaths":[{"reason":`, "another's": `{"apps":[]}`,
		"of a later version": `{"version":2}`, "with negative counts": `{"version":1,"counts":{"starts":-1}}`,
		"with negative exits": `{"version":1,"counts":{"exits":{"exit":{"1":-5}}}}`, "huge": strings.Repeat(" ", maxLedger+1),
		"of another type": `[1,2]`,
	} {
		t.Run(name, func(t *testing.T) {
			root := ledgerRoot(t)
			path := filepath.Join(root, "deaths", "uid.web.json")
			if err := os.MkdirAll(filepath.Dir(path), 0o700); err != nil {
				t.Fatal(err)
			}
			if err := os.WriteFile(path, []byte(text), 0o600); err != nil {
				t.Fatal(err)
			}
			if got := onFile("uid.web"); got.Counts.Exits != nil {
				t.Errorf("read are %+v", got)
			}
			k := keep(t, "uid.web")
			if got := k.warned(); !strings.Contains(got, "begins anew") || strings.Contains(got, "\n") {
				t.Errorf("warned of %s", got)
			}
			k.Died(death(2, "exit", 1))
			k.Close(ledgerTime)
			k.quiet()
			if got := reasons(onFile("uid.web")); got != "exit" {
				t.Errorf("on file is %q", got)
			}
			if bad, err := os.ReadFile(path + ".bad"); err != nil || string(bad) != text {
				t.Errorf("the bad one is not kept: %v", err)
			}
		})
	}
}

// A ledger that cannot be written costs one warning.
func TestLedgerWithoutRoom(t *testing.T) {
	root := ledgerRoot(t)
	if err := os.MkdirAll(root, 0o700); err != nil {
		t.Fatal(err)
	}
	if err := os.WriteFile(filepath.Join(root, "deaths"), nil, 0o600); err != nil {
		t.Fatal(err)
	}
	k := keep(t, "uid.web")
	if got := k.warned(); !strings.Contains(got, "is not kept") {
		t.Errorf("warned of %s", got)
	}
	k.Died(death(2, "exit", 1))
	k.Close(ledgerTime)
	k.quiet()
	if got := reasons(k.Deaths()); got != "exit" {
		t.Errorf("the story is %s", got)
	}

	root = ledgerRoot(t)
	unfinished := filepath.Join(root, "deaths", ".uid.web.json")
	if err := os.MkdirAll(unfinished, 0o700); err != nil { // the writing of every one fails
		t.Fatal(err)
	}
	k = keep(t, "uid.web")
	if got := k.warned(); !strings.Contains(got, "is not kept") {
		t.Errorf("warned of %s", got)
	}
	for range 10 {
		k.Died(death(2, "exit", 1))
	}
	k.Close(ledgerTime)
	k.quiet()
}

func TestOldLedgersAreDeleted(t *testing.T) {
	root := ledgerRoot(t)
	for _, key := range []string{"uid.old", "uid.new", "uid.runs"} {
		k := keep(t, key)
		k.Close(ledgerTime)
	}
	old := time.Now().Add(-2 * ledgerAge)
	for _, key := range []string{"uid.old", "uid.runs"} {
		if err := os.Chtimes(filepath.Join(root, "deaths", key+".json"), old, old); err != nil {
			t.Fatal(err)
		}
	}
	lock, err := lockFile(filepath.Join(root, "deaths", "uid.runs.json.lock"))
	if err != nil || lock == nil {
		t.Fatal(err)
	}
	defer lock.Release()
	keep(t, "uid.other").Close(ledgerTime)
	for key, want := range map[string]bool{"uid.old": false, "uid.new": true, "uid.runs": true, "uid.other": true} {
		if is := onFile(key).Counts.Exits != nil; is != want {
			t.Errorf("%s is there: %v", key, is)
		}
	}
}

func TestLedgerKey(t *testing.T) {
	keys := map[string]bool{}
	for _, k := range []string{
		LedgerKey("web", nil, ""), LedgerKey("", []string{"web"}, ""), LedgerKey("", []string{"web"}, "/srv"),
		LedgerKey("", []string{"web", "b"}, "/srv"), LedgerKey("", []string{"web b"}, "/srv"),
	} {
		if keys[k] || strings.Contains(k, "/") {
			t.Errorf("the key %s", k)
		}
		keys[k] = true
	}
}

// Nothing in the file tells of the app's arguments, environment or output.
func TestLedgerHoldsNoArguments(t *testing.T) {
	root := ledgerRoot(t)
	k := keep(t, LedgerKey("", []string{"node", "--password=secret"}, "/srv/secret"))
	k.Began(1)
	k.Close(ledgerTime)
	text, err := os.ReadFile(filepath.Join(root, "deaths", LedgerKey("", []string{"node", "--password=secret"}, "/srv/secret")+".json"))
	if err != nil || strings.Contains(string(text), "secret") || !json.Valid(text) {
		t.Errorf("%v: %s", err, text)
	}
}

func FuzzLedger(f *testing.F) {
	good, _ := json.Marshal(ledgerFile{Version: 1, Counts: newCounts(time.Unix(1, 0)), Runs: []openRun{{PID: 3}}, Recent: []moment{{}}, Deaths: []Death{{Reason: "oom"}}})
	for _, seed := range []string{string(good), "", "{}", `{"version":1}`, `{"version":1,"deaths":null,"counts":{"exits":{"a":null}}}`} {
		f.Add(seed)
	}
	dir := f.TempDir()
	n := 0
	f.Fuzz(func(t *testing.T, text string) {
		n++
		path := filepath.Join(dir, fmt.Sprint(n))
		if err := os.WriteFile(path, []byte(text), 0o600); err != nil {
			t.Fatal(err)
		}
		defer os.Remove(path)
		file, err := readLedger(path)
		if err != nil {
			return
		}
		file.lost().story()
		for _, m := range file.Recent {
			if m.age(true) < 0 || m.age(false) < 0 {
				t.Errorf("a negative age of %+v", m)
			}
		}
	})
}
