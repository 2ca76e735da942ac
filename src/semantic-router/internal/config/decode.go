package config

import (
	"fmt"
	"reflect"
	"slices"
	"strings"

	"go.yaml.in/yaml/v3"
)

// maxMerges bounds how deep merge keys (`<<`) may lead, and with it one that leads to itself. Everything else ends
// where the schema ends.
const maxMerges = 16

// decoder fills a Config from a YAML tree and remembers the line of every key it met.
//
// The library's own strict decoding was not used: it reports unknown keys and wrong types as the same kind of error,
// and leaves no line numbers behind for the validation that follows.
type decoder struct {
	file     string
	findings Findings
	lines    map[string]int
	ignored  []string
}

// report adds a finding at the line of key, or of the nearest enclosing key that the file has.
func (d *decoder) report(severity Severity, key, format string, args ...any) {
	line := 0
	for at := key; ; {
		if known, ok := d.lines[at]; ok {
			line = known
			break
		}
		cut := strings.LastIndexAny(at, ".[")
		if cut < 0 {
			break
		}
		at = at[:cut]
	}
	d.findings = append(d.findings, Finding{d.file, line, severity, key, fmt.Sprintf(format, args...)})
}

func (d *decoder) decode(node *yaml.Node, key string, out reflect.Value) {
	if node.Kind == yaml.AliasNode {
		node = node.Alias
	}
	if node.Tag == "!!null" {
		return // `key:` with nothing behind it keeps the default
	}
	switch out.Kind() {
	case reflect.Pointer:
		value := reflect.New(out.Type().Elem())
		d.decode(node, key, value.Elem())
		out.Set(value)
	case reflect.Struct:
		d.decodeStruct(node, key, out)
	case reflect.Map:
		if d.wants(node, key, yaml.MappingNode, "a mapping") {
			out.Set(reflect.MakeMap(out.Type()))
			d.eachKey(node, key, func(name string, value *yaml.Node) {
				element := reflect.New(out.Type().Elem()).Elem()
				d.decode(value, join(key, name), element)
				out.SetMapIndex(reflect.ValueOf(name), element)
			})
		}
	case reflect.Slice:
		if d.wants(node, key, yaml.SequenceNode, "a list") {
			out.Set(reflect.MakeSlice(out.Type(), len(node.Content), len(node.Content)))
			for i, item := range node.Content {
				itemKey := fmt.Sprintf("%s[%d]", key, i)
				d.lines[itemKey] = item.Line
				d.decode(item, itemKey, out.Index(i))
			}
		}
	default:
		d.decodeScalar(node, key, out)
	}
}

func (d *decoder) decodeStruct(node *yaml.Node, key string, out reflect.Value) {
	if !d.wants(node, key, yaml.MappingNode, "a mapping") {
		return
	}
	var names []string
	fields, renamed, openEnded := map[string]reflect.Value{}, map[string]string{}, false
	for i := range out.NumField() {
		tag := out.Type().Field(i).Tag
		name := tag.Get("yaml")
		if name == "*" {
			openEnded = true
			continue
		}
		names = append(names, name)
		fields[name] = out.Field(i)
		for _, old := range strings.FieldsFunc(tag.Get("was"), func(r rune) bool { return r == ',' }) {
			renamed[old] = name
		}
	}
	given := map[string]bool{}
	d.eachKey(node, key, func(name string, value *yaml.Node) {
		at := join(key, name)
		field, ok := fields[name]
		if current, old := renamed[name]; old && !ok {
			d.report(Warning, at, "old spelling of `%s`", current)
			d.lines[join(key, current)] = d.lines[at]
			name, at = current, join(key, current)
			field, ok = fields[current]
		}
		if given[name] {
			d.report(Error, at, "given twice, once by an old spelling")
			return
		}
		given[name] = true
		switch {
		case ok && field.Type() == reflect.TypeFor[ignored](), !ok && openEnded:
			d.ignored = append(d.ignored, at)
		case ok:
			d.decode(value, at, field)
		case key == "" && (name == "signals" || name == "providers"):
			d.report(Warning, at, "unknown key: this is the input format of the vllm-sr tool, not the router's")
		default:
			d.report(Warning, at, "unknown key%s", nearest(name, names))
		}
	})
}

// eachKey visits a mapping's pairs in file order, then those that merge keys (`<<`) add.
func (d *decoder) eachKey(node *yaml.Node, key string, visit func(name string, value *yaml.Node)) {
	seen := map[string]bool{}
	var walk func(node *yaml.Node, merges int)
	walk = func(node *yaml.Node, merges int) {
		if node.Kind == yaml.AliasNode {
			node = node.Alias
		}
		if node.Kind == yaml.SequenceNode && merges > 0 {
			for _, source := range node.Content {
				walk(source, merges)
			}
			return
		}
		if node.Kind != yaml.MappingNode || merges > maxMerges {
			d.report(Error, key, "`<<` wants a mapping that does not contain itself")
			return
		}
		var sources []*yaml.Node
		for i := 0; i+1 < len(node.Content); i += 2 {
			name, value := node.Content[i], node.Content[i+1]
			if name.Tag == "!!merge" {
				sources = append(sources, value)
				continue
			}
			if seen[name.Value] {
				if merges == 0 {
					d.report(Error, join(key, name.Value), "given twice, again in line %d", name.Line)
				}
				continue
			}
			seen[name.Value] = true
			d.lines[join(key, name.Value)] = name.Line
			visit(name.Value, value)
		}
		for _, source := range sources {
			walk(source, merges+1)
		}
	}
	walk(node, 0)
}

func (d *decoder) decodeScalar(node *yaml.Node, key string, out reflect.Value) {
	wanted := map[reflect.Kind]string{
		reflect.String: "a string", reflect.Int: "an integer", reflect.Float64: "a number", reflect.Bool: "true or false",
	}[out.Kind()]
	if !d.wants(node, key, yaml.ScalarNode, wanted) {
		return
	}
	accepted := map[reflect.Kind][]string{
		reflect.Int: {"!!int"}, reflect.Float64: {"!!int", "!!float"}, reflect.Bool: {"!!bool"},
	}[out.Kind()]
	if out.Kind() == reflect.String {
		out.SetString(node.Value) // `keywords: [1.0, 2024]` means the text as written
		return
	}
	if !slices.Contains(accepted, node.Tag) || node.Decode(out.Addr().Interface()) != nil {
		d.report(Error, key, "wanted %s, got `%s`", wanted, node.Value)
	}
}

// wants reports a node of another kind. It never quotes the value: the key may be one that holds a secret.
func (d *decoder) wants(node *yaml.Node, key string, kind yaml.Kind, wanted string) bool {
	if node.Kind == kind {
		return true
	}
	got := map[yaml.Kind]string{
		yaml.MappingNode: "a mapping", yaml.SequenceNode: "a list", yaml.ScalarNode: "a single value",
	}[node.Kind]
	d.report(Error, key, "wanted %s, got %s", wanted, got)
	return false
}

func join(key, name string) string {
	if key == "" {
		return name
	}
	return key + "." + name
}
