package main

import (
	"context"
	"fmt"
	"io"
	"net"
	"os"
	"os/signal"
	"strings"
	"sync/atomic"
	"syscall"
	"time"

	"google.golang.org/grpc"
	"google.golang.org/grpc/codes"
	"google.golang.org/grpc/credentials"
	"google.golang.org/grpc/health"
	healthpb "google.golang.org/grpc/health/grpc_health_v1"
	"google.golang.org/grpc/keepalive"
	"google.golang.org/grpc/metadata"
	"google.golang.org/grpc/status"
)

// Requests of ServerStream and the first messages of the other streams with these numbers ask for more
// than test.proto says.
const (
	hang       = -1 // never answers
	earlyOK    = -2 // answers at once, whatever else comes
	earlyError = -3 // fails at once with metadata at both ends
)

var started, dropped atomic.Int64

func echoed(ctx context.Context) metadata.MD {
	sent, _ := metadata.FromIncomingContext(ctx)
	some := metadata.MD{}
	for name, values := range sent {
		if strings.HasPrefix(name, "x-") {
			some[name] = values
		}
	}
	return some
}

func failure(request *record) error {
	return status.Error(codes.Code(request.numbers[1]), string(request.bytes[2]))
}

func unary(name string, answer func(context.Context, *record) (*record, error)) grpc.MethodDesc {
	return grpc.MethodDesc{MethodName: name, Handler: func(_ any, ctx context.Context, decode func(any) error, _ grpc.UnaryServerInterceptor) (any, error) {
		request := newRecord()
		if err := decode(request); err != nil {
			return nil, err
		}
		reply, err := answer(ctx, request)
		if err != nil {
			return nil, err
		}
		return reply, nil
	}}
}

func wait(ctx context.Context) error {
	<-ctx.Done()
	return ctx.Err()
}

func early(stream grpc.ServerStream, asked int64) error {
	stream.SetHeader(metadata.Pairs("x-head", "early"))
	stream.SetTrailer(metadata.Pairs("x-trailer", "early"))
	if asked == earlyOK {
		return stream.SendMsg(number(42))
	}
	stream.SetTrailer(metadata.Pairs("x-details-bin", "\x08\x09"))
	return status.Error(codes.FailedPrecondition, "not now")
}

func echo(_ context.Context, request *record) (*record, error) { return request, nil }

var testService = grpc.ServiceDesc{
	ServiceName: "testkit.v1.Test",
	Methods: []grpc.MethodDesc{
		unary("Echo", echo),
		unary("EchoIdempotent", echo),
		unary("Fail", func(ctx context.Context, request *record) (*record, error) {
			grpc.SetHeader(ctx, metadata.Pairs("x-head", "yes"))
			grpc.SetTrailer(ctx, metadata.Pairs("x-fail", "yes"))
			return nil, failure(request)
		}),
		unary("Hang", func(ctx context.Context, _ *record) (*record, error) {
			started.Add(1)
			defer dropped.Add(1)
			return nil, wait(ctx)
		}),
		unary("Dropped", func(context.Context, *record) (*record, error) {
			counts := number(started.Load())
			counts.numbers[2] = dropped.Load()
			return counts, nil
		}),
		unary("MetadataEcho", func(ctx context.Context, _ *record) (*record, error) {
			sent := echoed(ctx)
			grpc.SetHeader(ctx, sent)
			grpc.SetTrailer(ctx, sent)
			return newRecord(), nil
		}),
	},
	Streams: []grpc.StreamDesc{
		{StreamName: "ServerStream", ServerStreams: true, Handler: func(_ any, stream grpc.ServerStream) error {
			request := newRecord()
			if err := stream.RecvMsg(request); err != nil {
				return err
			}
			switch count := request.numbers[1]; count {
			case hang:
				return wait(stream.Context())
			case earlyError:
				return early(stream, count)
			}
			for n := int64(0); n < request.numbers[1]; n++ {
				message := number(n)
				message.bytes[3] = make([]byte, request.numbers[2])
				if err := stream.SendMsg(message); err != nil {
					return err
				}
			}
			return nil
		}},
		{StreamName: "ClientStream", ClientStreams: true, Handler: func(_ any, stream grpc.ServerStream) error {
			sum := int64(0)
			for {
				message := newRecord()
				switch err := stream.RecvMsg(message); {
				case err == io.EOF:
					return stream.SendMsg(number(sum))
				case err != nil:
					return err
				}
				switch n := message.numbers[1]; n {
				case hang:
					return wait(stream.Context())
				case earlyOK, earlyError:
					return early(stream, n)
				default:
					sum += n
				}
			}
		}},
		{StreamName: "Chat", ServerStreams: true, ClientStreams: true, Handler: func(_ any, stream grpc.ServerStream) error {
			for {
				message := newRecord()
				switch err := stream.RecvMsg(message); {
				case err == io.EOF:
					return nil
				case err != nil:
					return err
				}
				switch n := message.numbers[1]; n {
				case hang:
					return wait(stream.Context())
				case earlyOK, earlyError:
					return early(stream, n)
				}
				if err := stream.SendMsg(message); err != nil {
					return err
				}
			}
		}},
	},
}

// serve prints its port; AGE in the environment ends every connection after so long, with GOAWAY.
func serve(arguments []string) error {
	options := []grpc.ServerOption{}
	if len(arguments) == 2 {
		tls, err := credentials.NewServerTLSFromFile(arguments[0], arguments[1])
		if err != nil {
			return err
		}
		options = append(options, grpc.Creds(tls))
	}
	if age := os.Getenv("AGE"); age != "" {
		limit, err := time.ParseDuration(age)
		if err != nil {
			return err
		}
		options = append(options, grpc.KeepaliveParams(keepalive.ServerParameters{MaxConnectionAge: limit, MaxConnectionAgeGrace: 20 * time.Second}))
	}
	server := grpc.NewServer(options...)
	server.RegisterService(&testService, nil)
	healthpb.RegisterHealthServer(server, health.NewServer())
	listener, err := net.Listen("tcp", "127.0.0.1:0")
	if err != nil {
		return err
	}
	fmt.Println(listener.Addr().(*net.TCPAddr).Port)
	end := make(chan os.Signal, 1)
	signal.Notify(end, syscall.SIGTERM, os.Interrupt)
	go func() {
		<-end
		server.Stop()
	}()
	return server.Serve(listener)
}
