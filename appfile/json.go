package appfile

import (
	"bytes"
	"errors"
	"fmt"
	"io/fs"
	"math"
	"os"
	"strconv"
	"strings"
	"unicode"

	"github.com/tailscale/hujson"
)

// maxBrackets is how many brackets may open in a file. The parser calls itself
// for each of them that is inside another, and few apps need few.
const maxBrackets = 10_000

// reader reads the apps of one file.
type reader struct {
	keys Keys
	path string // as the user wrote it
	dir  string // where the file is, absolute
	text []byte
	// evaluated says that text is what node made of the file: its lines are not
	// the file's.
	evaluated bool
	// number is that of the app which is being read, from 1. 0: none yet.
	number int
}

// member is one key of an object.
type member struct {
	key   string
	at    hujson.Value // the key
	value hujson.Value
}

// parse reads the text as JSON with comments and trailing commas.
func (r *reader) parse() (hujson.Value, error) {
	// Some editors begin a file with a byte order mark.
	r.text = bytes.TrimPrefix(r.text, []byte("\xef\xbb\xbf"))
	if bytes.Count(r.text, []byte("["))+bytes.Count(r.text, []byte("{")) > maxBrackets {
		return hujson.Value{}, fmt.Errorf("cannot take %s as a description of apps: it has more than %d brackets", r.path, maxBrackets)
	}
	v, err := hujson.Parse(r.text)
	if err == nil {
		return v, nil
	}
	var line, column int
	_, _ = fmt.Sscanf(err.Error(), "hujson: line %d, column %d:", &line, &column)
	if inner := errors.Unwrap(err); inner != nil {
		err = inner
	}
	return v, fmt.Errorf("%s:%d:%d: cannot read it as JSON: %s", r.path, line, column, oneLine(err.Error()))
}

// errorAt is an error about a value: it says where the value is.
func (r *reader) errorAt(v hujson.Value, format string, args ...any) error {
	text := fmt.Sprintf(format, args...)
	switch {
	case !r.evaluated:
		before := r.text[:v.StartOffset]
		column := len(before) - bytes.LastIndexByte(before, '\n')
		return fmt.Errorf("%s:%d:%d: %s", r.path, r.line(v), column, text)
	case r.number > 0:
		return fmt.Errorf("%s: app %d: %s", r.path, r.number, text)
	}
	return fmt.Errorf("%s: %s", r.path, text)
}

// line is that of a value in the file, from 1. 0: the file is a program.
func (r *reader) line(v hujson.Value) int {
	if r.evaluated {
		return 0
	}
	return 1 + bytes.Count(r.text[:v.StartOffset], []byte("\n"))
}

// list gives the objects that describe apps, and whether they do so in pm2's
// words: the file is a program, is called ecosystem.*, or has a list of "apps".
func (r *reader) list(top hujson.Value) (list []hujson.Value, pm2 bool, err error) {
	pm2 = IsEcosystem(r.path)
	switch v := top.Value.(type) {
	case *hujson.Array:
		return v.Elements, pm2, nil
	case *hujson.Object:
		for _, m := range v.Members {
			if m.Name.Value.(hujson.Literal).String() == "apps" {
				list, err = r.pm2List(top)
				return list, true, err
			}
		}
		return []hujson.Value{top}, pm2, nil
	}
	return nil, false, r.errorAt(top, "an app is an object, and several are an array of objects, not %s", article(top))
}

// members reads an object, in which no key is twice. what says what it is.
func (r *reader) members(v hujson.Value, what string) ([]member, error) {
	object, ok := v.Value.(*hujson.Object)
	if !ok {
		return nil, r.errorAt(v, "%s takes an object, not %s", what, article(v))
	}
	var list []member
	seen := map[string]bool{}
	for _, m := range object.Members {
		key := m.Name.Value.(hujson.Literal).String()
		if seen[key] {
			return nil, r.errorAt(m.Name, "%s has %q twice", what, key)
		}
		seen[key] = true
		list = append(list, member{key: key, at: m.Name, value: m.Value})
	}
	return list, nil
}

// article is what kind of thing a value is, for messages.
func article(v hujson.Value) string {
	switch v.Value.Kind() {
	case '{':
		return "an object"
	case '[':
		return "an array"
	case '"':
		return "a string"
	case '0':
		return "a number"
	case 'n':
		return "null"
	}
	return string(v.Value.(hujson.Literal))
}

// scalar is the text of a string, a number or a boolean; ok says that the value
// is one.
func (r *reader) scalar(v hujson.Value, key string) (text string, ok bool, err error) {
	literal, ok := v.Value.(hujson.Literal)
	if !ok {
		return "", false, nil
	}
	switch literal.Kind() {
	case 'n':
		return "", false, nil
	case '0':
		if text, ok = decimal(string(literal)); !ok {
			return "", false, r.errorAt(v, "%q cannot be as large as %s", key, literal)
		}
		return text, true, nil
	}
	text = literal.String()
	if strings.ContainsRune(text, 0) {
		return "", false, r.errorAt(v, "%q contains a NUL, which no program can be given", key)
	}
	return text, true, nil
}

// decimal writes a number of JSON without an exponent; false: it is too large.
func decimal(literal string) (string, bool) {
	if !strings.ContainsAny(literal, "eE") {
		return literal, true
	}
	f, err := strconv.ParseFloat(literal, 64)
	if err != nil || math.IsInf(f, 0) {
		return "", false
	}
	return strconv.FormatFloat(f, 'f', -1, 64), true
}

// readText reads a string or a number.
func (r *reader) readText(v hujson.Value, key string) (string, error) {
	text, ok, err := r.scalar(v, key)
	if err == nil && (!ok || isBoolean(v)) {
		err = r.errorAt(v, "%q takes a string or a number, not %s", key, article(v))
	}
	return text, err
}

func isBoolean(v hujson.Value) bool {
	k := v.Value.Kind()
	return k == 't' || k == 'f'
}

// readSwitch reads true or false, which may be in quotes.
func (r *reader) readSwitch(v hujson.Value, key string) (string, error) {
	text, ok, err := r.scalar(v, key)
	switch {
	case err != nil:
		return "", err
	case ok && (text == "true" || text == "false"):
		return text, nil
	case ok && v.Value.Kind() == '"':
		return "", r.errorAt(v, "%q takes true or false, not %q", key, text)
	}
	return "", r.errorAt(v, "%q takes true or false, not %s", key, article(v))
}

// readList reads an array of strings and numbers, or one alone.
func (r *reader) readList(v hujson.Value, key string) ([]string, error) {
	array, ok := v.Value.(*hujson.Array)
	if !ok {
		text, err := r.readText(v, key)
		if err != nil {
			return nil, err
		}
		return []string{text}, nil
	}
	list := make([]string, 0, len(array.Elements))
	for _, e := range array.Elements {
		text, err := r.readText(e, key)
		if err != nil {
			return nil, err
		}
		list = append(list, text)
	}
	return list, nil
}

// readWords reads an array of strings and numbers, or a string that is split as
// a shell would.
func (r *reader) readWords(v hujson.Value, key string) ([]string, error) {
	if v.Value.Kind() != '"' {
		return r.readList(v, key)
	}
	text, err := r.readText(v, key)
	if err != nil {
		return nil, err
	}
	if strings.TrimSpace(text) == "" {
		return []string{}, nil
	}
	words, err := r.keys.Split(text)
	if err != nil {
		return nil, r.errorAt(v, "%q: %s", key, oneLine(err.Error()))
	}
	return words, nil
}

// readEnv reads an object of variables. nested, which is pm2's way, allows
// objects and arrays: their JSON is the value.
func (r *reader) readEnv(v hujson.Value, key string, nested bool) (map[string]string, error) {
	members, err := r.members(v, strconv.Quote(key))
	if err != nil {
		return nil, err
	}
	vars := map[string]string{}
	for _, m := range members {
		if m.key == "" || strings.ContainsAny(m.key, "=\x00") {
			return nil, r.errorAt(m.at, "%q cannot be the name of a variable", m.key)
		}
		text, ok, err := r.scalar(m.value, m.key)
		if err != nil {
			return nil, err
		}
		switch kind := m.value.Value.Kind(); {
		case kind == 'n':
			return nil, r.errorAt(m.value, "the variable %q cannot be null: leave it out, or give \"\"", m.key)
		case !ok && !nested:
			return nil, r.errorAt(m.value, "the variable %q takes a string, a number or a boolean, not %s", m.key, article(m.value))
		case !ok:
			compact := m.value.Clone()
			compact.Minimize()
			text = string(compact.Pack())
		}
		vars[m.key] = text
	}
	return vars, nil
}

// oneLine makes one short line of a text that came from elsewhere.
func oneLine(text string) string {
	text = strings.Join(strings.FieldsFunc(text, func(r rune) bool { return unicode.IsSpace(r) || unicode.IsControl(r) }), " ")
	const most = 300
	if len(text) > most {
		text = strings.ToValidUTF8(text[:most], "") + "..."
	}
	return text
}

// cause is the reason in an error of a file operation, without the path.
func cause(err error) error {
	if e := new(fs.PathError); errors.As(err, &e) {
		return e.Err
	}
	if e := new(os.SyscallError); errors.As(err, &e) {
		return e.Err
	}
	return err
}
