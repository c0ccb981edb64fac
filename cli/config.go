package cli

import (
	"bytes"
	"encoding/json"
	"errors"
	"fmt"
	"io"
	"io/fs"
	"os"
	"path/filepath"
	"slices"
	"strconv"
	"strings"

	"golang.org/x/sys/unix"

	"evermore/control"
)

// config is config.json in evermore's folder, as forever keeps it there: the
// columns of list, and defaults of options.
type config struct {
	root   string
	values []configValue // in the order of the file; what is missing is at its default
}

type configValue struct {
	key   string
	value any // string, bool, json.Number, or what else JSON has
}

// defaultColumns are those of list.
var defaultColumns = []string{"uid", "command", "script", "forever", "pid", "id", "logfile", "uptime"}

const defaultLogLength = 100

// filesFolder is where logs and pid files are unless they are named otherwise:
// -p, else evermore's own folder.
func (s *settings) filesFolder() (string, error) {
	if s.path == "" {
		return control.Root()
	}
	folder, err := filepath.Abs(s.path)
	if err == nil {
		err = os.MkdirAll(folder, 0o755)
	}
	if err != nil {
		return "", s.about("path", fmt.Errorf("cannot use the folder %s: %w", s.path, reason(err)))
	}
	return folder, nil
}

// readConfig reads the configuration. A file that can't be read is told of, and
// means the defaults.
func (s *settings) readConfig() (*config, error) {
	root, err := control.Root()
	if err != nil {
		return nil, err
	}
	c := &config{root: root}
	text, err := readRegular(c.path())
	if err == nil {
		err = c.parse(text)
	}
	if err != nil && !errors.Is(err, fs.ErrNotExist) {
		s.say(levelWarn, fmt.Sprintf("cannot read %s: %v: it counts as empty", c.path(), reason(err)))
	}
	return c, nil
}

// mostBytes is how large a file may be that evermore reads as a whole.
const mostBytes = 16 << 20

// readRegular reads a file, and waits for no FIFO in its place. /dev/null counts as
// an empty one.
func readRegular(path string) ([]byte, error) {
	f, err := os.OpenFile(path, os.O_RDONLY|unix.O_NONBLOCK, 0)
	if err != nil {
		return nil, err
	}
	defer f.Close()
	info, err := f.Stat()
	if err == nil && info.Mode()&(fs.ModeNamedPipe|fs.ModeDir) != 0 {
		err = errors.New("it is no regular file")
	}
	if err != nil {
		return nil, err
	}
	text, err := io.ReadAll(io.LimitReader(f, mostBytes+1))
	if len(text) > mostBytes {
		err = fmt.Errorf("it has more than %d bytes", mostBytes)
	}
	return text, err
}

func (c *config) path() string { return filepath.Join(c.root, "config.json") }

func (c *config) parse(text []byte) error {
	d := json.NewDecoder(bytes.NewReader(text))
	d.UseNumber()
	if t, err := d.Token(); err != nil || t != json.Delim('{') {
		return errors.New("it is no JSON object")
	}
	var values []configValue
	for d.More() {
		key, err := d.Token()
		if err != nil {
			return err
		}
		v := configValue{key: key.(string)}
		if err := d.Decode(&v.value); err != nil {
			return err
		}
		values = append(values, v)
	}
	if _, err := d.Token(); err != nil {
		return errors.New("it ends too early")
	}
	c.values = values
	return nil
}

// all gives every value, those at their defaults too, as forever lists them.
func (c *config) all() []configValue {
	columns := []any{}
	for _, name := range c.columns() {
		columns = append(columns, name)
	}
	list := []configValue{
		{"root", c.root},
		{"pidPath", filepath.Join(c.root, "pids")},
		{"sockPath", filepath.Join(c.root, "sock")},
		{"loglength", c.get("loglength", json.Number(strconv.Itoa(defaultLogLength)))},
		{"logstream", c.get("logstream", false)},
		{"columns", columns},
	}
	own := len(list)
	for _, v := range c.values {
		if !slices.ContainsFunc(list[:own], func(o configValue) bool { return o.key == v.key }) {
			list = append(list, v)
		}
	}
	return list
}

func (c *config) get(key string, otherwise any) any {
	for _, v := range c.values {
		if v.key == key {
			return v.value
		}
	}
	return otherwise
}

func (c *config) set(key string, value any) {
	i := slices.IndexFunc(c.values, func(v configValue) bool { return v.key == key })
	if i < 0 {
		c.values = append(c.values, configValue{key, value})
		return
	}
	c.values[i].value = value
}

func (c *config) clear(key string) {
	c.values = slices.DeleteFunc(c.values, func(v configValue) bool { return v.key == key })
}

// columns are those of list.
func (c *config) columns() []string {
	stored, ok := c.get("columns", nil).([]any)
	if !ok {
		return defaultColumns
	}
	list := []string{}
	for _, v := range stored {
		if name, ok := v.(string); ok {
			list = append(list, name)
		}
	}
	return list
}

// logLength is how many lines logs shows.
func (c *config) logLength() int {
	n, err := strconv.Atoi(fmt.Sprint(c.get("loglength", "")))
	if err != nil || n < 0 {
		return defaultLogLength
	}
	return n
}

// save writes the file. Who reads it finds the old one or the new one.
func (c *config) save() error {
	var b bytes.Buffer
	b.WriteString("{")
	for i, v := range c.all() {
		if i > 0 {
			b.WriteString(",")
		}
		key, _ := json.Marshal(v.key)
		value, err := json.Marshal(v.value)
		if err != nil {
			return err
		}
		fmt.Fprintf(&b, "%s:%s", key, value)
	}
	b.WriteString("}")
	var text bytes.Buffer
	if err := json.Indent(&text, b.Bytes(), "", "\t"); err != nil {
		return err
	}
	return replaceFile(c.path(), text.Bytes(), 0o600)
}

// optionDefaults is the source of the values that evermore set has stored.
func (c *config) optionDefaults(program string) source {
	return func(o *option) (string, []string) {
		if o.flagOnly {
			return "", nil
		}
		for _, v := range c.values {
			if optionOf(v.key) != o {
				continue
			}
			by := program + " set " + v.key
			if list, ok := v.value.([]any); ok && o.list {
				var texts []string
				for _, item := range list {
					texts = append(texts, fmt.Sprint(item))
				}
				return by, texts
			}
			return by, []string{fmt.Sprint(v.value)}
		}
		return "", nil
	}
}

// show writes the configuration as forever does: by the words of util.inspect.
func (s *settings) showConfig(c *config) {
	s.tell(levelData, "{")
	list := c.all()
	for i, v := range list {
		text := inspect(v.value)
		if i < len(list)-1 {
			text = append(text[:len(text)-1:len(text)-1], text[len(text)-1]+",")
		}
		s.tell(levelData, "  "+v.key+": "+text[0])
		for _, line := range text[1:] {
			s.tell(levelData, "  "+line)
		}
	}
	s.tell(levelData, "}")
}

// inspect writes a value in lines as forever's config does.
func inspect(value any) []string {
	switch v := value.(type) {
	case string:
		return []string{"'" + strings.ReplaceAll(strings.ReplaceAll(v, `\`, `\\`), "'", `\'`) + "'"}
	case []any:
		if len(v) == 0 {
			return []string{"[]"}
		}
		lines := []string{"["}
		for i, item := range v {
			text := strings.Join(inspect(item), " ")
			if i < len(v)-1 {
				text += ","
			}
			lines = append(lines, "    "+text)
		}
		return append(lines, "]")
	case nil:
		return []string{"null"}
	case bool, json.Number:
		return []string{fmt.Sprint(v)}
	}
	text, _ := json.Marshal(value)
	return []string{string(text)}
}

func (s *settings) configAction(args []string) (int, error) {
	if len(args) > 0 {
		return 0, usage("config takes no argument: %q", args[0])
	}
	c, err := s.readConfig()
	if err != nil {
		return 1, err
	}
	switch {
	case s.answer.effective:
		return s.showEffective(c)
	case s.answer.json:
		all := map[string]any{}
		for _, v := range c.all() {
			all[v.key] = v.value
		}
		return 0, s.printJSON(all)
	}
	s.showConfig(c)
	return 0, nil
}

// showEffective shows the value of each option of a run, and where it comes from.
func (s *settings) showEffective(c *config) (int, error) {
	type row struct {
		Option string   `json:"option"`
		Value  []string `json:"value"`
		From   string   `json:"from"`
	}
	var rows []row
	e := newSettings(s.program)
	e.form = script
	if err := e.complete(table, variables(os.Getenv), c.optionDefaults(s.program)); err != nil {
		return 1, err
	}
	for i := range table {
		o := &table[i]
		if o.flagOnly {
			continue
		}
		r := row{o.name, e.texts[o.name], e.given[o.name]}
		if r.From == "" {
			r.From = "default"
			if text := o.defaultText(script); text != "" {
				r.Value = []string{text}
			}
		}
		rows = append(rows, r)
	}
	if s.answer.json {
		return 0, s.printJSON(rows)
	}
	t := newGrid("", "option", "value", "from")
	for _, r := range rows {
		t.add("", "--"+r.Option, strings.Join(r.Value, ","), r.From)
	}
	for _, line := range t.lines() {
		s.tell(levelData, strings.TrimRight(line, " "))
	}
	return 0, nil
}

func (s *settings) setAction(args []string) (int, error) {
	if len(args) < 2 {
		return 0, usage("set takes a key and a value: %s set minUptime 5000", s.program)
	}
	key, value := args[0], strings.Join(args[1:], " ")
	if err := checkKey(key); err != nil {
		return 0, err
	}
	c, err := s.readConfig()
	if err != nil {
		return 1, err
	}
	if o := optionOf(key); o != nil {
		// What would fail at every start from now on is refused here.
		if err := o.read(newSettings(s.program), value); err != nil {
			return 0, usage("%s: %w", key, err)
		}
	}
	if to := nearestOption(kebab(key), table); optionOf(key) == nil && key != "columns" && key != "loglength" && to != "" {
		s.say(levelWarn, fmt.Sprintf("%s sets no option: did you mean %s?", key, camel(to)))
	}
	if slices.Contains([]string{"root", "pidPath", "sockPath"}, key) {
		return 0, usage("%s cannot be set: EVERMORE_ROOT names the folder", key)
	}
	switch key {
	case "loglength":
		if _, err := parseCount(value); err != nil {
			return 0, usage("%s: %w", key, err)
		}
		c.set(key, json.Number(value))
	case "columns":
		return 0, usage("columns are set by: %s columns set uid pid uptime", s.program)
	default:
		c.set(key, value)
	}
	s.tell(levelInfo, "Setting "+s.program+" config: "+key)
	return s.saveConfig(c)
}

func (s *settings) clearAction(args []string) (int, error) {
	if len(args) != 1 {
		return 0, usage("clear takes a key: %s clear minUptime", s.program)
	}
	key := args[0]
	if err := checkKey(key); err != nil {
		return 0, err
	}
	if key == "root" || key == "pidPath" {
		s.tell(levelWarn, "Cannot clear reserved config: "+key)
		if s.program == "forever" {
			s.tell(levelWarn, "Use `"+s.program+" set "+key+"` instead")
		}
		return 0, nil
	}
	c, err := s.readConfig()
	if err != nil {
		return 1, err
	}
	s.tell(levelInfo, "Clearing "+s.program+" config: "+key)
	c.clear(key)
	return s.saveConfig(c)
}

func (s *settings) saveConfig(c *config) (int, error) {
	if err := c.save(); err != nil {
		return 1, err
	}
	s.showConfig(c)
	s.tell(levelInfo, capital(s.program)+" config saved: "+c.path())
	return 0, nil
}

// checkKey holds the keys to what forever takes.
func checkKey(key string) error {
	if key == "" || strings.ContainsFunc(key, func(r rune) bool {
		return r != '-' && r != '_' && (r < '0' || r > '9') && (r < 'a' || r > 'z') && (r < 'A' || r > 'Z')
	}) {
		return usage("cannot take %q as a key: it is made of letters, digits, - and _", key)
	}
	return nil
}

// optionOf is the option that a key of the configuration sets; nil: none.
func optionOf(key string) *option {
	for i := range table {
		if o := &table[i]; !o.flagOnly && (key == o.name || key == camel(o.name) || key == "timestamp" && o.name == "timestamps") {
			return o
		}
	}
	return nil
}

func (s *settings) columnsAction(args []string) (int, error) {
	use := func() (int, error) {
		return 0, usage("columns takes add NAME..., rm NAME..., set NAME... or reset; names are %s", strings.Join(columnNames(), ", "))
	}
	if len(args) == 0 {
		return use()
	}
	c, err := s.readConfig()
	if err != nil {
		return 1, err
	}
	have := c.columns()
	word, names := args[0], args[1:]
	switch {
	case word == "add" && len(names) > 1 || word == "rm" && len(names) > 1:
		for _, name := range names {
			if code, err := s.columnsAction([]string{word, name}); err != nil {
				return code, err
			}
		}
		return 0, nil
	case (word == "add" || word == "rm") && len(names) == 1:
		name := names[0]
		known := slices.Contains(columnNames(), name)
		in := slices.Contains(have, name)
		switch {
		case !known && (word == "add" || !in):
			return 1, fmt.Errorf("Unknown column: %s", name) //nolint:staticcheck // forever's words
		case word == "add" && in:
			s.tell(levelWarn, name+" already exists in "+s.program)
			return 0, nil
		case word == "rm" && !in:
			s.tell(levelWarn, name+" doesn't exist in "+s.program)
			return 0, nil
		case word == "add":
			s.tell(levelInfo, "Adding column: "+name)
			have = append(slices.Clone(have), name)
		default:
			s.tell(levelInfo, "Removing column: "+name)
			have = slices.DeleteFunc(slices.Clone(have), func(n string) bool { return n == name })
		}
	case word == "set" && len(names) > 0:
		for _, name := range names {
			if !slices.Contains(columnNames(), name) {
				return 1, fmt.Errorf("Unknown column: %s", name) //nolint:staticcheck // forever's words
			}
		}
		s.tell(levelInfo, "Setting columns: "+strings.Join(names, " "))
		have = names
	case word == "reset" && len(names) == 0:
		s.tell(levelInfo, "Setting columns: "+strings.Join(defaultColumns, " "))
		have = defaultColumns
	default:
		return use()
	}
	list := []any{}
	for _, name := range have {
		list = append(list, name)
	}
	c.set("columns", list)
	if err := c.save(); err != nil {
		return 1, err
	}
	return 0, nil
}
