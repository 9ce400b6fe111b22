package gather_test

import (
	"bytes"
	"io"
	"net/http"
	"net/http/httptest"
	"testing"

	"k8s.io/apiserver/pkg/endpoints/request"

	"github.com/peapod/peapod/apiserver/gather"
)

// as gives requests the information that a filter reads from them.
func as(verb string, next http.Handler) http.Handler {
	return http.HandlerFunc(func(w http.ResponseWriter, r *http.Request) {
		info := &request.RequestInfo{IsResourceRequest: true, Verb: verb, Resource: "pods"}
		next.ServeHTTP(w, r.WithContext(request.WithRequestInfo(r.Context(), info)))
	})
}

// counter counts the writes that reach it.
type counter struct {
	*httptest.ResponseRecorder
	writes, flushes int
}

func (c *counter) Write(p []byte) (int, error) {
	c.writes++
	return c.ResponseRecorder.Write(p)
}

func (c *counter) Flush() {
	c.flushes++
	c.ResponseRecorder.Flush()
}

func (c *counter) CloseNotify() <-chan bool { return nil }

// pieces writes n pieces of 1,000 bytes.
func pieces(n int) http.Handler {
	one := bytes.Repeat([]byte("p"), 1000)
	return http.HandlerFunc(func(w http.ResponseWriter, _ *http.Request) {
		w.Header().Set("Content-Type", "test")
		w.WriteHeader(http.StatusOK)
		for range n {
			if _, err := w.Write(one); err != nil {
				return
			}
		}
	})
}

func get(h http.Handler) *counter {
	c := &counter{ResponseRecorder: httptest.NewRecorder()}
	h.ServeHTTP(c, httptest.NewRequest("GET", "/api/v1/pods", nil))
	return c
}

func TestListsAreSentInPieces(t *testing.T) {
	got := get(as("list", gather.Lists(pieces(500), nil)))
	if got.writes > 500000/(64<<10)+1 || got.Body.Len() != 500000 {
		t.Errorf("%d bytes by %d writes, want 500000 by 8", got.Body.Len(), got.writes)
	}
	if got.Code != http.StatusOK || got.Header().Get("Content-Type") != "test" {
		t.Errorf("the answer's head is lost: %d %v", got.Code, got.Header())
	}
}

func TestOtherAnswersAreNotHeldBack(t *testing.T) {
	for _, verb := range []string{"watch", "get", "create"} {
		if got := get(as(verb, gather.Lists(pieces(3), nil))); got.writes != 3 {
			t.Errorf("%s: %d writes, want each of 3 at once", verb, got.writes)
		}
	}
	// A method is a client's to choose, and the verb of what is no resource.
	method := http.HandlerFunc(func(w http.ResponseWriter, r *http.Request) {
		info := &request.RequestInfo{Path: "/metrics", Verb: "list"}
		gather.Lists(pieces(3), nil).ServeHTTP(w, r.WithContext(request.WithRequestInfo(r.Context(), info)))
	})
	for _, h := range []http.Handler{method, gather.Lists(pieces(3), nil)} {
		if got := get(h); got.writes != 3 {
			t.Errorf("a request of no resource: %d writes, want each of 3 at once", got.writes)
		}
	}
}

// A handler may still have its answer sent early, and finds what it can ask its writer for.
func TestFlushSendsWhatThereIs(t *testing.T) {
	got := get(as("list", gather.Lists(http.HandlerFunc(func(w http.ResponseWriter, _ *http.Request) {
		io.WriteString(w, "first")
		if _, ok := w.(http.CloseNotifier); !ok { //nolint:staticcheck // filters of k8s.io/apiserver still ask for it
			t.Error("the writer no longer tells when its client goes")
		}
		w.(http.Flusher).Flush()
		io.WriteString(w, "second")
	}), nil)))
	if got.writes != 2 || got.flushes != 1 || got.Body.String() != "firstsecond" {
		t.Errorf("%d writes and %d flushes of %q", got.writes, got.flushes, got.Body)
	}
}

// The end of an answer that its handler gave up is not sent, nor does it get into the next.
func TestPanicSendsNothingMore(t *testing.T) {
	h := as("list", gather.Lists(http.HandlerFunc(func(w http.ResponseWriter, r *http.Request) {
		io.WriteString(w, "half")
		panic(http.ErrAbortHandler)
	}), nil))
	c := &counter{ResponseRecorder: httptest.NewRecorder()}
	func() {
		defer func() {
			if recover() != http.ErrAbortHandler {
				t.Error("the panic did not get through")
			}
		}()
		h.ServeHTTP(c, httptest.NewRequest("GET", "/api/v1/pods", nil))
	}()
	if c.Body.Len() != 0 {
		t.Errorf("sent %q", c.Body)
	}
	for range 100 { // so that the pool gives that buffer out again
		if got := get(as("list", gather.Lists(pieces(1), nil))); got.Body.Len() != 1000 {
			t.Fatalf("%d bytes, want 1000", got.Body.Len())
		}
	}
}

// BenchmarkList is an answer of 2 MB by HTTP/2 and TLS, as of 2,000 Pods.
func BenchmarkList(b *testing.B) {
	for name, h := range map[string]http.Handler{"plain": pieces(2000), "gathered": gather.Lists(pieces(2000), nil)} {
		b.Run(name, func(b *testing.B) {
			s := httptest.NewUnstartedServer(as("list", h))
			s.EnableHTTP2 = true
			s.StartTLS()
			defer s.Close()
			b.ReportAllocs()
			for b.Loop() {
				response, err := s.Client().Get(s.URL)
				if err != nil {
					b.Fatal(err)
				}
				if n, err := io.Copy(io.Discard, response.Body); n != 2000000 || err != nil {
					b.Fatal(n, err)
				}
				response.Body.Close()
			}
		})
	}
}
