package main

import (
	"fmt"
	"sort"
)

// table is a TOML table being read: every key must be asked for, or it is unknown. Problems are
// collected, so that a reader gets all of them at once.
type table struct {
	path   string
	values map[string]any
	asked  map[string]bool
	found  *[]string
}

func newTable(values map[string]any) *table {
	return &table{values: values, asked: map[string]bool{}, found: &[]string{}}
}

func (t *table) at(key string) string {
	if t.path == "" {
		return key
	}
	return t.path + "." + key
}

func (t *table) problem(key, format string, args ...any) {
	*t.found = append(*t.found, t.at(key)+": "+fmt.Sprintf(format, args...))
}

func (t *table) has(key string) bool {
	_, found := t.values[key]
	return found
}

func kind(value any) string {
	switch value.(type) {
	case string:
		return "string"
	case int64:
		return "integer"
	case bool:
		return "boolean"
	case map[string]any:
		return "map"
	case []any, []map[string]any:
		return "sequence"
	}
	return fmt.Sprintf("%T", value)
}

// get is the value of a key of the type T, or false; a wrong type is a problem.
func get[T any](t *table, key, expected string) (T, bool) {
	var none T
	t.asked[key] = true
	value, found := t.values[key]
	if !found {
		return none, false
	}
	typed, right := value.(T)
	if !right {
		t.problem(key, "invalid type: %s, expected %s", kind(value), expected)
	}
	return typed, right
}

func (t *table) text(key string) string {
	value, _ := get[string](t, key, "a string")
	return value
}

// must is the text of a key that has to be there and not empty.
func (t *table) must(key string) string {
	if !t.has(key) {
		t.problem(key, "missing field")
	} else if value, right := t.values[key].(string); right && value == "" {
		t.problem(key, "is empty")
	}
	return t.text(key)
}

func (t *table) boolean(key string) bool {
	value, _ := get[bool](t, key, "a boolean")
	return value
}

func (t *table) integer(key string, least, most int64) int64 {
	value, right := get[int64](t, key, "an integer")
	if right && (value < least || value > most) {
		t.problem(key, "invalid value: integer %d, expected %d..%d", value, least, most)
	}
	return value
}

// sub is the table at a key, or nil.
func (t *table) sub(key string) *table {
	values, right := get[map[string]any](t, key, "a map")
	if !right {
		return nil
	}
	return &table{path: t.at(key), values: values, asked: map[string]bool{}, found: t.found}
}

// texts are the strings of a list.
func (t *table) texts(key string) []string {
	list, right := get[[]any](t, key, "a sequence")
	if !right {
		return nil
	}
	var out []string
	for i, item := range list {
		text, right := item.(string)
		if !right {
			t.problem(key, "element %d: invalid type: %s, expected a string", i, kind(item))
			continue
		}
		out = append(out, text)
	}
	return out
}

// textMap are the pairs of a table in which every value is a string and every key is free.
func (t *table) textMap() map[string]string {
	out := map[string]string{}
	for key := range t.values {
		out[key] = t.must(key)
	}
	return out
}

// oneOf is the text of a key that names a variant.
func (t *table) oneOf(key string, variants ...string) string {
	value := t.must(key)
	if value != "" && !contains(variants, value) {
		t.problem(key, "unknown variant `%s`, expected one of %v", value, variants)
	}
	return value
}

// parsed applies a parser to the text of a key.
func parsed[T any](t *table, key string, parse func(string) (T, error)) T {
	var none T
	text := t.must(key)
	if text == "" {
		return none
	}
	value, err := parse(text)
	if err != nil {
		t.problem(key, "%v", err)
		return none
	}
	return value
}

// free marks the keys as known without looking into them.
func (t *table) free(keys ...string) {
	for _, key := range keys {
		t.asked[key] = true
	}
}

// end reports the keys nobody asked for. The real tool ignores most of them without a word.
func (t *table) end() {
	var unknown []string
	for key := range t.values {
		if !t.asked[key] {
			unknown = append(unknown, key)
		}
	}
	sort.Strings(unknown)
	for _, key := range unknown {
		t.problem(key, "unknown field")
	}
}
