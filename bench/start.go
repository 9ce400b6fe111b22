package main

import (
	"context"
	"time"
)

// How many clusters are started for the first time, and how often one of them again.
const (
	firstStarts = 3
	nextStarts  = 5
)

// starts are the durations from exec to readyz and to the node's readiness.
type starts struct{ readyz, node []time.Duration }

// add starts the cluster's server once and stops it.
func (s *starts) add(ctx context.Context, c *cluster) error {
	began, err := c.start()
	if err != nil {
		return err
	}
	ready, err := c.awaitReadyz(ctx)
	if err != nil {
		return err
	}
	client, err := c.client()
	if err != nil {
		return err
	}
	node, err := c.awaitNode(ctx, client, began)
	if err != nil {
		return err
	}
	s.readyz = append(s.readyz, ready.Sub(began))
	// A node that was quicker than readyz still is ready only for those who can ask.
	s.node = append(s.node, node.Sub(began))
	return c.stop()
}

// measureStart measures how long a server takes to be of use: at its very first start, which makes keys and the objects
// that every cluster has, and at later ones.
func measureStart(ctx context.Context, s settings) ([]figure, error) {
	var first, next starts
	for round := range firstStarts {
		err := withCluster(ctx, s, func(c *cluster) error {
			if err := first.add(ctx, c); err != nil {
				return err
			}
			if round > 0 {
				return nil
			}
			for range nextStarts {
				// A heartbeat has the precision of a second: it must not be the last start's.
				if err := letPass(ctx, time.Second); err != nil {
					return err
				}
				if err := next.add(ctx, c); err != nil {
					return err
				}
			}
			return nil
		})
		if err != nil {
			return nil, err
		}
	}
	return []figure{
		milliseconds("first start to readyz", 0, first.readyz),
		milliseconds("first start to node Ready", 1000, first.node),
		milliseconds("next start to readyz", 300, next.readyz),
		milliseconds("next start to node Ready", 0, next.node),
	}, nil
}
