package usage

import (
	"context"
	"errors"
	"fmt"
	"io"
	"net/http"
	"net/url"
	"strings"
	"sync"
	"testing"
	"testing/synctest"
	"time"

	"k8s.io/apimachinery/pkg/types"
	metricsv1beta1 "k8s.io/metrics/pkg/apis/metrics/v1beta1"
)

// fleet are nodes whose kubelets answer: each has one Pod, of one container, that uses half a core.
type fleet struct {
	began time.Time

	mu sync.Mutex
	// nodes are those there are; those in hung do not answer, those in broken say that they cannot.
	nodes        []Node
	hung, broken map[string]bool
	// asked counts questions by node; now and most how many are in progress, at once.
	asked     map[string]int
	now, most int
	idle      int
	listing   error
}

func newFleet(nodes ...string) *fleet {
	f := &fleet{began: time.Now(), hung: map[string]bool{}, broken: map[string]bool{}, asked: map[string]int{}}
	for _, n := range nodes {
		f.nodes = append(f.nodes, Node{n, true})
	}
	return f
}

func (f *fleet) sampler(t *testing.T) *Sampler {
	t.Helper()
	s, err := New(Config{Nodes: f.list, Kubelets: f})
	if err != nil {
		t.Fatal(err)
	}
	t.Cleanup(s.Close)
	return s
}

func (f *fleet) list(context.Context) ([]Node, error) {
	f.mu.Lock()
	defer f.mu.Unlock()
	return f.nodes, f.listing
}

func (f *fleet) count(node string) int {
	f.mu.Lock()
	defer f.mu.Unlock()
	return f.asked[node]
}

func (f *fleet) set(change func()) {
	f.mu.Lock()
	defer f.mu.Unlock()
	change()
}

// Kubelet implements Kubelets.
func (f *fleet) Kubelet(_ context.Context, node string) (*url.URL, http.RoundTripper, error) {
	return &url.URL{Scheme: "https", Host: node}, f, nil
}

// CloseIdle implements Kubelets.
func (f *fleet) CloseIdle() { f.set(func() { f.idle++ }) }

// RoundTrip implements http.RoundTripper. An answer takes 10 ms.
func (f *fleet) RoundTrip(req *http.Request) (*http.Response, error) {
	node := req.URL.Host
	f.mu.Lock()
	f.asked[node]++
	f.now++
	f.most = max(f.most, f.now)
	hung, broken := f.hung[node], f.broken[node]
	f.mu.Unlock()
	defer f.set(func() { f.now-- })
	if hung {
		<-req.Context().Done()
		return nil, req.Context().Err()
	}
	time.Sleep(10 * time.Millisecond)
	resp := &http.Response{StatusCode: http.StatusOK, Status: "200 OK", Header: http.Header{}}
	if broken || req.URL.Path != "/metrics/resource" {
		resp.StatusCode, resp.Status, resp.Body = 500, "500 Internal Server Error", io.NopCloser(strings.NewReader("no counters"))
		return resp, nil
	}
	used := time.Since(f.began).Seconds() / 2
	ms := time.Now().UnixMilli()
	resp.Body = io.NopCloser(strings.NewReader(fmt.Sprintf(`
node_cpu_usage_seconds_total %[1]g %[2]d
node_memory_working_set_bytes 1000 %[2]d
container_cpu_usage_seconds_total{container="c",namespace="d",pod="on-%[3]s"} %[1]g %[2]d
container_memory_working_set_bytes{container="c",namespace="d",pod="on-%[3]s"} 500 %[2]d
container_start_time_seconds{container="c",namespace="d",pod="on-%[3]s"} 1
`, used, ms, node)))
	return resp, nil
}

// known says what is known of a node and of the Pod on it.
func known(t *testing.T, s *Sampler, node string) (n *metricsv1beta1.NodeMetrics, p *metricsv1beta1.PodMetrics) {
	t.Helper()
	r, err := s.Read(t.Context())
	if err != nil {
		t.Fatal(err)
	}
	n, p = &metricsv1beta1.NodeMetrics{}, &metricsv1beta1.PodMetrics{}
	if !r.Node(node, n) {
		n = nil
	}
	if !r.Pod(node, types.NamespacedName{Namespace: "d", Name: "on-" + node}, p) {
		p = nil
	}
	return n, p
}

// TestFirstAnswer: who asks first waits for two samples, and what he hears is right; so do others who ask meanwhile.
func TestFirstAnswer(t *testing.T) {
	synctest.Test(t, func(t *testing.T) {
		f := newFleet("a")
		s := f.sampler(t)
		began := time.Now()
		if f.count("a") != 0 {
			t.Fatal("somebody was asked though nobody asked")
		}
		var both sync.WaitGroup
		for range 2 {
			both.Go(func() {
				n, p := known(t, s, "a")
				if n == nil || p == nil {
					t.Error("nothing is known")
					return
				}
				if got := n.Usage.Cpu().MilliValue(); got != 500 {
					t.Errorf("node uses %dm, want 500m", got)
				}
				if n.Usage.Memory().Value() != 1000 || n.Window.Duration < time.Second || !n.Timestamp.After(began) {
					t.Errorf("node is %+v", n)
				}
				if len(p.Containers) != 1 || p.Containers[0].Name != "c" || p.Containers[0].Usage.Cpu().MilliValue() != 500 || p.Containers[0].Usage.Memory().Value() != 500 {
					t.Errorf("pod is %+v", p)
				}
			})
		}
		both.Wait()
		if took := time.Since(began); took > 2*time.Second || f.count("a") != 2 {
			t.Errorf("the answer took %v and %d questions", took, f.count("a"))
		}
	})
}

// TestLinger: while somebody asks, samples are taken every 15 seconds and nobody waits; when nobody does any more, they end, and the next
// who asks begins anew.
func TestLinger(t *testing.T) {
	synctest.Test(t, func(t *testing.T) {
		f := newFleet("a")
		s := f.sampler(t)
		known(t, s, "a")
		for range 40 {
			time.Sleep(period)
			before := time.Now()
			n, _ := known(t, s, "a")
			if !time.Now().Equal(before) || time.Since(n.Timestamp.Time) > period+time.Second {
				t.Fatalf("an answer took %v and is of %v", time.Since(before), n.Timestamp)
			}
			if n.Usage.Cpu().MilliValue() != 500 {
				t.Fatalf("node uses %v", n.Usage.Cpu())
			}
		}
		if n, _ := known(t, s, "a"); n.Window.Duration != period {
			t.Errorf("window is %v", n.Window)
		}
		if got := f.count("a"); got < 40 || got > 43 {
			t.Errorf("%d samples were taken in 10 minutes", got)
		}
		time.Sleep(linger + 2*period)
		ended := f.count("a")
		time.Sleep(time.Hour)
		if f.count("a") != ended || f.idle != 1 {
			t.Errorf("samples are taken though nobody asks: %d, then %d; connections were closed %d times", ended, f.count("a"), f.idle)
		}
		if n, p := known(t, s, "a"); n == nil || p == nil || n.Window.Duration > 2*time.Second {
			t.Errorf("the next who asked heard %+v, %+v", n, p)
		}
	})
}

// TestSilentNodes: what does not answer is left out, holds up the first answer for seconds at most, and comes back when it answers.
func TestSilentNodes(t *testing.T) {
	synctest.Test(t, func(t *testing.T) {
		f := newFleet("a", "hung", "broken")
		f.nodes = append(f.nodes, Node{"gone", false})
		f.hung["hung"], f.hung["gone"], f.broken["broken"] = true, true, true
		s := f.sampler(t)
		began := time.Now()
		if n, p := known(t, s, "a"); n == nil || p == nil {
			t.Error("a node that answers is not known")
		}
		if took := time.Since(began); took > 2*haste+moment+time.Second {
			t.Errorf("the first answer took %v", took)
		}
		if f.count("gone") != 0 {
			t.Error("a node that is not ready was waited for")
		}
		for _, name := range []string{"hung", "broken", "gone"} {
			if n, p := known(t, s, name); n != nil || p != nil {
				t.Errorf("%s is %v, %v", name, n, p)
			}
		}
		f.set(func() { clear(f.hung); clear(f.broken) })
		time.Sleep(2*period + patience)
		for _, name := range []string{"hung", "broken", "gone"} {
			if n, p := known(t, s, name); n == nil || p == nil || n.Usage.Cpu().MilliValue() != 500 {
				t.Errorf("%s is %v, %v, though it answers", name, n, p)
			}
		}
		f.set(func() { f.hung["a"] = true })
		time.Sleep(period + patience)
		if n, p := known(t, s, "a"); n != nil || p != nil {
			t.Errorf("what is known of a node that does not answer is %v, %v", n, p)
		}
		f.set(func() { f.nodes = f.nodes[1:] })
		time.Sleep(2 * period)
		if n, _ := known(t, s, "hung"); n == nil {
			t.Error("a node is not known after another has gone")
		}
	})
}

// TestManyNodes: of 5,000 nodes no more than a bounded number are asked at once, and all are known after the first answer.
func TestManyNodes(t *testing.T) {
	synctest.Test(t, func(t *testing.T) {
		f := newFleet()
		for i := range 5000 {
			f.nodes = append(f.nodes, Node{fmt.Sprintf("n%d", i), true})
		}
		s := f.sampler(t)
		r, err := s.Read(t.Context())
		if err != nil {
			t.Fatal(err)
		}
		for _, n := range f.nodes {
			if !r.Node(n.Name, &metricsv1beta1.NodeMetrics{}) {
				t.Fatalf("%s is not known", n.Name)
			}
		}
		if f.most > together {
			t.Errorf("%d were asked at once", f.most)
		}
	})
}

// TestEnds: who waits for an answer stops when he gives up, or gets an error when the server stops or does not know its nodes.
func TestEnds(t *testing.T) {
	synctest.Test(t, func(t *testing.T) {
		f := newFleet("a")
		s := f.sampler(t)
		ctx, cancel := context.WithTimeout(t.Context(), 100*time.Millisecond)
		defer cancel()
		if _, err := s.Read(ctx); !errors.Is(err, context.DeadlineExceeded) {
			t.Errorf("who gave up got %v", err)
		}
		if n, _ := known(t, s, "a"); n == nil {
			t.Error("the next who asked heard nothing")
		}

		broken := newFleet("a")
		broken.listing = errors.New("no nodes today")
		b := broken.sampler(t)
		if _, err := b.Read(t.Context()); !errors.Is(err, broken.listing) {
			t.Errorf("error is %v", err)
		}
		broken.set(func() { broken.listing = nil })
		if n, _ := known(t, b, "a"); n == nil {
			t.Error("what failed once fails for ever")
		}

		waiting := newFleet("a")
		waiting.hung["a"] = true
		w := waiting.sampler(t)
		done := make(chan error)
		go func() {
			_, err := w.Read(t.Context())
			done <- err
		}()
		synctest.Wait()
		w.Close()
		if err := <-done; !errors.Is(err, context.Canceled) {
			t.Errorf("who waited when the server stopped got %v", err)
		}
		if _, err := w.Read(t.Context()); !errors.Is(err, context.Canceled) {
			t.Errorf("who asked a stopped server got %v", err)
		}
	})
}
