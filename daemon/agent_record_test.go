package daemon

import (
	"testing"
	"time"

	"github.com/peapod/peapod/internal/testca"
)

// An agent goes on without its server only with an authority that is not over: with one that is, it could not believe the server that
// comes back, as it learns of the next authority at its start.
func TestAgentTrustsWhatLives(t *testing.T) {
	now := time.Now()
	lives, over := testca.New(t, "lives"), testca.NewBetween(t, "over", now.Add(-2*time.Hour), now.Add(-time.Hour))
	for ca, want := range map[string]bool{"": false, "nonsense": false, string(over.PEM): false, string(lives.PEM): true} {
		if got := (agentRecord{CA: ca}).trusts(now); got != want {
			t.Errorf("trusts is %v by\n%s", got, ca)
		}
	}
}
