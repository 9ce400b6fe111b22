package pod

import (
	"bytes"
	"flag"
	"fmt"
	"os"
	"path/filepath"
	"sort"
	"strconv"
	"strings"
	"testing"
	"time"

	v1 "k8s.io/api/core/v1"
	"k8s.io/apimachinery/pkg/api/resource"
	metav1 "k8s.io/apimachinery/pkg/apis/meta/v1"
	runtimeapi "k8s.io/cri-api/pkg/apis/runtime/v1"
	"sigs.k8s.io/yaml"

	"github.com/peapod/peapod/kubelet/allocation"
)

var rewrite = flag.Bool("rewrite", false, "write what happens into the scenario files")

// TestScenarios plays testdata/*.txt: each line "> command" is followed by what
// the core then decides, until it waits for something. See README.md there.
func TestScenarios(t *testing.T) {
	files, err := filepath.Glob("testdata/*.txt")
	if err != nil || len(files) == 0 {
		t.Fatalf("no scenarios: %v", err)
	}
	for _, file := range files {
		t.Run(strings.TrimSuffix(filepath.Base(file), ".txt"), func(t *testing.T) {
			want, err := os.ReadFile(file)
			if err != nil {
				t.Fatal(err)
			}
			got, err := play(string(want))
			if err != nil {
				t.Fatalf("%v, after:\n%s", err, got)
			}
			if *rewrite {
				if err := os.WriteFile(file, []byte(got), 0o644); err != nil {
					t.Fatal(err)
				}
				return
			}
			if got != string(want) {
				t.Errorf("%s: decisions differ (go test -rewrite shows them by git diff); got:\n%s", file, got)
			}
		})
	}
}

// play runs a scenario and returns it with the outcomes it has now, up to the
// line that cannot be played if there is an error.
func play(text string) (string, error) {
	var out bytes.Buffer
	s := &scenario{out: &out}
	lines := strings.Split(text, "\n")
	for i := 0; i < len(lines); i++ {
		line := lines[i]
		switch {
		case line == "" || strings.HasPrefix(line, "  "): // outcomes are written anew
		case strings.HasPrefix(line, "> pod"):
			fmt.Fprintln(&out, line)
			var doc []string
			for i+1 < len(lines) && strings.HasPrefix(lines[i+1], "| ") {
				i++
				fmt.Fprintln(&out, lines[i])
				doc = append(doc, strings.TrimPrefix(lines[i], "| "))
			}
			if err := s.pod(strings.Join(doc, "\n")); err != nil {
				return "", err
			}
			s.step()
		case strings.HasPrefix(line, "> "):
			fmt.Fprintln(&out, line)
			if err := s.command(strings.Fields(line[2:])); err != nil {
				return out.String(), fmt.Errorf("line %d: %s: %w", i+1, line, err)
			}
			s.step()
		default:
			fmt.Fprintln(&out, line)
		}
	}
	return out.String(), nil
}

// scenario is a Pod and the world around it.
type scenario struct {
	out       *bytes.Buffer
	in        Input
	ids       int
	last      string          // the status printed last
	cancelled map[string]bool // starts under way, by key
}

var epoch = time.Date(2026, 1, 1, 0, 0, 0, 0, time.UTC)

func (s *scenario) pod(doc string) error {
	p := &v1.Pod{}
	if err := yaml.UnmarshalStrict([]byte(doc), p); err != nil {
		return err
	}
	p.Namespace, p.UID, p.Generation = "ns", "u1", 1
	if p.Name == "" {
		p.Name = "p"
	}
	if p.Spec.RestartPolicy == "" {
		p.Spec.RestartPolicy = v1.RestartPolicyAlways
	}
	for _, list := range [][]v1.Container{p.Spec.Containers, p.Spec.InitContainers} {
		for i := range list {
			if list[i].Image == "" {
				list[i].Image = "img"
			}
		}
	}
	s.cancelled = map[string]bool{}
	s.in = Input{
		Pod: p, Now: epoch, StartTime: epoch, RuntimeName: "rt", HostIPs: []string{"192.0.2.1"},
		Busy: map[string]Op{}, Done: map[string]bool{}, Failures: map[string]Failure{}, Backoffs: map[string]Backoff{}, Probes: map[string]Probes{},
		Again: map[string]bool{},
	}
	return nil
}

func (s *scenario) command(f []string) error {
	arg := func(i int) string {
		if i < len(f) {
			return f[i]
		}
		return ""
	}
	switch f[0] {
	case "after":
		d, err := time.ParseDuration(arg(1))
		s.in.Now = s.in.Now.Add(d)
		return err
	case "done":
		return s.done(arg(1))
	case "fails":
		return s.fails(arg(1), arg(2), strings.Join(f[min(3, len(f)):], " "))
	case "ends": // a start that was cancelled made nothing
		if !s.cancelled[arg(1)] {
			return fmt.Errorf("not cancelled: %v", s.in.Busy)
		}
		delete(s.in.Busy, arg(1))
	case "exit":
		return s.exit(arg(1), arg(2), arg(3))
	case "probe":
		return s.probed(arg(1), arg(2), arg(3))
	case "delete":
		grace, err := strconv.ParseInt(arg(1), 10, 64)
		now := metav1.NewTime(s.in.Now)
		s.in.Pod.DeletionTimestamp, s.in.Pod.DeletionGracePeriodSeconds = &now, &grace
		return err
	case "gone":
		s.in.Deleted = true
	case "refuse":
		delete(s.in.Busy, "admit")
		s.in.Admission = &Refusal{Reason: arg(1), Message: strings.Join(f[2:], " ")}
	case "evict":
		grace, err := time.ParseDuration(arg(1))
		s.in.Ended = &Termination{Reason: arg(2), Message: strings.Join(f[3:], " "), Failed: true, By: s.in.Now.Add(grace)}
		s.in.State, _ = Next(s.in.State, End)
		return err
	case "sandbox-dies":
		s.in.Runtime.Sandboxes[0].Ready = false
		for i := range s.in.Runtime.Containers {
			if c := &s.in.Runtime.Containers[i]; c.Running() {
				s.end(c, 137, "Error")
			}
		}
	case "created":
		name := arg(1)
		round := s.in.Busy["c/"+name].Round
		delete(s.in.Busy, "c/"+name)
		s.in.Runtime.Containers = append([]Container{{
			ID: name + "-unstarted", SandboxID: s.in.Runtime.Sandboxes[0].ID, Name: name, Hash: Hash(s.in.container(name)),
			RestartCount: s.in.nextCount(s.in.container(name)), Round: round, State: runtimeapi.ContainerState_CONTAINER_CREATED, CreatedAt: s.in.Now,
		}}, s.in.Runtime.Containers...)
	case "condition":
		s.in.Pod.Status.Conditions = append(s.in.Pod.Status.Conditions, v1.PodCondition{Type: v1.PodConditionType(arg(1)), Status: v1.ConditionStatus(arg(2))})
	case "restart-kubelet":
		// What is remembered is lost; the runtime and the API are not.
		s.in.State, s.in.Admission, s.in.Admitted, s.in.VolumesReady, s.in.Ended = New, nil, false, false, nil
		s.in.Busy, s.in.Done, s.in.Failures = map[string]Op{}, map[string]bool{}, map[string]Failure{}
		s.in.Backoffs, s.in.Again = map[string]Backoff{}, map[string]bool{}
	case "vanish":
		s.in.Runtime = Snapshot{}
	case "image":
		c := s.in.container(arg(1))
		c.Image = arg(2)
	case "allocate":
		return s.allocate(arg(1), f[2:])
	case "debug":
		s.in.Pod.Spec.EphemeralContainers = append(s.in.Pod.Spec.EphemeralContainers, v1.EphemeralContainer{
			EphemeralContainerCommon: v1.EphemeralContainerCommon{Name: arg(1), Image: "img"},
		})
	default:
		return fmt.Errorf("no such command")
	}
	return nil
}

// allocate gives a container other resources than it has: "cpu=1 memory=1Gi" as requests and limits.
func (s *scenario) allocate(name string, amounts []string) error {
	list := v1.ResourceList{}
	for _, a := range amounts {
		what, amount, _ := strings.Cut(a, "=")
		q, err := resource.ParseQuantity(amount)
		if err != nil {
			return err
		}
		list[v1.ResourceName(what)] = q
	}
	old := s.in.Allocation
	if old == nil {
		old = &allocation.Record{Generation: s.in.Pod.Generation, Settled: s.in.Pod.Generation, Actuated: allocation.Of(s.in.Pod), Allocated: allocation.Of(s.in.Pod)}
	}
	s.in.Pod.Generation++
	next := allocation.Record{
		Generation: s.in.Pod.Generation, Settled: old.Settled, Actuated: old.Actuated,
		Allocated: old.Allocated.With(name, allocation.Resources{Containers: map[string]v1.ResourceRequirements{name: {Requests: list, Limits: list}}}),
	}
	s.in.Allocation, s.in.Pod = &next, next.Allocated.Apply(s.in.Pod)
	return nil
}

// done ends an operation well, with its effect on the world.
func (s *scenario) done(key string) error {
	op, ok := s.in.Busy[key]
	if !ok { // a prefix will do: the first of its keys
		var keys []string
		for k := range s.in.Busy {
			if strings.HasPrefix(k, key) {
				keys = append(keys, k)
			}
		}
		sort.Strings(keys)
		if len(keys) > 0 {
			key = keys[0]
			op, ok = s.in.Busy[key]
		}
	}
	if !ok {
		return fmt.Errorf("not under way: %v", s.in.Busy)
	}
	delete(s.in.Busy, key)
	delete(s.in.Failures, strings.TrimPrefix(key, "c/"))
	s.ids++
	switch op.Kind {
	case AskAdmission:
		s.in.Admitted = true
	case PrepareVolumes:
		s.in.VolumesReady = true
	case CreateSandbox:
		attempt := uint32(len(s.in.Runtime.Sandboxes))
		s.in.Runtime.Sandboxes = append([]Sandbox{{
			ID: fmt.Sprintf("s%d", s.ids), Attempt: attempt, Ready: true, CreatedAt: s.in.Now, IPs: []string{"10.0.0.5"},
		}}, s.in.Runtime.Sandboxes...)
	case StopSandbox:
		s.in.Done["stopped/"+s.in.Runtime.Sandboxes[0].ID] = true
	case StartContainer:
		name := strings.TrimPrefix(key, "c/")
		count := s.in.nextCount(s.in.container(name))
		s.in.Runtime.Containers = append([]Container{{
			ID: fmt.Sprintf("%s-%d", name, count), SandboxID: s.in.Runtime.Sandboxes[0].ID, Name: name, Hash: Hash(s.in.container(name)),
			RestartCount: count, Round: op.Round, State: runtimeapi.ContainerState_CONTAINER_RUNNING, CreatedAt: s.in.Now, StartedAt: s.in.Now,
			Image: "img", ImageID: "sha256:1",
		}}, s.in.Runtime.Containers...)
	case StopContainer:
		id := strings.Split(key, "/")[1]
		for i := range s.in.Runtime.Containers {
			if c := &s.in.Runtime.Containers[i]; c.ID == id && c.Running() {
				s.end(c, 143, "Error")
			}
		}
	case RemoveContainer:
		var kept []Container
		for _, c := range s.in.Runtime.Containers {
			if "gc/"+c.ID != key {
				kept = append(kept, c)
			}
		}
		s.in.Runtime.Containers = kept
	case ResizePod:
		next := *s.in.Allocation
		next.Actuated, next.Settled = next.Allocated, next.Generation
		s.in.Allocation = &next
	case AnnounceRestart:
		s.in.Done[key] = true
	case Release:
		s.in.Done[key] = true
		for i := range s.in.Runtime.Sandboxes {
			s.in.Runtime.Sandboxes[i].Ready = false
		}
	case RemoveAll:
		s.in.Done[key] = true
		s.in.Runtime = Snapshot{}
	}
	return nil
}

func (s *scenario) fails(key, reason, message string) error {
	op, ok := s.in.Busy[key]
	if !ok {
		return fmt.Errorf("not under way: %v", s.in.Busy)
	}
	delete(s.in.Busy, key)
	f := Failure{Reason: reason, Message: message, Since: s.in.Now, Retry: s.in.Now.Add(retryDelay(op.Kind, 1))}
	name := strings.TrimPrefix(key, "c/")
	if c := s.in.container(name); c != nil {
		f.Image = c.Image
	}
	s.in.Failures[name] = f
	return nil
}

func (s *scenario) exit(name, code, reason string) error {
	n, err := strconv.Atoi(code)
	if err != nil {
		return err
	}
	c := s.in.Runtime.Newest(name)
	if !c.Running() {
		return fmt.Errorf("does not run")
	}
	if reason == "" {
		reason = map[bool]string{true: "Completed", false: "Error"}[n == 0]
	}
	s.end(c, int32(n), reason)
	return nil
}

func (s *scenario) end(c *Container, code int32, reason string) {
	c.State, c.ExitCode, c.Reason, c.FinishedAt = runtimeapi.ContainerState_CONTAINER_EXITED, code, reason, s.in.Now
}

func (s *scenario) probed(name, kind, result string) error {
	c := s.in.Runtime.Newest(name)
	if c == nil {
		return fmt.Errorf("no such container")
	}
	p := s.in.Probes[c.ID]
	r := map[string]Result{"ok": Success, "bad": Failed}[result]
	switch kind {
	case "startup":
		p.Startup = r
	case "liveness":
		p.Liveness = r
	case "readiness":
		p.Readiness = r
	}
	s.in.Probes[c.ID] = p
	return nil
}

// step decides until nothing moves, as a worker does, and prints it.
func (s *scenario) step() {
	for range 20 {
		d := Decide(&s.in)
		if d.Ended != nil {
			s.in.Ended = d.Ended
		}
		if d.RestartsAll {
			s.restartsAll()
		}
		for k, f := range d.Failures {
			s.in.Failures[k] = f
		}
		for k, b := range d.Backoffs {
			s.in.Backoffs[k] = b
		}
		for _, n := range d.Notes {
			fmt.Fprintf(s.out, "  event %s %s: %s\n", n.Type, n.Reason, n.Message)
		}
		for _, a := range d.Actions {
			s.in.Busy[a.Key] = Op{Kind: a.Kind, By: a.By, Round: a.Round}
			delete(s.cancelled, a.Key)
			if a.Again {
				s.in.Again[a.ID] = true
			}
			fmt.Fprintf(s.out, "  %s\n", s.describe(a))
		}
		if d.Event != None {
			next, err := Next(s.in.State, d.Event)
			if err != nil {
				fmt.Fprintf(s.out, "  ERROR %v\n", err)
				return
			}
			fmt.Fprintf(s.out, "  %s -> %s\n", s.in.State, next)
			s.in.State = next
			s.in.Done = map[string]bool{}
			if next == Stopping {
				s.in.Failures = map[string]Failure{}
			}
			continue
		}
		silent := s.in.replacing(&d)
		if !d.Wake.IsZero() {
			fmt.Fprintf(s.out, "  wake in %s\n", d.Wake.Sub(s.in.Now))
		}
		if silent {
			fmt.Fprint(s.out, "  no status yet\n\n")
			return
		}
		s.in.Pod.Status = d.Status
		if text := summary(&d.Status); text != s.last {
			s.last = text
			s.out.WriteString(text)
		}
		if d.Final {
			fmt.Fprintln(s.out, "  final")
		}
		fmt.Fprintln(s.out)
		return
	}
	fmt.Fprintln(s.out, "  ERROR never comes to rest")
}

// restartsAll does what a worker does then.
func (s *scenario) restartsAll() {
	for key, op := range s.in.Busy { // one start at a time: no order to print
		if name := startOf(key); op.Kind == StartContainer && !isEphemeral(s.in.Pod, name) && !s.cancelled[key] {
			fmt.Fprintf(s.out, "  cancel the start of %s\n", name)
			s.cancelled[key] = true
		}
	}
	for _, list := range [][]v1.Container{s.in.Pod.Spec.InitContainers, s.in.Pod.Spec.Containers} {
		for i := range list {
			delete(s.in.Failures, list[i].Name)
		}
	}
}
