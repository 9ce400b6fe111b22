package main

import (
	"context"
	"errors"
	"fmt"
	"io"
	"net"
	"net/http"
	"time"

	corev1 "k8s.io/api/core/v1"
	metav1 "k8s.io/apimachinery/pkg/apis/meta/v1"
	"k8s.io/apimachinery/pkg/util/intstr"
	"k8s.io/client-go/kubernetes"

	"github.com/peapod/peapod/daemon/instance"
)

// How many Services there are when the cost of one more is measured, and over how many that cost is taken.
const (
	manyServices = 5000
	someServices = 100
)

// servicesCalm is how long the node is left alone after many Services were made, so that their cost is not the next one's.
const servicesCalm = 3 * time.Second

// service selects the Pods of the Deployment called app.
func service(name, app string) *corev1.Service {
	return &corev1.Service{
		ObjectMeta: metav1.ObjectMeta{Name: name},
		Spec: corev1.ServiceSpec{
			Selector: map[string]string{"app": app},
			Ports:    []corev1.ServicePort{{Port: 80, TargetPort: intstr.FromInt32(8080)}},
		},
	}
}

// measureService measures what a Service costs when there are few and when there are many: from the call that creates it to
// the first request that its Pod answers, and what its creation costs, all controllers included.
func measureService(ctx context.Context, s settings) (figures []figure, err error) {
	err = withCluster(ctx, s, func(c *cluster) error {
		client, err := c.up(ctx)
		if err != nil {
			return err
		}
		d, err := client.AppsV1().Deployments(metav1.NamespaceDefault).Create(ctx, deployment("backend", 1), metav1.CreateOptions{})
		if err != nil {
			return fmt.Errorf("create Deployment: %w", err)
		}
		if err := c.awaitRollout(ctx, client, d); err != nil {
			return err
		}
		if figures, err = c.addServices(ctx, client, 0); err != nil {
			return err
		}
		if err := c.fillServices(ctx, someServices, manyServices-someServices/2); err != nil {
			return err
		}
		more, err := c.addServices(ctx, client, manyServices-someServices/2)
		figures = append(figures, more...)
		return err
	})
	return figures, err
}

// addServices adds someServices of them to the have that there are, one after the other.
func (c *cluster) addServices(ctx context.Context, client kubernetes.Interface, have int) (figures []figure, err error) {
	i, err := instance.At(c.dir)
	if err != nil {
		return nil, err
	}
	messages, err := watchTable("peapod_" + i.Name + "_services")
	if err != nil {
		return nil, err
	}
	defer func() { err = errors.Join(err, messages.close()) }()
	var answered []time.Duration
	cpu, err := c.spent(func() error {
		for i := range someServices {
			took, err := c.addService(ctx, client, fmt.Sprintf("service-%d", have+i))
			if err != nil {
				return err
			}
			answered = append(answered, took)
		}
		return nil
	})
	if err != nil {
		return nil, err
	}
	each := func(sum float64) float64 { return sum / someServices }
	nth := fmt.Sprintf("one more Service to %d", have+someServices/2)
	return []figure{
		milliseconds(nth+", create to first answer", 0, answered),
		single(nth+", CPU", "ms", 0, each(micros(cpu)/1000)),
		single(nth+", nftables messages", "", 0, each(float64(messages.messages.Load()))),
	}, nil
}

// addService returns how long it took from the call that creates the Service until it answered a request.
func (c *cluster) addService(ctx context.Context, client kubernetes.Interface, name string) (time.Duration, error) {
	began := time.Now()
	made, err := client.CoreV1().Services(metav1.NamespaceDefault).Create(ctx, service(name, "backend"), metav1.CreateOptions{})
	if err != nil {
		return 0, fmt.Errorf("create Service: %w", err)
	}
	err = c.awaitAnswer(ctx, made.Spec.ClusterIP)
	return time.Since(began), err
}

// fillServices creates the Services from..to from many clients at once, and waits until the last one answers and all has come
// to rest.
func (c *cluster) fillServices(ctx context.Context, from, to int) error {
	clients, err := c.clients(writers)
	if err != nil {
		return err
	}
	_, _, err = share(ctx, writers, to-from-1, func(ctx context.Context, worker, i int) error {
		_, err := clients[worker].CoreV1().Services(metav1.NamespaceDefault).Create(ctx, service(fmt.Sprintf("service-%d", from+i), "backend"), metav1.CreateOptions{})
		return err
	})
	if err != nil {
		return fmt.Errorf("create Services: %w", err)
	}
	if _, err := c.addService(ctx, clients[0], fmt.Sprintf("service-%d", to-1)); err != nil {
		return err
	}
	return letPass(ctx, servicesCalm)
}

// awaitAnswer waits until a request to port 80 of the address is answered. It sends one every two milliseconds, whatever
// becomes of those before: a packet that comes before the rules do is lost, and is sent again only after a second.
func (c *cluster) awaitAnswer(ctx context.Context, address string) error {
	ctx, cancel := context.WithCancel(ctx)
	defer cancel()
	answers := make(chan struct{}, 1)
	tick := time.NewTicker(2 * time.Millisecond)
	defer tick.Stop()
	for {
		go func() {
			if ask(ctx, address) == nil {
				select {
				case answers <- struct{}{}:
				default:
				}
			}
		}()
		select {
		case <-answers:
			return nil
		case <-tick.C:
		case <-c.exited:
			return c.ended(ctx, "an answer from "+address)
		case <-ctx.Done():
			return c.ended(ctx, "an answer from "+address)
		}
	}
}

// askTimeout bounds one request.
const askTimeout = 2 * time.Second

// ask makes one request to port 80 of the address, by a connection of its own.
func ask(ctx context.Context, address string) error {
	ctx, cancel := context.WithTimeout(ctx, askTimeout)
	defer cancel()
	request, err := http.NewRequestWithContext(ctx, http.MethodGet, "http://"+net.JoinHostPort(address, "80"), nil)
	if err != nil {
		return err
	}
	response, err := (&http.Client{Transport: &http.Transport{DisableKeepAlives: true}}).Do(request)
	if err != nil {
		return err
	}
	defer response.Body.Close()
	if response.StatusCode != http.StatusOK {
		return fmt.Errorf("ask %s: %s", address, response.Status)
	}
	_, err = io.Copy(io.Discard, response.Body)
	return err
}
