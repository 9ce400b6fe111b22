package e2e

import (
	"fmt"
	"io"
	"net"
	"net/http"
	"regexp"
	"strings"
	"sync"
	"testing"
)

// forward starts a port-forward and returns it with the local address of each remote port.
func (s *space) forward(pod string, ports ...string) (*stream, map[string]string) {
	s.t.Helper()
	args := append([]string{"port-forward", "--address=127.0.0.1", "pod/" + pod}, ports...)
	f := s.start(args...)
	local := map[string]string{}
	for range ports {
		line := f.until(`^Forwarding from 127\.0\.0\.1:\d+ -> \d+$`)
		m := regexp.MustCompile(`from (\S+) -> (\d+)`).FindStringSubmatch(line)
		local[m[2]] = m[1]
	}
	return f, local
}

// echoPod answers on 7000 with what it got, once that has ended, on 8080 over HTTP, and on 9 not at all.
const echoPod = `apiVersion: v1
kind: Pod
metadata: {name: echo}
spec:
  terminationGracePeriodSeconds: 1
  containers:
  - {name: http, image: peapod.local/hello:latest, imagePullPolicy: IfNotPresent}
  - name: count
    image: busybox
    imagePullPolicy: IfNotPresent
    command: [nc, -ll, -p, "7000", -e, wc, -c]
    readinessProbe: {tcpSocket: {port: 7000}, periodSeconds: 1}
`

func TestPortForward(t *testing.T) {
	t.Parallel()
	eachKubectl(t, func(s *space) {
		t := s.t
		s.apply(echoPod)
		s.ready("echo")
		f, local := s.forward("echo", ":8080", ":7000", ":9")

		var all sync.WaitGroup
		for range 50 {
			all.Go(func() {
				// A connection each.
				client := &http.Client{Transport: &http.Transport{DisableKeepAlives: true}}
				r, err := client.Get("http://" + local["8080"])
				if err != nil {
					t.Error(err)
					return
				}
				defer r.Body.Close()
				if b, err := io.ReadAll(r.Body); err != nil || !strings.Contains(string(b), "Hello from Pod echo") {
					t.Errorf("answer %q, %v", b, err)
				}
			})
		}
		all.Wait()

		// One half of a connection ends, and then the answer comes over the other.
		for _, size := range []int{0, 5, 3_000_000} {
			equal(t, fmt.Sprintf("count of %d bytes", size), halfClose(t, local["7000"], size), fmt.Sprint(size))
		}

		// A port that nobody listens on is an error, and the forward lives on.
		conn, err := net.Dial("tcp", local["9"])
		if err != nil {
			t.Fatal(err)
		}
		if b, err := io.ReadAll(conn); len(b) != 0 {
			t.Errorf("a dead port answers %q, %v", b, err)
		}
		conn.Close()
		port := local["9"][strings.LastIndex(local["9"], ":")+1:]
		f.complains("rror creating forwarding stream", port, "tream reset")
		equal(t, "after the error", halfClose(t, local["7000"], 7), "7")
	})
}

// halfClose sends size bytes, ends its half of the connection, and returns the answer.
func halfClose(t *testing.T, address string, size int) string {
	t.Helper()
	conn, err := net.Dial("tcp", address)
	if err != nil {
		t.Fatal(err)
	}
	defer conn.Close()
	if _, err := conn.Write(make([]byte, size)); err != nil {
		t.Fatal(err)
	}
	if err := conn.(*net.TCPConn).CloseWrite(); err != nil {
		t.Fatal(err)
	}
	b, err := io.ReadAll(conn)
	if err != nil {
		t.Fatal(err)
	}
	return strings.TrimSpace(string(b))
}

func TestPortForwardRefused(t *testing.T) {
	t.Parallel()
	s := newSpace(t)
	s.fails([]string{"port-forward", "pod/missing", "8080"}, `pods "missing" not found`)
	s.apply(strings.Replace(busybox("never", forever, "app: never"), "spec:\n", "spec:\n  nodeSelector: {no-such: label}\n", 1))
	s.fails([]string{"port-forward", "pod/never", ":8080"}, "pod is not running", "Pending")
}

func TestProxy(t *testing.T) {
	t.Parallel()
	s := newSpace(t)
	s.apply(echoPod)
	s.ready("echo")
	contains(t, "Pod by way of the API", s.kubectl("get", "--raw", "/api/v1/namespaces/"+s.name+"/pods/echo:8080/proxy/"), "Hello from Pod echo")
	p := s.start("proxy", "--port=0")
	at := regexp.MustCompile(`\S+:\d+`).FindString(p.until("Starting to serve on "))
	r, err := http.Get("http://" + at + "/api/v1/namespaces/" + s.name + "/pods/echo:8080/proxy/")
	if err != nil {
		t.Fatal(err)
	}
	defer r.Body.Close()
	b, err := io.ReadAll(r.Body)
	if err != nil {
		t.Fatal(err)
	}
	contains(t, "Pod by way of kubectl proxy", string(b), "Hello from Pod echo")
}
