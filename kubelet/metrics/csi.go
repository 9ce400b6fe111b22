package metrics

import (
	"context"
	"time"

	"google.golang.org/grpc"
	"google.golang.org/grpc/status"
)

// CSICalls times what a CSI driver is asked.
func (s *Set) CSICalls(driver string) grpc.UnaryClientInterceptor {
	return func(ctx context.Context, method string, req, reply any, conn *grpc.ClientConn, invoke grpc.UnaryInvoker, opts ...grpc.CallOption) error {
		began := time.Now()
		err := invoke(ctx, method, req, reply, conn, opts...)
		if s != nil {
			s.csi.WithLabelValues(driver, method, status.Code(err).String(), "false").Observe(time.Since(began).Seconds())
		}
		return err
	}
}
