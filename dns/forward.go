package dns

import (
	"context"
	"errors"
	"fmt"
	"net"
	"net/netip"
	"os"
	"slices"
	"sync"
	"time"

	"github.com/miekg/dns"
	"k8s.io/klog/v2"
)

// forwarder asks the machine's resolvers, in their order, and keeps what they say for a while.
type forwarder struct {
	path string
	own  netip.Addr
	// places bounds the questions under way.
	places chan struct{}
	cache  *answers
	// port is where resolvers listen; 53 but in tests.
	port string

	mu      sync.Mutex
	read    []stamp // of the files that servers come from
	servers []string
}

// The machine's files. A stub resolver of systemd passes questions on to the resolvers in its own file, which are asked
// directly: one hop less, and no loop where it has been told to ask the cluster.
const (
	resolvConf   = "/etc/resolv.conf"
	resolvedConf = "/run/systemd/resolve/resolv.conf"
	resolvedStub = "127.0.0.53"
)

// Time for one resolver, and for all.
const (
	askTimeout   = 2 * time.Second
	totalTimeout = 5 * time.Second
)

func newForwarder(path string, own netip.Addr) *forwarder {
	if path == "" {
		path = resolvConf
	}
	return &forwarder{path: path, own: own, places: make(chan struct{}, maxForwards), cache: newAnswers(cacheSize), port: "53"}
}

// ask completes r, the empty answer to q.
func (f *forwarder) ask(ctx context.Context, q, r *dns.Msg) *dns.Msg {
	key := keyOf(q)
	if kept := f.cache.get(key, time.Now()); kept != nil {
		kept.Id = q.Id
		kept.Question = q.Question
		return kept
	}
	select {
	case f.places <- struct{}{}:
		defer func() { <-f.places }()
	default:
		r.Rcode = dns.RcodeRefused
		return r
	}
	answer, err := f.exchange(ctx, q)
	if err != nil {
		klog.FromContext(ctx).V(2).Info("No resolver answers", "name", q.Question[0].Name, "reason", err.Error())
		r.Rcode = dns.RcodeServerFailure
		return r
	}
	f.cache.put(key, answer, time.Now())
	answer.Id = q.Id
	answer.Question = q.Question
	return answer
}

// exchange asks one resolver after the other until one knows; those that keep silent a second time, since what is lost on the way is not
// told of.
func (f *forwarder) exchange(ctx context.Context, q *dns.Msg) (*dns.Msg, error) {
	servers, err := f.resolvers()
	if err != nil {
		return nil, err
	}
	ctx, cancel := context.WithTimeout(ctx, totalTimeout)
	defer cancel()
	question := q.Copy()
	question.Id = dns.Id()
	question.RecursionDesired = true
	question.Extra = nil
	opt := q.IsEdns0()
	question.SetEdns0(udpSize, opt != nil && opt.Do())
	var errs []error
	var last *dns.Msg
	for range 2 {
		var silent []string
		for _, server := range servers {
			answer, err := askOne(ctx, question, server)
			switch {
			case err != nil:
				errs = append(errs, fmt.Errorf("ask %s: %w", server, err))
				if lost := net.Error(nil); errors.As(err, &lost) && lost.Timeout() {
					silent = append(silent, server)
				}
			case answer.Rcode == dns.RcodeServerFailure || answer.Rcode == dns.RcodeRefused:
				last = answer
			default:
				return answer, nil
			}
		}
		if last != nil {
			return last, nil
		}
		servers = silent
	}
	return nil, errors.Join(errs...)
}

// askOne asks over UDP, and for what that has no room for over TCP.
func askOne(ctx context.Context, question *dns.Msg, server string) (*dns.Msg, error) {
	client := &dns.Client{Net: "udp", Timeout: askTimeout, UDPSize: udpSize}
	answer, _, err := client.ExchangeContext(ctx, question, server)
	if err == nil && answer.Truncated {
		client.Net = "tcp"
		answer, _, err = client.ExchangeContext(ctx, question, server)
	}
	return answer, err
}

// stamp tells a file from what it becomes.
type stamp struct {
	path  string
	mtime time.Time
	size  int64
}

func stampOf(path string) stamp {
	info, err := os.Stat(path)
	if err != nil {
		return stamp{path: path}
	}
	return stamp{path, info.ModTime(), info.Size()}
}

// resolvers returns the machine's resolvers, read again when the file has changed.
func (f *forwarder) resolvers() ([]string, error) {
	now := []stamp{stampOf(f.path), stampOf(resolvedConf)}
	f.mu.Lock()
	defer f.mu.Unlock()
	if slices.Equal(now, f.read) {
		return f.servers, nil
	}
	list, err := f.readServers(f.path)
	if err != nil {
		return nil, err
	}
	f.servers, f.read = list, now
	return list, nil
}

func (f *forwarder) readServers(path string) ([]string, error) {
	conf, err := dns.ClientConfigFromFile(path)
	if err != nil {
		return nil, fmt.Errorf("read resolvers: %w", err)
	}
	if path != resolvedConf && slices.Contains(conf.Servers, resolvedStub) {
		if list, err := f.readServers(resolvedConf); err == nil {
			return list, nil
		}
	}
	var out []string
	for _, s := range conf.Servers {
		if a, err := netip.ParseAddr(s); err == nil && a != f.own && s != resolvedStub {
			out = append(out, net.JoinHostPort(s, f.port))
		}
	}
	if len(out) == 0 {
		return nil, fmt.Errorf("read resolvers: %s names none that can be asked", path)
	}
	return out, nil
}
