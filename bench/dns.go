package main

import (
	"context"
	"fmt"
	"net"
	"time"

	"github.com/miekg/dns"
	corev1 "k8s.io/api/core/v1"
	metav1 "k8s.io/apimachinery/pkg/apis/meta/v1"
)

// questions is how many of each sort are asked.
const questions = 20000

// measureDNS measures the cluster's DNS by questions over UDP, from as many clients as the API is measured with, each of which
// has one question at a time.
func measureDNS(ctx context.Context, s settings) (figures []figure, err error) {
	err = withCluster(ctx, s, func(c *cluster) error {
		client, err := c.up(ctx)
		if err != nil {
			return err
		}
		if _, err := client.CoreV1().Services(metav1.NamespaceDefault).Create(ctx, service("backend", "backend"), metav1.CreateOptions{}); err != nil {
			return fmt.Errorf("create Service: %w", err)
		}
		// A server that is ready may not have made it yet.
		found, err := c.awaitObject(ctx, "the cluster's DNS", "kube-dns", client.CoreV1().Services(metav1.NamespaceSystem).Watch)
		if err != nil {
			return err
		}
		server, ok := found.(*corev1.Service)
		if !ok {
			return fmt.Errorf("the cluster's DNS is a %T", found)
		}
		address := net.JoinHostPort(server.Spec.ClusterIP, "53")
		if err := c.awaitName(ctx, address, "backend.default.svc.cluster.local."); err != nil {
			return err
		}
		for _, sort := range []struct {
			what, name string
			rcode      int
		}{
			{"DNS, a Service's name", "backend.default.svc.cluster.local.", dns.RcodeSuccess},
			{"DNS, no such name", "backend.svc.cluster.local.", dns.RcodeNameError},
		} {
			got, err := c.askNames(ctx, sort.what, address, sort.name, sort.rcode)
			if err != nil {
				return err
			}
			figures = append(figures, got...)
		}
		return nil
	})
	return figures, err
}

// awaitName waits until the server knows the name. It asks again as soon as it is told otherwise: DNS has no other way.
func (c *cluster) awaitName(ctx context.Context, address, name string) error {
	for ctx.Err() == nil {
		answer, err := dns.ExchangeContext(ctx, new(dns.Msg).SetQuestion(name, dns.TypeA), address)
		if err == nil && answer.Rcode == dns.RcodeSuccess && len(answer.Answer) > 0 {
			return nil
		}
		if err := letPass(ctx, 10*time.Millisecond); err != nil {
			return err
		}
	}
	return c.ended(ctx, name)
}

func (c *cluster) askNames(ctx context.Context, what, address, name string, rcode int) ([]figure, error) {
	conns := make([]*dns.Conn, writers)
	for i := range conns {
		conn, err := dns.Dial("udp", address)
		if err != nil {
			return nil, fmt.Errorf("ask DNS: %w", err)
		}
		defer conn.Close()
		conns[i] = conn
	}
	asker := dns.Client{Timeout: 5 * time.Second}
	var each []time.Duration
	var all time.Duration
	cpu, err := c.spent(func() (err error) {
		each, all, err = share(ctx, writers, questions, func(_ context.Context, worker, _ int) error {
			answer, _, err := asker.ExchangeWithConn(new(dns.Msg).SetQuestion(name, dns.TypeA), conns[worker])
			if err != nil {
				return fmt.Errorf("ask DNS for %s: %w", name, err)
			}
			if answer.Rcode != rcode {
				return fmt.Errorf("ask DNS for %s: got %s instead of %s", name, dns.RcodeToString[answer.Rcode], dns.RcodeToString[rcode])
			}
			return nil
		})
		return err
	})
	if err != nil {
		return nil, err
	}
	rate := single(fmt.Sprintf("%s, by %d clients", what, writers), "1/s", 0, questions/all.Seconds())
	rate.moreBetter = true
	return []figure{
		rate,
		milliseconds(what+", each", 0, each),
		single(what+", server's CPU each", "us", 0, micros(cpu)/questions),
	}, nil
}
