package testwait

import "testing"

func TestUntil(t *testing.T) {
	news := make(chan int, 1)
	asked := 0
	Until(t, func() string { return "twice" }, func() <-chan int { return news }, func() bool {
		asked++
		news <- asked // it is not asked again before this is taken
		return asked == 2
	})
	if asked != 2 || len(news) != 1 {
		t.Errorf("asked %d times", asked)
	}
	// What happens while it asks counts.
	asked = 0
	closed := make(chan int)
	Until(t, func() string { return "twice, by a channel for each event" }, func() <-chan int { return closed }, func() bool {
		asked++
		close(closed)
		closed = make(chan int)
		return asked == 2
	})
	asked = 2
	Until(t, func() string { return "three times" }, Polling(), func() bool { asked++; return asked >= 5 })
}
