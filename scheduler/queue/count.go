package queue

// Count is how many Pods wait.
type Count struct {
	// Active are to be tried now, BackingOff after a time, Unschedulable when something happens that may help, and Held when what they
	// need before they are tried at all is there.
	Active, BackingOff, Unschedulable, Held int
	// RejectedBy counts, for each plugin, the Pods that wait because of it.
	RejectedBy map[string]int
}

// Count costs a look at each Pod that waits for an event.
func (q *Queue) Count() Count {
	c := Count{Active: q.ready.Len(), BackingOff: q.later.Len(), RejectedBy: map[string]int{}}
	for _, e := range q.waiters {
		if e.held {
			c.Held++
		} else {
			c.Unschedulable++
		}
		for _, plugin := range e.rejectedBy {
			c.RejectedBy[plugin]++
		}
	}
	return c
}
