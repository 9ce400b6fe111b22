package daemon

import (
	"context"
	"errors"
	"net"
	"net/url"
	"testing"
	"testing/synctest"
	"time"

	"github.com/peapod/peapod/internal/testca"
)

// An agent goes on without its server only with an authority that is not over: with one that is, it could not believe the server that
// comes back, as it learns of the next authority at its start.
func TestAgentTrustsWhatLives(t *testing.T) {
	l, err := net.Listen("tcp", "127.0.0.1:0")
	if err != nil {
		t.Fatal(err)
	}
	away := &url.URL{Scheme: "https", Host: l.Addr().String()}
	if err := l.Close(); err != nil {
		t.Fatal(err)
	}
	synctest.Test(t, func(t *testing.T) {
		begin := time.Now()
		lives, over := testca.New(t, "lives"), testca.NewBetween(t, "over", begin.Add(-2*time.Hour), begin.Add(-time.Hour))
		for what, c := range map[string]struct {
			ca     string
			goesOn bool
		}{"none": {"", false}, "nonsense": {"nonsense", false}, "over": {string(over.PEM), false}, "lives": {string(lives.PEM), true}} {
			ctx, cancel := context.WithTimeout(t.Context(), 10*patience)
			got, err := authority(ctx, away, agentRecord{CA: c.ca, Pin: "a"})
			cancel()
			switch {
			case c.goesOn && (err != nil || got != c.ca):
				t.Errorf("authority %s: the agent does not go on: %q, %v", what, got, err)
			case !c.goesOn && !errors.Is(err, context.DeadlineExceeded):
				t.Errorf("authority %s: the agent goes on though the server is away: %v", what, err)
			}
		}
	})
}
