package endpoint

import (
	"context"
	"errors"
	"fmt"
	"net/netip"
	"strings"
	"testing"

	"github.com/vllm-project/semantic-router/src/semantic-router/internal/config"
)

func TestTable(t *testing.T) {
	answers := map[string][]netip.Addr{"lab": {netip.MustParseAddr("::1"), netip.MustParseAddr("::ffff:10.0.0.2"), netip.MustParseAddr("10.0.0.9")}}
	lookup := func(_ context.Context, host string) ([]netip.Addr, error) {
		if found, ok := answers[host]; ok {
			return found, nil
		}
		return nil, errors.New("no such host")
	}
	table := NewTable(t.Context(), []config.Endpoint{
		{Name: "literal", Address: "10.0.0.1", Port: 80}, {Name: "v6", Address: "::1", Port: 80},
		{Name: "named", Address: "lab", Port: 8000}, {Name: "late", Address: "late", Port: 1}, {Name: "empty", Address: "empty", Port: 1},
	}, lookup)
	answers["empty"] = nil
	check := func(want string) {
		t.Helper()
		var got []string
		for _, name := range []string{"literal", "v6", "named", "late", "empty", "unknown"} {
			if address, ok := table.Address(name); ok {
				got = append(got, name+"="+address.String())
			}
		}
		if fmt.Sprint(got) != want {
			t.Errorf("table is %v, want %s", got, want)
		}
	}
	check("[literal=10.0.0.1:80 v6=[::1]:80 named=10.0.0.2:8000]")

	delete(answers, "lab") // keeps its last answer
	answers["late"] = []netip.Addr{netip.MustParseAddr("10.0.0.3")}
	table.refresh(t.Context())
	check("[literal=10.0.0.1:80 v6=[::1]:80 named=10.0.0.2:8000 late=10.0.0.3:1]")

	answers["lab"] = []netip.Addr{netip.MustParseAddr("10.0.0.4")}
	table.refresh(t.Context())
	check("[literal=10.0.0.1:80 v6=[::1]:80 named=10.0.0.4:8000 late=10.0.0.3:1]")
}

func TestOverride(t *testing.T) {
	for _, c := range []struct{ assignment, want, problem string }{
		{"a=10.0.0.9:81", "10.0.0.9 81", ""},
		{"a=[::1]:81", "::1 81", ""},
		{"a=host:81", "host 81", ""},
		{"b=10.0.0.9:81", "", "no endpoint has this name; the configuration has a"},
		{"10.0.0.9:81", "", "not NAME=HOST:PORT"}, {"a=10.0.0.9", "", "not NAME=HOST:PORT"}, {"a=h:0", "", "not NAME=HOST:PORT"},
		{"a=h:65536", "", "not NAME=HOST:PORT"}, {"a=:80", "", "is empty"}, {"a=h/x:80", "", "has a path"},
	} {
		endpoints := []config.Endpoint{{Name: "a", Address: "1.1.1.1", Port: 1}}
		err := Override(endpoints, c.assignment)
		got := fmt.Sprint(endpoints[0].Address, " ", endpoints[0].Port)
		if c.problem == "" && (err != nil || got != c.want) || c.problem != "" && (err == nil || !strings.Contains(err.Error(), c.problem)) {
			t.Errorf("%s: %s, %v, want %s%s", c.assignment, got, err, c.want, c.problem)
		}
	}
}
