package inprocess_test

import (
	"bytes"
	"context"
	"errors"
	"fmt"
	"io"
	"net/http"
	"slices"
	"strings"
	"testing"

	"go.uber.org/goleak"
	"k8s.io/apiserver/pkg/authentication/user"
	"k8s.io/apiserver/pkg/warning"

	"github.com/peapod/peapod/apiserver/inprocess"
)

func TestMain(m *testing.M) { goleak.VerifyTestMain(m) }

// bound returns a client whose calls h serves.
func bound(h http.HandlerFunc) (*inprocess.Transport, *http.Client) {
	t := inprocess.NewTransport()
	t.Bind(h)
	return t, &http.Client{Transport: t.Config(&user.DefaultInfo{Name: "me"}).Transport}
}

func get(t *testing.T, c *http.Client, ctx context.Context) (*http.Response, error) {
	t.Helper()
	req, err := http.NewRequestWithContext(ctx, "GET", "http://x/path?q=1", nil)
	if err != nil {
		t.Fatal(err)
	}
	return c.Do(req)
}

func TestIdentityCannotBeForged(t *testing.T) {
	var transport *inprocess.Transport
	transport, c := bound(func(w http.ResponseWriter, req *http.Request) {
		resp, ok, err := transport.Authenticator().AuthenticateRequest(req)
		if err != nil || !ok {
			t.Errorf("not recognised: %v, %v", ok, err)
			return
		}
		fmt.Fprint(w, resp.User.GetName())
	})
	resp, err := get(t, c, t.Context())
	if err != nil {
		t.Fatal(err)
	}
	defer resp.Body.Close()
	if body, err := io.ReadAll(resp.Body); err != nil || string(body) != "me" {
		t.Errorf("got %q, %v", body, err)
	}
	// A request from the network has no such context, whatever its headers.
	req, err := http.NewRequest("GET", "http://x", nil)
	if err != nil {
		t.Fatal(err)
	}
	req.Header.Set("X-Remote-User", "me")
	if _, ok, err := transport.Authenticator().AuthenticateRequest(req); ok || err != nil {
		t.Errorf("a foreign request was taken for one of ours: %v", err)
	}
}

func TestRequestArrivesWhole(t *testing.T) {
	type key struct{}
	_, c := bound(func(w http.ResponseWriter, req *http.Request) {
		body, err := io.ReadAll(req.Body)
		if err != nil {
			t.Error(err)
		}
		if req.Context().Value(key{}) != nil {
			t.Error("the caller's context values reached the handler")
		}
		w.Header().Set("Got", req.RequestURI+" "+req.Header.Get("Some-Header")+" "+string(body))
		w.WriteHeader(http.StatusTeapot)
	})
	req, err := http.NewRequestWithContext(context.WithValue(t.Context(), key{}, 1), "POST", "http://x/path?q=1", strings.NewReader("body"))
	if err != nil {
		t.Fatal(err)
	}
	req.Header.Set("Some-Header", "h")
	resp, err := c.Do(req)
	if err != nil {
		t.Fatal(err)
	}
	defer resp.Body.Close()
	if got := resp.Header.Get("Got"); resp.StatusCode != http.StatusTeapot || got != "/path?q=1 h body" {
		t.Errorf("got %d %q", resp.StatusCode, got)
	}
}

func TestStreamsWhileTheHandlerRuns(t *testing.T) {
	next := make(chan string)
	_, c := bound(func(w http.ResponseWriter, _ *http.Request) {
		w.(http.Flusher).Flush()
		for s := range next {
			fmt.Fprint(w, s)
		}
	})
	resp, err := get(t, c, t.Context())
	if err != nil {
		t.Fatal(err)
	}
	defer resp.Body.Close()
	for _, want := range []string{"one", "two"} {
		next <- want
		got := make([]byte, len(want))
		if _, err := io.ReadFull(resp.Body, got); err != nil || string(got) != want {
			t.Fatalf("got %q, %v", got, err)
		}
	}
	close(next)
	if n, err := resp.Body.Read(make([]byte, 1)); n != 0 || !errors.Is(err, io.EOF) {
		t.Errorf("after the end: %d, %v", n, err)
	}
}

func TestLargeBody(t *testing.T) {
	chunk := bytes.Repeat([]byte("x"), 100_000)
	_, c := bound(func(w http.ResponseWriter, _ *http.Request) {
		for range 100 {
			if _, err := w.Write(chunk); err != nil {
				t.Error(err)
			}
		}
	})
	resp, err := get(t, c, t.Context())
	if err != nil {
		t.Fatal(err)
	}
	defer resp.Body.Close()
	if n, err := io.Copy(io.Discard, resp.Body); err != nil || n != 100*100_000 {
		t.Errorf("read %d, %v", n, err)
	}
}

// A handler that writes without end stops when the caller goes away, by either way.
func TestCallerGoesAway(t *testing.T) {
	ways := map[string]func(cancel func(), resp *http.Response){
		"cancel": func(cancel func(), _ *http.Response) { cancel() },
		"close":  func(_ func(), resp *http.Response) { resp.Body.Close() },
	}
	for name, leave := range ways {
		t.Run(name, func(t *testing.T) {
			ended := make(chan error, 1)
			_, c := bound(func(w http.ResponseWriter, req *http.Request) {
				for {
					if _, err := w.Write(make([]byte, 4096)); err != nil {
						<-req.Context().Done()
						ended <- err
						return
					}
				}
			})
			ctx, cancel := context.WithCancel(t.Context())
			defer cancel()
			resp, err := get(t, c, ctx)
			if err != nil {
				t.Fatal(err)
			}
			leave(cancel, resp)
			if err := <-ended; err == nil {
				t.Error("the handler's writes did not fail")
			}
			if _, err := io.Copy(io.Discard, resp.Body); err == nil {
				t.Error("reads after leaving succeeded")
			}
		})
	}
}

func TestWaitsForTheHandler(t *testing.T) {
	transport := inprocess.NewTransport()
	c := &http.Client{Transport: transport.Config(&user.DefaultInfo{Name: "me"}).Transport}
	ctx, cancel := context.WithCancel(t.Context())
	cancel()
	if _, err := get(t, c, ctx); !errors.Is(err, context.Canceled) {
		t.Errorf("a cancelled wait gave %v", err)
	}
	got := make(chan error, 1)
	go func() {
		resp, err := get(t, c, t.Context())
		if err == nil {
			resp.Body.Close()
		}
		got <- err
	}()
	transport.Bind(http.HandlerFunc(func(http.ResponseWriter, *http.Request) {}))
	if err := <-got; err != nil {
		t.Error(err)
	}
}

// Warnings reach the caller with the headers, once each. What still goes on when these are sent may warn, and changes nothing.
func TestWarnings(t *testing.T) {
	_, c := bound(func(w http.ResponseWriter, req *http.Request) {
		warning.AddWarning(req.Context(), "", "careful")
		warning.AddWarning(req.Context(), "", "careful")
		warning.AddWarning(req.Context(), "agent", "more")
		w.WriteHeader(http.StatusOK)
		warning.AddWarning(req.Context(), "", "late")
	})
	resp, err := get(t, c, t.Context())
	if err != nil {
		t.Fatal(err)
	}
	resp.Body.Close()
	if got, want := resp.Header.Values("Warning"), []string{`299 - "careful"`, `299 agent "more"`}; !slices.Equal(got, want) {
		t.Errorf("warnings %q, want %q", got, want)
	}
}

func TestHandlerThatAborts(t *testing.T) {
	_, c := bound(func(w http.ResponseWriter, _ *http.Request) {
		fmt.Fprint(w, "part")
		panic(http.ErrAbortHandler)
	})
	resp, err := get(t, c, t.Context())
	if err != nil {
		t.Fatal(err)
	}
	defer resp.Body.Close()
	if body, err := io.ReadAll(resp.Body); string(body) != "part" || !errors.Is(err, io.ErrUnexpectedEOF) {
		t.Errorf("got %q, %v", body, err)
	}
}

func TestUpgradeIsRefused(t *testing.T) {
	_, c := bound(func(http.ResponseWriter, *http.Request) { t.Error("served") })
	req, err := http.NewRequest("POST", "http://x", nil)
	if err != nil {
		t.Fatal(err)
	}
	req.Header.Set("Upgrade", "SPDY/3.1")
	if _, err := c.Do(req); err == nil || !strings.Contains(err.Error(), "use the network") {
		t.Errorf("got %v", err)
	}
}
