package main

import (
	"context"
	"fmt"
	"io"
	"os"
	"strings"
	"sync"
	"time"

	"google.golang.org/grpc"
	"google.golang.org/grpc/codes"
	"google.golang.org/grpc/credentials"
	"google.golang.org/grpc/credentials/insecure"
	_ "google.golang.org/grpc/encoding/gzip"
	healthpb "google.golang.org/grpc/health/grpc_health_v1"
	"google.golang.org/grpc/metadata"
	"google.golang.org/grpc/status"
)

const service = "/testkit.v1.Test/"

var failures int

func report(name string, run func() error) {
	if err := run(); err != nil {
		failures++
		fmt.Printf("FAILED grpc-go client: %s: %v\n", name, err)
		return
	}
	fmt.Printf("ok grpc-go client: %s\n", name)
}

type client struct{ *grpc.ClientConn }

func (c client) unary(ctx context.Context, method string, request *record, options ...grpc.CallOption) (*record, error) {
	reply := newRecord()
	err := c.Invoke(ctx, service+method, request, reply, options...)
	return reply, err
}

func (c client) stream(ctx context.Context, method string) (grpc.ClientStream, error) {
	return c.NewStream(ctx, &grpc.StreamDesc{ServerStreams: true, ClientStreams: true}, service+method)
}

func within(limit time.Duration) (context.Context, context.CancelFunc) {
	return context.WithTimeout(context.Background(), limit)
}

func call(arguments []string) error {
	transport := insecure.NewCredentials()
	if len(arguments) == 2 {
		root, err := credentials.NewClientTLSFromFile(arguments[1], "localhost")
		if err != nil {
			return err
		}
		transport = root
	}
	connection, err := grpc.NewClient(arguments[0], grpc.WithTransportCredentials(transport))
	if err != nil {
		return err
	}
	defer connection.Close()
	c := client{connection}
	report("unary, 1 MiB, empty, gzip", func() error {
		ctx, cancel := within(20 * time.Second)
		defer cancel()
		for _, size := range []int{0, 7, 1 << 20} {
			for _, options := range [][]grpc.CallOption{nil, {grpc.UseCompressor("gzip")}} {
				request := number(7)
				request.bytes[3] = []byte(strings.Repeat("x", size))
				reply, err := c.unary(ctx, "Echo", request, options...)
				if err != nil {
					return err
				}
				if reply.numbers[1] != 7 || len(reply.bytes[3]) != size {
					return fmt.Errorf("%d bytes came back of %d", len(reply.bytes[3]), size)
				}
			}
		}
		return nil
	})
	report("streams of all kinds", func() error { return streams(c) })
	report("errors of all codes, with metadata at both ends", func() error {
		ctx, cancel := within(20 * time.Second)
		defer cancel()
		for code := codes.Canceled; code <= codes.Unauthenticated; code++ {
			request := number(int64(code))
			request.bytes[2] = []byte("grüße % \n☺")
			var trailers metadata.MD
			_, err := c.unary(ctx, "Fail", request, grpc.Trailer(&trailers))
			got := status.Convert(err)
			if got.Code() != code || got.Message() != "grüße % \n☺" || trailers.Get("x-fail")[0] != "yes" {
				return fmt.Errorf("%v: %v, %v", code, err, trailers)
			}
		}
		return nil
	})
	report("a status message of 4,000 bytes that are not ASCII", func() error {
		ctx, cancel := within(20 * time.Second)
		defer cancel()
		request := number(int64(codes.Aborted))
		request.bytes[2] = []byte(strings.Repeat("あ", 1333))
		_, err := c.unary(ctx, "Fail", request)
		got := status.Convert(err)
		if got.Code() != codes.Aborted || !strings.HasPrefix(got.Message(), "あああ") || strings.Contains(got.Message(), "\uFFFD") {
			return err
		}
		return nil
	})
	report("metadata with white space at its ends", func() error {
		ctx, cancel := within(20 * time.Second)
		defer cancel()
		for _, value := range []string{" padded ", " ", ""} {
			sent := metadata.AppendToOutgoingContext(ctx, "x-value", value, "x-other", "1")
			var heads metadata.MD
			if _, err := c.unary(sent, "MetadataEcho", newRecord(), grpc.Header(&heads)); err != nil {
				return fmt.Errorf("%q: %w", value, err)
			}
			if other := heads.Get("x-other"); len(other) != 1 || other[0] != "1" {
				return fmt.Errorf("%q: %v", value, heads)
			}
		}
		return nil
	})
	report("200 deadlines", func() error {
		var all sync.WaitGroup
		wrong := make(chan error, 200)
		for range 200 {
			all.Go(func() {
				ctx, cancel := within(50 * time.Millisecond)
				defer cancel()
				if _, err := c.unary(ctx, "Hang", newRecord()); status.Code(err) != codes.DeadlineExceeded {
					wrong <- err
				}
			})
		}
		all.Wait()
		close(wrong)
		if err, any := <-wrong; any {
			return fmt.Errorf("of %d: %w", len(wrong)+1, err)
		}
		return nil
	})
	report("2,000 calls that are given up, at once and after 1 to 10 ms", func() error {
		reuse := c.GetState()
		var all sync.WaitGroup
		places := make(chan struct{}, 20)
		for n := range 2000 {
			places <- struct{}{}
			all.Go(func() {
				defer func() { <-places }()
				ctx, cancel := context.WithCancel(context.Background())
				time.AfterFunc(time.Duration(n%10)*time.Millisecond, cancel)
				c.unary(ctx, "Hang", newRecord())
				cancel()
			})
		}
		all.Wait()
		ctx, cancel := within(10 * time.Second)
		defer cancel()
		reply, err := c.unary(ctx, "Echo", number(1))
		if err != nil || reply.numbers[1] != 1 || c.GetState() != reuse {
			return fmt.Errorf("after that: %v, %v", c.GetState(), err)
		}
		return nil
	})
	report("health", func() error {
		ctx, cancel := within(10 * time.Second)
		defer cancel()
		answer, err := healthpb.NewHealthClient(c).Check(ctx, &healthpb.HealthCheckRequest{})
		if err == nil && answer.Status != healthpb.HealthCheckResponse_SERVING {
			err = fmt.Errorf("%v", answer.Status)
		}
		return err
	})
	if failures > 0 {
		os.Exit(1)
	}
	return nil
}

func streams(c client) error {
	ctx, cancel := within(20 * time.Second)
	defer cancel()
	request := number(100)
	request.numbers[2] = 1000
	stream, err := c.stream(ctx, "ServerStream")
	if err != nil {
		return err
	}
	if err := stream.SendMsg(request); err != nil {
		return err
	}
	stream.CloseSend()
	for n := int64(0); ; n++ {
		message := newRecord()
		if err := stream.RecvMsg(message); err == io.EOF && n == 100 {
			break
		} else if err != nil || message.numbers[1] != n || len(message.bytes[3]) != 1000 {
			return fmt.Errorf("message %d: %v, %v", n, message.numbers, err)
		}
	}
	stream, err = c.stream(ctx, "ClientStream")
	if err != nil {
		return err
	}
	for n := int64(1); n <= 100; n++ {
		if err := stream.SendMsg(number(n)); err != nil {
			return err
		}
	}
	stream.CloseSend()
	sum := newRecord()
	if err := stream.RecvMsg(sum); err != nil || sum.numbers[1] != 5050 {
		return fmt.Errorf("the sum is %v, %v", sum.numbers, err)
	}
	stream, err = c.stream(ctx, "Chat")
	if err != nil {
		return err
	}
	for n := int64(0); n < 100; n++ {
		message := newRecord()
		if err := stream.SendMsg(number(n)); err != nil {
			return err
		}
		if err := stream.RecvMsg(message); err != nil || message.numbers[1] != n {
			return fmt.Errorf("answer %d: %v, %v", n, message.numbers, err)
		}
	}
	stream.CloseSend()
	if err := stream.RecvMsg(newRecord()); err != io.EOF {
		return err
	}
	return nil
}
