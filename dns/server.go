// Package dns is the cluster's DNS (the specification "Kubernetes DNS-Based Service Discovery" 1.1.0): names of Services,
// their endpoints and Pods from what the API's informers hold, everything else from the machine's own resolvers through a
// bounded cache. It runs in the process of each node and answers at the cluster IP of Service kube-dns, which each node has
// on lo, so that a Pod asks its own node.
package dns

import (
	"context"
	"errors"
	"fmt"
	"net"
	"net/netip"
	"strconv"
	"strings"
	"sync"
	"time"

	"github.com/miekg/dns"
	"k8s.io/client-go/informers"
	"k8s.io/client-go/tools/cache"
	"k8s.io/klog/v2"

	"github.com/peapod/peapod/internal/synced"
)

// Config says what is answered, where and to whom.
type Config struct {
	// Address is where to listen, put on lo if it is not an address of the machine. Port is 53 but in tests.
	Address netip.Addr
	Port    uint16
	// Domain is the cluster's, without dots at its ends.
	Domain string
	// Clients are the networks that may ask; others get no answer, so that nobody outside has a resolver in this one.
	Clients []netip.Prefix
	// ResolvConf lists the resolvers for names outside the cluster; empty is the machine's own.
	ResolvConf string
	// Informers give Services and EndpointSlices. Whoever made them starts them, after New.
	Informers informers.SharedInformerFactory
}

func (c *Config) validate() error {
	if !c.Address.IsValid() || c.Port == 0 || c.Domain == "" || c.Informers == nil {
		return errors.New("cluster DNS: address, port, domain and informers are required")
	}
	return nil
}

// Limits.
const (
	// udpSize is the largest answer over UDP, which no path on the way breaks into fragments.
	udpSize = 1232
	// maxForwards bounds the questions that wait for other resolvers at once.
	maxForwards = 1000
	// cacheSize bounds the answers of others that are kept.
	cacheSize = 8192
	// ttl of the cluster's own names, in seconds, and of the news that there is none.
	ttl = 5
	// listenAgain is how long to wait for an address that somebody else uses.
	listenAgain = 10 * time.Second
)

// Server is the cluster's DNS on one node.
type Server struct {
	cfg     Config
	zone    *zone
	forward *forwarder
	synced  []cache.DoneChecker
}

// New returns a server, which listens when Run.
func New(cfg Config) (*Server, error) {
	if err := cfg.validate(); err != nil {
		return nil, err
	}
	z, done, err := newZone(&cfg)
	if err != nil {
		return nil, err
	}
	return &Server{cfg: cfg, zone: z, synced: done, forward: newForwarder(cfg.ResolvConf, cfg.Address)}, nil
}

// Run answers until ctx ends. An address that another process uses is waited for: the rest of the node works meanwhile.
func (s *Server) Run(ctx context.Context) error {
	if err := addAddress(s.cfg.Address); err != nil {
		return err
	}
	for {
		udp, tcp, err := s.listen()
		if err == nil {
			return s.serve(ctx, udp, tcp)
		}
		klog.FromContext(ctx).Error(err, "Cannot serve the cluster's DNS, will retry; a name server that listens on all addresses must be told not to",
			"address", s.address())
		select {
		case <-ctx.Done():
			return nil
		case <-time.After(listenAgain):
		}
	}
}

func (s *Server) address() string {
	return net.JoinHostPort(s.cfg.Address.String(), strconv.Itoa(int(s.cfg.Port)))
}

func (s *Server) listen() (net.PacketConn, net.Listener, error) {
	udp, err := net.ListenPacket("udp", s.address())
	if err != nil {
		return nil, nil, fmt.Errorf("listen for DNS: %w", err)
	}
	tcp, err := net.Listen("tcp", s.address())
	if err != nil {
		return nil, nil, errors.Join(fmt.Errorf("listen for DNS: %w", err), udp.Close())
	}
	return udp, tcp, nil
}

func (s *Server) serve(ctx context.Context, udp net.PacketConn, tcp net.Listener) error {
	handler := dns.HandlerFunc(func(w dns.ResponseWriter, q *dns.Msg) { s.answer(ctx, w, q) })
	servers := []*dns.Server{
		{PacketConn: udp, Handler: handler, UDPSize: dns.DefaultMsgSize},
		{Listener: tcp, Handler: handler, MaxTCPQueries: -1, ReadTimeout: 5 * time.Second, WriteTimeout: 5 * time.Second,
			IdleTimeout: func() time.Duration { return 10 * time.Second }},
	}
	var running sync.WaitGroup
	errs := make([]error, len(servers))
	failed := make(chan struct{}, len(servers))
	for i, server := range servers {
		started := make(chan struct{})
		server.NotifyStartedFunc = func() { close(started) }
		running.Go(func() {
			if errs[i] = server.ActivateAndServe(); errs[i] != nil {
				failed <- struct{}{}
			}
		})
		select {
		case <-started:
		case <-failed:
			failed <- struct{}{}
		}
	}
	select {
	case <-ctx.Done():
	case <-failed:
	}
	for _, server := range servers {
		stop, cancel := context.WithTimeout(context.Background(), time.Second)
		_ = server.ShutdownContext(stop) // one that has failed is down already; questions under way are given up
		cancel()
	}
	running.Wait()
	if err := errors.Join(errs...); err != nil && ctx.Err() == nil {
		return fmt.Errorf("serve DNS: %w", err)
	}
	return nil
}

// answer answers one message.
func (s *Server) answer(ctx context.Context, w dns.ResponseWriter, q *dns.Msg) {
	if !s.admits(w.RemoteAddr()) {
		return
	}
	r := s.reply(ctx, q)
	size := dns.MaxMsgSize
	_, overUDP := w.LocalAddr().(*net.UDPAddr)
	if overUDP {
		size = dns.MinMsgSize
	}
	if opt := q.IsEdns0(); opt != nil {
		if overUDP {
			size = min(max(dns.MinMsgSize, int(opt.UDPSize())), udpSize)
		}
		r.Extra = withoutOPT(r.Extra)
		r.SetEdns0(udpSize, opt.Do())
		if opt.Version() != 0 {
			r.Rcode = dns.RcodeBadVers
		}
	} else {
		r.Extra = withoutOPT(r.Extra)
	}
	r.Compress = true
	r.Truncate(size)
	if err := w.WriteMsg(r); err != nil {
		klog.FromContext(ctx).V(4).Info("Cannot send an answer", "to", w.RemoteAddr(), "reason", err.Error())
	}
}

// admits says whether a client may ask.
func (s *Server) admits(from net.Addr) bool {
	at, err := netip.ParseAddrPort(from.String())
	if err != nil {
		return false
	}
	addr := at.Addr().Unmap()
	if addr.IsLoopback() || addr == s.cfg.Address {
		return true
	}
	for _, p := range s.cfg.Clients {
		if p.Contains(addr) {
			return true
		}
	}
	return false
}

func withoutOPT(rrs []dns.RR) []dns.RR {
	var out []dns.RR
	for _, rr := range rrs {
		if rr.Header().Rrtype != dns.TypeOPT {
			out = append(out, rr)
		}
	}
	return out
}

// reply returns the answer to a question.
func (s *Server) reply(ctx context.Context, q *dns.Msg) *dns.Msg {
	r := new(dns.Msg)
	r.SetReply(q)
	r.RecursionAvailable = true
	switch {
	case q.Opcode != dns.OpcodeQuery:
		r.Rcode = dns.RcodeNotImplemented
		return r
	case len(q.Question) != 1:
		r.Rcode = dns.RcodeFormatError
		return r
	case q.Question[0].Qclass != dns.ClassINET:
		r.Rcode = dns.RcodeRefused
		return r
	}
	// A "no such name" from informers that know nothing yet would be believed.
	if !synced.Wait(ctx, synced.Limit, s.synced...) {
		r.Rcode = dns.RcodeServerFailure
		return r
	}
	question := q.Question[0]
	name := strings.ToLower(question.Name)
	if dns.IsSubDomain(s.zone.origin, name) {
		s.zone.fill(r, question)
		s.chase(ctx, q, r, question)
		return r
	}
	if s.zone.reverse(r, question) {
		return r
	}
	return s.forward.ask(ctx, q, r)
}

// chase resolves the target of an ExternalName, for clients that do not.
func (s *Server) chase(ctx context.Context, q, r *dns.Msg, question dns.Question) {
	const most = 8
	for range most {
		if len(r.Answer) == 0 || question.Qtype == dns.TypeCNAME {
			return
		}
		cname, ok := r.Answer[len(r.Answer)-1].(*dns.CNAME)
		if !ok {
			return
		}
		next := q.Copy()
		next.Question[0].Name = cname.Target
		part := new(dns.Msg)
		part.SetReply(next)
		if dns.IsSubDomain(s.zone.origin, strings.ToLower(cname.Target)) {
			s.zone.fill(part, next.Question[0])
		} else {
			part = s.forward.ask(ctx, next, part)
		}
		r.Answer = append(r.Answer, part.Answer...)
		r.Rcode = part.Rcode
		if len(part.Answer) == 0 {
			r.Ns = part.Ns
			return
		}
		if !dns.IsSubDomain(s.zone.origin, strings.ToLower(cname.Target)) {
			return // the resolver has followed the rest
		}
	}
}
