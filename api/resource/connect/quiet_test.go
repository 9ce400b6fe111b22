package connect

import (
	"bytes"
	"errors"
	"fmt"
	"net"
	"net/http"
	"net/http/httptest"
	"strings"
	"testing"

	"k8s.io/klog/v2"
	"k8s.io/klog/v2/textlogger"
)

// A session that this side ends leaves no error in the log; other errors do, with the place that they come from.
func TestSessionsEndQuietly(t *testing.T) {
	var log bytes.Buffer
	ctx := klog.NewContext(t.Context(), textlogger.NewLogger(textlogger.NewConfig(textlogger.Output(&log))))
	closed := fmt.Errorf("receive: %w", &net.OpError{Op: "read", Net: "tcp", Err: net.ErrClosed})
	session := http.HandlerFunc(func(_ http.ResponseWriter, r *http.Request) {
		logger := klog.FromContext(r.Context())
		logger.Error(closed, "Left out")
		logger.WithName("n").WithValues("k", "v").Error(closed, "Left out")
		logger.WithName("n").WithValues("k", "v").Error(errors.New("real"), "Kept")
		logger.Error(errors.New("real"), "Kept too")
		logger.Info("Said")
	})
	quiet(session).ServeHTTP(httptest.NewRecorder(), httptest.NewRequestWithContext(ctx, "GET", "/", nil))
	got := log.String()
	for _, want := range []string{`"Kept" err="real" logger="n" k="v"`, `"Kept too" err="real"`, `"Said"`} {
		if !strings.Contains(got, want) {
			t.Errorf("the log lacks %s:\n%s", want, got)
		}
	}
	if n := strings.Count(got, "quiet_test.go:"); n != 3 || strings.Contains(got, "Left out") {
		t.Errorf("%d lines are of this file, of these three:\n%s", n, got)
	}
}
