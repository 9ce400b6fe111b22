package pod

import "fmt"

// State is a station of a Pod's way on this node.
type State int

const (
	// New: known from the API or found in the runtime, nothing decided yet.
	New State = iota
	// Starting: admitted; volumes, sandbox and init containers come up.
	Starting
	// Running: the regular containers are kept as their restart rules say.
	Running
	// Stopping: the containers are ended, each within the grace left.
	Stopping
	// Releasing: nothing runs; sandbox, volumes and cgroups are given back.
	Releasing
	// Finished: the Pod holds no resource of the node but dead containers and
	// logs, which stay readable until the API object is gone.
	Finished
	// Removing: the API object is gone; what is left on disk is deleted.
	Removing
	// Gone: nothing of the Pod is left; its worker ends.
	Gone
)

var stateNames = [...]string{"New", "Starting", "Running", "Stopping", "Releasing", "Finished", "Removing", "Gone"}

func (s State) String() string {
	if s < 0 || int(s) >= len(stateNames) {
		return fmt.Sprintf("State(%d)", int(s))
	}
	return stateNames[s]
}

// Event is what moves a Pod from one State to the next.
type Event int

const (
	// None moves nothing.
	None Event = iota
	// Admit: the node takes the Pod, or the Pod's sandbox is here already.
	Admit
	// Begin: the init containers are done, the first regular one is created.
	Begin
	// Rebuild: the sandbox died and the restart rules ask for a new one.
	Rebuild
	// RestartAll: a container's end asks for a restart of all containers.
	RestartAll
	// End: deleted, evicted, refused, past its deadline, or finished by itself.
	End
	// Stopped: no container runs any more.
	Stopped
	// Released: sandbox stopped, volumes unmounted, cgroups gone.
	Released
	// Remove: the API object is gone.
	Remove
	// Removed: containers, sandboxes, logs and directories are deleted.
	Removed
)

var eventNames = [...]string{"None", "Admit", "Begin", "Rebuild", "RestartAll", "End", "Stopped", "Released", "Remove", "Removed"}

func (e Event) String() string {
	if e < 0 || int(e) >= len(eventNames) {
		return fmt.Sprintf("Event(%d)", int(e))
	}
	return eventNames[e]
}

// transition is one row of the machine; why becomes the diagram's label.
type transition struct {
	from State
	on   Event
	to   State
	why  string
}

// transitions returns the whole machine. What is not listed is illegal.
func transitions() []transition {
	return []transition{
		{New, Admit, Starting, "fits, or already here"},
		{New, End, Stopping, "refused, deleted or finished"},
		{Starting, Begin, Running, "first regular container created"},
		{Starting, End, Stopping, "deleted, evicted, deadline, init failed"},
		{Running, Rebuild, Starting, "sandbox died"},
		{Running, RestartAll, Starting, "a rule restarts all containers"},
		{Running, End, Stopping, "deleted, evicted, deadline, all done"},
		{Stopping, Stopped, Releasing, "no container runs"},
		{Releasing, Released, Finished, "sandbox, volumes, cgroup given back"},
		{Finished, Remove, Removing, "API object gone"},
		{Removing, Removed, Gone, "nothing left"},
	}
}

// TransitionError is an event that its state does not know: a bug.
type TransitionError struct {
	State State
	Event Event
}

func (e *TransitionError) Error() string {
	return fmt.Sprintf("move pod on event %s: illegal in state %s", e.Event, e.State)
}

// Next is the state after an event.
func Next(s State, e Event) (State, error) {
	if e == None {
		return s, nil
	}
	for _, t := range transitions() {
		if t.from == s && t.on == e {
			return t.to, nil
		}
	}
	return s, &TransitionError{State: s, Event: e}
}
