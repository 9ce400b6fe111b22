package backup

import (
	"context"
	"errors"
	"fmt"
	"io"

	"google.golang.org/grpc"
	"google.golang.org/grpc/codes"
	"google.golang.org/grpc/status"
	"google.golang.org/protobuf/types/known/emptypb"
	"google.golang.org/protobuf/types/known/wrapperspb"
)

// A running server is asked for a backup at the socket of its container runtime, which only root can open.
const (
	service = "peapod.daemon.v1.Backup"
	method  = "/" + service + "/Take"
	chunk   = 1 << 20
)

// Register has a gRPC server send backups, which write writes.
func Register(server grpc.ServiceRegistrar, write func(context.Context, io.Writer) error) {
	server.RegisterService(&grpc.ServiceDesc{
		ServiceName: service,
		HandlerType: (*any)(nil),
		Streams: []grpc.StreamDesc{{
			StreamName: "Take",
			Handler: func(_ any, stream grpc.ServerStream) error {
				if err := stream.RecvMsg(&emptypb.Empty{}); err != nil {
					return err
				}
				return write(stream.Context(), sender{stream})
			},
			ServerStreams: true,
		}},
		Metadata: "peapod/backup",
	}, nil)
}

// sender sends what is written to it as messages. Write writes no more at once than fits in one.
type sender struct{ stream grpc.ServerStream }

func (s sender) Write(p []byte) (n int, err error) {
	for n < len(p) {
		part := p[n:min(n+chunk, len(p))]
		if err := s.stream.SendMsg(wrapperspb.Bytes(part)); err != nil {
			return n, err
		}
		n += len(part)
	}
	return n, nil
}

// Fetch writes to w the backup of the server behind conn.
func Fetch(ctx context.Context, conn grpc.ClientConnInterface, w io.Writer) error {
	ctx, cancel := context.WithCancel(ctx)
	defer cancel()
	stream, err := conn.NewStream(ctx, &grpc.StreamDesc{StreamName: "Take", ServerStreams: true}, method)
	if err != nil {
		return fmt.Errorf("ask the server for a backup: %w", err)
	}
	if err := stream.SendMsg(&emptypb.Empty{}); err != nil && !errors.Is(err, io.EOF) { // the error comes with the answer
		return fmt.Errorf("ask the server for a backup: %w", err)
	}
	if err := stream.CloseSend(); err != nil {
		return fmt.Errorf("ask the server for a backup: %w", err)
	}
	for {
		var part wrapperspb.BytesValue
		err := stream.RecvMsg(&part)
		switch {
		case errors.Is(err, io.EOF):
			return nil
		case status.Code(err) == codes.Unimplemented:
			return errors.New("the server that runs is of a release that takes no backups; restart it, or stop it first")
		case err != nil:
			return fmt.Errorf("take a backup: %s", status.Convert(err).Message())
		}
		if _, err := w.Write(part.Value); err != nil {
			return fmt.Errorf("write the backup: %w", err)
		}
	}
}
