// Package endpoint knows where each configured endpoint is right now, as `IP:port`.
//
// Envoy's original-destination cluster takes an address, not a name, so host names are resolved here and refreshed.
// A name that stops resolving keeps its last answer. This package never chooses between endpoints (routing does).
package endpoint

import (
	"cmp"
	"context"
	"fmt"
	"log/slog"
	"net"
	"net/netip"
	"slices"
	"strconv"
	"strings"
	"sync"
	"time"

	"github.com/vllm-project/semantic-router/src/semantic-router/internal/config"
)

const (
	refreshInterval = 30 * time.Second
	lookupTimeout   = 5 * time.Second
)

// Lookup resolves a host name; net.Resolver.LookupNetIP with network "ip" has this shape.
type Lookup func(ctx context.Context, host string) ([]netip.Addr, error)

// DNS is the system's resolver.
func DNS(ctx context.Context, host string) ([]netip.Addr, error) {
	return net.DefaultResolver.LookupNetIP(ctx, "ip", host)
}

// Table holds the current address of every endpoint by name. It may be read from any number of goroutines.
type Table struct {
	endpoints []config.Endpoint
	lookup    Lookup

	mutex     sync.RWMutex
	addresses map[string]netip.AddrPort
}

// NewTable resolves all endpoints once. One that does not resolve has no address until a refresh finds it.
func NewTable(ctx context.Context, endpoints []config.Endpoint, lookup Lookup) *Table {
	t := &Table{endpoints: endpoints, lookup: lookup, addresses: map[string]netip.AddrPort{}}
	t.refresh(ctx)
	return t
}

// Run refreshes the table until ctx ends. It returns at once if every address is literal.
func (t *Table) Run(ctx context.Context) {
	isName := func(e config.Endpoint) bool { _, err := netip.ParseAddr(e.Address); return err != nil }
	if !slices.ContainsFunc(t.endpoints, isName) {
		return
	}
	ticker := time.NewTicker(refreshInterval)
	defer ticker.Stop()
	for {
		select {
		case <-ctx.Done():
			return
		case <-ticker.C:
			t.refresh(ctx)
		}
	}
}

// refresh looks all endpoints up at the same time, so that one dead name delays the others by nothing.
func (t *Table) refresh(ctx context.Context) {
	ctx, cancel := context.WithTimeout(ctx, lookupTimeout)
	defer cancel()
	var wait sync.WaitGroup
	for _, endpoint := range t.endpoints {
		wait.Go(func() {
			address, err := resolve(ctx, endpoint.Address, t.lookup)
			if err != nil {
				slog.Warn("endpoint_unresolved", "endpoint", endpoint.Name, "address", endpoint.Address, "error", err)
				return
			}
			t.mutex.Lock()
			defer t.mutex.Unlock()
			t.addresses[endpoint.Name] = netip.AddrPortFrom(address, uint16(endpoint.Port))
		})
	}
	wait.Wait()
}

// resolve prefers IPv4, which is what container networks route, then the lowest address, so that an answer in
// another order is no change.
func resolve(ctx context.Context, host string, lookup Lookup) (netip.Addr, error) {
	if address, err := netip.ParseAddr(host); err == nil {
		return address, nil
	}
	addresses, err := lookup(ctx, host)
	if err != nil {
		return netip.Addr{}, err
	}
	if len(addresses) == 0 {
		return netip.Addr{}, fmt.Errorf("%s has no address", host)
	}
	return slices.MinFunc(addresses, func(a, b netip.Addr) int {
		a, b = a.Unmap(), b.Unmap()
		return cmp.Or(cmp.Compare(a.BitLen(), b.BitLen()), a.Compare(b))
	}).Unmap(), nil
}

// Address is where the endpoint of that name is now; ok is false if it never resolved.
func (t *Table) Address(name string) (address netip.AddrPort, ok bool) {
	t.mutex.RLock()
	defer t.mutex.RUnlock()
	address, ok = t.addresses[name]
	return address, ok
}

// Override gives an endpoint another address; assignment is `NAME=HOST:PORT`.
func Override(endpoints []config.Endpoint, assignment string) error {
	name, address, ok := strings.Cut(assignment, "=")
	host, portText, err := net.SplitHostPort(address)
	port, portErr := strconv.ParseUint(portText, 10, 16)
	if !ok || err != nil || portErr != nil || port == 0 {
		return fmt.Errorf("`%s` is not NAME=HOST:PORT", assignment)
	}
	if problem := config.CheckAddress(host); problem != "" {
		return fmt.Errorf("`%s`: the host %s", assignment, problem)
	}
	var names []string
	for i := range endpoints {
		if endpoints[i].Name == name {
			endpoints[i].Address, endpoints[i].Port = host, int(port)
			return nil
		}
		names = append(names, endpoints[i].Name)
	}
	return fmt.Errorf("`%s`: no endpoint has this name; the configuration has %s", assignment, strings.Join(names, ", "))
}
