package image

import (
	"context"
	"errors"
	"fmt"
	"io"

	"google.golang.org/grpc"
	"google.golang.org/grpc/metadata"
	"google.golang.org/protobuf/types/known/wrapperspb"
	runtimeapi "k8s.io/cri-api/pkg/apis/runtime/v1"

	"github.com/peapod/peapod/internal/rootsocket"
)

// The server gives local administrators the store of a running Peapod over a unix socket: the CRI's ImageService, so that
// crictl works too, and an import call of our own beside it.

const (
	importService   = "peapod.runtime.v1.ImageImport"
	importMethod    = "/" + importService + "/Import"
	importChunk     = 1 << 20
	nameHeader      = "peapod-image-name"
	maxImportHeader = 2048
)

// Serve answers on the unix socket at path until ctx ends. The socket is for root alone; its folder is made with mode 0700
// when absent. A socket file that nobody listens on is replaced. register adds further services. Optional.
func Serve(ctx context.Context, path string, store *Store, register ...func(grpc.ServiceRegistrar)) error {
	l, err := rootsocket.Listen(path)
	if err != nil {
		return fmt.Errorf("serve images: %w", err)
	}
	server := grpc.NewServer(grpc.MaxRecvMsgSize(4 << 20))
	Register(server, store)
	for _, more := range register {
		more(server)
	}
	stop := context.AfterFunc(ctx, server.Stop)
	defer stop()
	if err := server.Serve(l); err != nil && !errors.Is(err, grpc.ErrServerStopped) {
		return fmt.Errorf("serve images on %s: %w", path, err)
	}
	return nil
}

// Register adds the CRI's ImageService and the import call to a gRPC server.
func Register(server grpc.ServiceRegistrar, store *Store) {
	runtimeapi.RegisterImageServiceServer(server, imageServer{store: store})
	server.RegisterService(&grpc.ServiceDesc{
		ServiceName: importService,
		HandlerType: (*any)(nil),
		Streams: []grpc.StreamDesc{{
			StreamName:    "Import",
			Handler:       func(_ any, stream grpc.ServerStream) error { return serveImport(store, stream) },
			ClientStreams: true,
		}},
		Metadata: "peapod/image",
	}, store)
}

func serveImport(store *Store, stream grpc.ServerStream) error {
	var opts ImportOptions
	if md, ok := metadata.FromIncomingContext(stream.Context()); ok {
		if values := md.Get(nameHeader); len(values) > 0 && len(values[0]) <= maxImportHeader {
			opts.Name = values[0]
		}
	}
	list, err := store.Import(stream.Context(), &chunkReader{stream: stream}, opts)
	if err != nil {
		return err
	}
	return stream.SendMsg(&runtimeapi.ListImagesResponse{Images: list})
}

// chunkReader reads a stream of byte messages as one.
type chunkReader struct {
	stream grpc.ServerStream
	rest   []byte
}

func (r *chunkReader) Read(p []byte) (int, error) {
	for len(r.rest) == 0 {
		var chunk wrapperspb.BytesValue
		if err := r.stream.RecvMsg(&chunk); err != nil {
			return 0, err
		}
		r.rest = chunk.Value
	}
	n := copy(p, r.rest)
	r.rest = r.rest[n:]
	return n, nil
}

// ImportOver sends the archive to the store behind conn, a connection to the socket of Serve, and returns its images.
// name is for an archive of one image without a name; "" else.
func ImportOver(ctx context.Context, conn grpc.ClientConnInterface, archive io.Reader, name string) ([]*runtimeapi.Image, error) {
	if name != "" {
		ctx = metadata.AppendToOutgoingContext(ctx, nameHeader, name)
	}
	stream, err := conn.NewStream(ctx, &grpc.StreamDesc{StreamName: "Import", ClientStreams: true}, importMethod)
	if err != nil {
		return nil, fmt.Errorf("call image import: %w", err)
	}
	buf := make([]byte, importChunk)
	for {
		n, readErr := io.ReadFull(archive, buf)
		if n > 0 {
			// The server's own error, if any, comes with the answer; here it shows as EOF.
			if err := stream.SendMsg(wrapperspb.Bytes(buf[:n])); errors.Is(err, io.EOF) {
				break
			} else if err != nil {
				return nil, fmt.Errorf("send image archive: %w", err)
			}
		}
		if errors.Is(readErr, io.EOF) || errors.Is(readErr, io.ErrUnexpectedEOF) {
			break
		}
		if readErr != nil {
			return nil, fmt.Errorf("read image archive: %w", readErr)
		}
	}
	if err := stream.CloseSend(); err != nil {
		return nil, fmt.Errorf("send image archive: %w", err)
	}
	var response runtimeapi.ListImagesResponse
	if err := stream.RecvMsg(&response); err != nil {
		return nil, err
	}
	return response.Images, nil
}

// imageServer turns the CRI's gRPC messages into calls of the Store.
type imageServer struct {
	runtimeapi.UnimplementedImageServiceServer
	store *Store
}

func (s imageServer) ListImages(ctx context.Context, r *runtimeapi.ListImagesRequest) (*runtimeapi.ListImagesResponse, error) {
	list, err := s.store.ListImages(ctx, r.GetFilter())
	return &runtimeapi.ListImagesResponse{Images: list}, err
}

func (s imageServer) StreamImages(r *runtimeapi.StreamImagesRequest, stream grpc.ServerStreamingServer[runtimeapi.StreamImagesResponse]) error {
	list, err := s.store.ListImages(stream.Context(), r.GetFilter())
	if err != nil {
		return err
	}
	for _, img := range list {
		if err := stream.Send(&runtimeapi.StreamImagesResponse{Images: []*runtimeapi.Image{img}}); err != nil {
			return err
		}
	}
	return nil
}

func (s imageServer) ImageStatus(ctx context.Context, r *runtimeapi.ImageStatusRequest) (*runtimeapi.ImageStatusResponse, error) {
	return s.store.ImageStatus(ctx, r.GetImage(), r.GetVerbose())
}

func (s imageServer) PullImage(ctx context.Context, r *runtimeapi.PullImageRequest) (*runtimeapi.PullImageResponse, error) {
	id, err := s.store.PullImage(ctx, r.GetImage(), r.GetAuth(), r.GetSandboxConfig())
	return &runtimeapi.PullImageResponse{ImageRef: id}, err
}

func (s imageServer) RemoveImage(ctx context.Context, r *runtimeapi.RemoveImageRequest) (*runtimeapi.RemoveImageResponse, error) {
	return &runtimeapi.RemoveImageResponse{}, s.store.RemoveImage(ctx, r.GetImage())
}

func (s imageServer) ImageFsInfo(ctx context.Context, _ *runtimeapi.ImageFsInfoRequest) (*runtimeapi.ImageFsInfoResponse, error) {
	return s.store.ImageFsInfo(ctx)
}
