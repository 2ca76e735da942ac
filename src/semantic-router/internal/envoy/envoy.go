// Package envoy writes the Envoy bootstrap that belongs to a configuration, from the same endpoint list by which the
// router routes.
//
// The filter fails closed: a router that is dead or late means an error for the client, never an unrouted request.
// Client copies of the headers that the router owns are removed before any filter sees them, because the
// original-destination cluster would connect to whatever address they name.
package envoy

import (
	"cmp"
	"fmt"
	"maps"
	"net/netip"
	"slices"

	"go.yaml.in/yaml/v3"

	"github.com/vllm-project/semantic-router/src/semantic-router/internal/config"
)

// Layout is how Envoy finds a backend.
type Layout string

const (
	// OriginalDst connects to the address in the router's header; one cluster serves all models.
	OriginalDst Layout = "original-dst"
	// PerModelCluster routes by the model's header to a cluster per model, which takes host names.
	PerModelCluster Layout = "cluster"
)

// Headers of the contract between router and Envoy. Everything that starts with OwnedPrefix is the router's alone.
const (
	OwnedPrefix         = "x-vsr-"
	SelectedModelHeader = "x-selected-model"
	DestinationHeader   = "x-vsr-destination-endpoint"
)

// lookupFamily: by Envoy's default a name with an IPv6 address is reached by that alone, listened on or not.
const lookupFamily = "V4_PREFERRED"

// MaxBodyBytes is the largest body that Envoy buffers for the router; larger ones are answered 413.
const MaxBodyBytes = 50 << 20

// Options are the addresses of the emitted stack. Port and AdminPort are TCP ports on ListenAddress.
type Options struct {
	Layout        Layout
	ListenAddress string
	Port          int
	AdminPort     int
	// RouterHost is an IP address or a name, such as a compose service; empty means loopback.
	RouterHost string
	RouterPort int
}

// A message is JSON-shaped protobuf. Plain maps keep the emitted keys sorted and the generated Envoy types, hundreds of
// packages, out of the build; Envoy itself judges the result in the tests.
type message = map[string]any

// Bootstrap returns the YAML.
//
// Errors: an unknown layout, or one that the configuration cannot be written in.
func Bootstrap(cfg *config.Config, options Options) ([]byte, error) {
	if _, err := netip.ParseAddr(options.ListenAddress); err != nil {
		return nil, fmt.Errorf("print the Envoy configuration: --listen-address %s: %w", options.ListenAddress, err)
	}
	routerHost := cmp.Or(options.RouterHost, "127.0.0.1")
	discovery := "STATIC"
	if _, err := netip.ParseAddr(routerHost); err != nil {
		discovery = "STRICT_DNS"
	}
	var routes, clusters []message
	switch options.Layout {
	case OriginalDst:
		routes = []message{route(message{"prefix": "/"}, "backend")}
		clusters = []message{{
			"name": "backend", "type": "ORIGINAL_DST", "lb_policy": "CLUSTER_PROVIDED", "connect_timeout": "5s",
			"original_dst_lb_config": message{"use_http_header": true, "http_header_name": DestinationHeader},
		}}
	case PerModelCluster:
		routes, clusters = perModel(cfg)
		if len(routes) == 0 {
			return nil, fmt.Errorf("print the Envoy configuration: no model in model_config has preferred_endpoints, so the layout `%s` has no cluster to route to", options.Layout)
		}
	default:
		return nil, fmt.Errorf("print the Envoy configuration: unknown layout `%s`; valid: %s, %s", options.Layout, OriginalDst, PerModelCluster)
	}
	clusters = append(clusters, message{
		"name": "router", "type": discovery, "dns_lookup_family": lookupFamily, "connect_timeout": "5s",
		"load_assignment": loadAssignment("router", message{"endpoint": message{"address": socket(routerHost, options.RouterPort)}}),
		"typed_extension_protocol_options": message{"envoy.extensions.upstreams.http.v3.HttpProtocolOptions": typed(
			"extensions.upstreams.http.v3.HttpProtocolOptions", message{"explicit_http_config": message{"http2_protocol_options": message{
				// A hung connection is noticed even while no request waits on it.
				"connection_keepalive": message{"interval": "30s", "timeout": "5s"},
			}}})},
	})
	out, err := yaml.Marshal(message{
		"admin": message{"address": socket(options.ListenAddress, options.AdminPort)},
		"static_resources": message{
			"listeners": []message{listener(options, routes)},
			"clusters":  clusters,
		},
	})
	if err != nil {
		return nil, fmt.Errorf("print the Envoy configuration: %w", err)
	}
	return out, nil
}

func listener(options Options, routes []message) message {
	manager := typed("extensions.filters.network.http_connection_manager.v3.HttpConnectionManager", message{
		"stat_prefix": "ingress",
		// One spelling of a path, so that none slips past the router's own comparison.
		"normalize_path": true, "merge_slashes": true, "path_with_escaped_slashes_action": "REJECT_REQUEST",
		"stream_idle_timeout": "300s", "request_timeout": "300s",
		"early_header_mutation_extensions": []message{{
			"name": "envoy.http.early_header_mutation.header_mutation",
			"typed_config": typed("extensions.http.early_header_mutation.header_mutation.v3.HeaderMutation", message{
				"mutations": []message{
					{"remove_on_match": message{"key_matcher": message{"prefix": OwnedPrefix, "ignore_case": true}}},
					{"remove": SelectedModelHeader},
				}}),
		}},
		"route_config": message{"virtual_hosts": []message{{"name": "all", "domains": []string{"*"}, "routes": routes}}},
		"http_filters": []message{
			{"name": "envoy.filters.http.ext_proc", "typed_config": typed("extensions.filters.http.ext_proc.v3.ExternalProcessor", message{
				"grpc_service":        message{"envoy_grpc": message{"cluster_name": "router"}},
				"failure_mode_allow":  false,
				"allow_mode_override": true,
				// Routing takes milliseconds; a router that hangs costs a client this long, then 504.
				"message_timeout": "10s",
				// Routes are matched again after the router named the model.
				"route_cache_action": routeCacheAction(options.Layout),
				// Header mutations of the body phase work only while the headers are still held: bodies are buffered.
				"processing_mode": message{
					"request_header_mode": "SEND", "request_body_mode": "BUFFERED", "request_trailer_mode": "SKIP",
					"response_header_mode": "SEND", "response_body_mode": "BUFFERED", "response_trailer_mode": "SKIP",
				},
			})},
			{"name": "envoy.filters.http.router", "typed_config": typed("extensions.filters.http.router.v3.Router", message{})},
		},
	})
	return message{
		"name": "ingress", "address": socket(options.ListenAddress, options.Port),
		"per_connection_buffer_limit_bytes": MaxBodyBytes, // Envoy's own default of 1 MiB is less than one long chat
		"filter_chains": []message{{"filters": []message{
			{"name": "envoy.filters.network.http_connection_manager", "typed_config": manager},
		}}},
	}
}

func routeCacheAction(layout Layout) string {
	if layout == PerModelCluster {
		return "CLEAR"
	}
	return "DEFAULT"
}

// perModel writes a cluster per model that has endpoints and a route per name that the router may send for it; the
// first model also takes what carries no model's header.
func perModel(cfg *config.Config) (routes, clusters []message) {
	byName := map[string]config.Endpoint{}
	for _, endpoint := range cfg.Endpoints {
		byName[endpoint.Name] = endpoint
	}
	for _, name := range slices.Sorted(maps.Keys(cfg.Models)) {
		model := cfg.Models[name]
		if len(model.PreferredEndpoints) == 0 {
			continue
		}
		var endpoints []message
		for _, preferred := range model.PreferredEndpoints {
			endpoint := byName[preferred]
			endpoints = append(endpoints, message{
				"endpoint":              message{"address": socket(endpoint.Address, endpoint.Port)},
				"load_balancing_weight": max(1, endpoint.EffectiveWeight()), // Envoy refuses 0
			})
		}
		cluster := "model " + name
		clusters = append(clusters, message{
			"name": cluster, "type": "STRICT_DNS", "dns_lookup_family": lookupFamily, "connect_timeout": "5s", "per_connection_buffer_limit_bytes": MaxBodyBytes,
			"load_assignment": loadAssignment(cluster, endpoints...),
		})
		sentNames := []string{name}
		for _, lora := range model.LoRAs {
			sentNames = append(sentNames, lora.Name)
		}
		for _, sent := range sentNames {
			routes = append(routes, route(message{"prefix": "/", "headers": []message{
				{"name": SelectedModelHeader, "string_match": message{"exact": sent}},
			}}, cluster))
		}
	}
	if len(clusters) > 0 {
		routes = append(routes, route(message{"prefix": "/"}, clusters[0]["name"].(string)))
	}
	return routes, clusters
}

func route(match message, cluster string) message {
	return message{"match": match, "route": message{"cluster": cluster, "timeout": "300s"}}
}

func loadAssignment(cluster string, endpoints ...message) message {
	return message{"cluster_name": cluster, "endpoints": []message{{"lb_endpoints": endpoints}}}
}

func socket(address string, port int) message {
	return message{"socket_address": message{"address": address, "port_value": port}}
}

func typed(name string, fields message) message {
	fields["@type"] = "type.googleapis.com/envoy." + name
	return fields
}
