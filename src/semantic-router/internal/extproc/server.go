// Package extproc speaks Envoy's external processing protocol: one gRPC stream per HTTP request.
//
// server.go owns the listener and the stream loop, phases.go what happens in each phase of a request, respond.go the
// shapes of the answers. A bad request is answered by an immediate response; only a broken stream ends a stream. No
// phase logs message text or a secret. Guard, PII check, semantic cache, tools, system prompt and reasoning get a file
// each beside phases.go and are called from requestBody in the order that the specification gives.
package extproc

import (
	"context"
	"errors"
	"fmt"
	"io"
	"log/slog"
	"net"
	"runtime/debug"
	"time"

	extprocv3 "github.com/envoyproxy/go-control-plane/envoy/service/ext_proc/v3"
	"google.golang.org/grpc"
	"google.golang.org/grpc/codes"
	"google.golang.org/grpc/keepalive"
	"google.golang.org/grpc/status"

	"github.com/vllm-project/semantic-router/src/semantic-router/internal/classify"
	"github.com/vllm-project/semantic-router/src/semantic-router/internal/config"
	"github.com/vllm-project/semantic-router/src/semantic-router/internal/endpoint"
	"github.com/vllm-project/semantic-router/src/semantic-router/internal/envoy"
	"github.com/vllm-project/semantic-router/src/semantic-router/internal/metrics"
	"github.com/vllm-project/semantic-router/src/semantic-router/internal/routing"
)

// maxMessageBytes is one buffered body plus room for headers. gRPC's own default of 4 MiB would refuse a long chat.
const maxMessageBytes = envoy.MaxBodyBytes + 1<<20

// Server answers Envoy. Its parts are immutable or safe for concurrent use.
type Server struct {
	extprocv3.UnimplementedExternalProcessorServer

	cfg        *config.Config
	keywords   *routing.Keywords
	embeddings *classify.EmbeddingRules
	endpoints  *endpoint.Table
	metrics    *metrics.Metrics
	grpc       *grpc.Server
}

// NewServer builds a server for a validated configuration.
func NewServer(cfg *config.Config, embeddings *classify.EmbeddingRules, endpoints *endpoint.Table, m *metrics.Metrics) *Server {
	s := &Server{cfg: cfg, keywords: routing.NewKeywords(cfg.KeywordRules), embeddings: embeddings, endpoints: endpoints, metrics: m}
	s.grpc = grpc.NewServer(
		grpc.MaxRecvMsgSize(maxMessageBytes),
		grpc.MaxSendMsgSize(maxMessageBytes),
		// Envoy pings every 30 s; gRPC's default calls more than one ping in 5 minutes an abuse and hangs up.
		grpc.KeepaliveEnforcementPolicy(keepalive.EnforcementPolicy{MinTime: 10 * time.Second, PermitWithoutStream: true}),
		grpc.StreamInterceptor(recoverPanic),
	)
	extprocv3.RegisterExternalProcessorServer(s.grpc, s)
	return s
}

// Serve answers until Drain; it returns nil then.
func (s *Server) Serve(listener net.Listener) error { return s.grpc.Serve(listener) }

// Drain takes no new stream, lets running ones end, and cuts those that outlive ctx.
func (s *Server) Drain(ctx context.Context) {
	stop := context.AfterFunc(ctx, s.grpc.Stop)
	defer stop()
	s.grpc.GracefulStop()
}

// Process runs one stream.
func (s *Server) Process(stream extprocv3.ExternalProcessor_ProcessServer) error {
	x := &exchange{Server: s}
	for {
		request, err := stream.Recv()
		if err != nil {
			return x.closed(err)
		}
		if err := stream.Send(x.handle(request)); err != nil {
			return x.closed(err)
		}
	}
}

// closed sorts out why a stream ended. Envoy ending it, at any moment, is no error of ours.
func (x *exchange) closed(err error) error {
	code := status.Code(err)
	switch {
	case errors.Is(err, io.EOF):
		return nil
	case code == codes.Canceled || errors.Is(err, context.Canceled):
		x.abandoned(metrics.Cancellation)
		return nil
	case code == codes.DeadlineExceeded || errors.Is(err, context.DeadlineExceeded):
		x.abandoned(metrics.Timeout)
		return nil
	}
	return fmt.Errorf("ext_proc stream of request %s: %w", x.requestID, err)
}

// recoverPanic turns a bug in one request into an error of its stream, which Envoy answers by 500: the filter fails
// closed, and every other request goes on.
func recoverPanic(server any, stream grpc.ServerStream, _ *grpc.StreamServerInfo, handler grpc.StreamHandler) (err error) {
	defer func() {
		if cause := recover(); cause != nil {
			slog.Error("panic", "cause", cause, "stack", string(debug.Stack()))
			err = status.Error(codes.Internal, "the router failed on this request; its log has the stack")
		}
	}()
	return handler(server, stream)
}
