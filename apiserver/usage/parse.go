package usage

import (
	"bufio"
	"bytes"
	"errors"
	"fmt"
	"io"
	"strconv"
	"strings"
	"time"

	"k8s.io/apimachinery/pkg/types"
)

// point is what one counter of CPU and one of memory say.
type point struct {
	// start is when the counter of CPU began, zero for a node's; at is when it was read.
	start, at time.Time
	// cpu is in nanoseconds, memory in bytes.
	cpu, memory uint64
	// has says which have been read.
	hasCPU, hasMemory bool
}

func (p *point) whole() bool { return p.hasCPU && p.hasMemory }

// answer is what a kubelet said.
type answer struct {
	node point
	pods map[types.NamespacedName]map[string]*point // by the names of their containers
}

// mostLine bounds a line: it holds the names of a container, a Pod and a namespace.
const mostLine = 64 << 10

// mostValue and mostSeconds bound what may be said: 9 PB, and what nanoseconds can count.
const (
	mostValue   = 9e15
	mostSeconds = 9e9
)

// parse reads what /metrics/resource says, in Prometheus' text format. What has no time was read at asked. Metrics that are not about
// what is measured here are passed over.
func parse(r io.Reader, asked time.Time) (*answer, error) {
	a := &answer{pods: map[types.NamespacedName]map[string]*point{}}
	lines := bufio.NewScanner(r)
	lines.Buffer(make([]byte, 0, 4<<10), mostLine)
	for lines.Scan() {
		line := lines.Bytes()
		if len(line) == 0 || line[0] == '#' {
			continue
		}
		if err := a.take(line, asked); err != nil {
			return nil, fmt.Errorf("read metrics: line %q: %w", line, err)
		}
	}
	if err := lines.Err(); err != nil {
		return nil, fmt.Errorf("read metrics: %w", err)
	}
	return a, nil
}

var errLine = errors.New("it is not of Prometheus' text format")

// take reads one line: name{label="value",...} value [milliseconds].
func (a *answer) take(line []byte, asked time.Time) error {
	end := bytes.IndexAny(line, "{ ")
	if end < 0 {
		return errLine
	}
	name, rest := string(line[:end]), line[end:]
	switch name {
	case "node_cpu_usage_seconds_total", "node_memory_working_set_bytes", "container_cpu_usage_seconds_total",
		"container_memory_working_set_bytes", "container_start_time_seconds":
	default:
		return nil
	}
	to := &a.node
	if rest[0] == '{' {
		of, after, err := parseLabels(rest[1:])
		if err != nil {
			return err
		}
		rest = after
		if strings.HasPrefix(name, "container_") {
			to = a.container(of)
		}
	}
	fields := bytes.Fields(rest)
	if len(fields) != 1 && len(fields) != 2 {
		return errLine
	}
	value, err := strconv.ParseFloat(string(fields[0]), 64)
	if err != nil {
		return errLine
	}
	at := asked
	if len(fields) == 2 {
		ms, err := strconv.ParseInt(string(fields[1]), 10, 64)
		if err != nil {
			return errLine
		}
		at = time.UnixMilli(ms)
	}
	switch {
	case !(value >= 0 && value <= mostValue): // NaN, too
		return fmt.Errorf("value %g is impossible", value)
	case strings.HasSuffix(name, "_memory_working_set_bytes"):
		to.memory, to.hasMemory = uint64(value), true
	case value > mostSeconds:
		return fmt.Errorf("value %g is impossible", value)
	case strings.HasSuffix(name, "_cpu_usage_seconds_total"):
		to.cpu, to.at, to.hasCPU = uint64(value*1e9), at, true
	default:
		to.start = time.Unix(0, int64(value*1e9))
	}
	return nil
}

// named are the labels that say whose a line is.
type named struct {
	pod       types.NamespacedName
	container string
}

func (a *answer) container(of named) *point {
	pod := a.pods[of.pod]
	if pod == nil {
		pod = map[string]*point{}
		a.pods[of.pod] = pod
	}
	p := pod[of.container]
	if p == nil {
		p = &point{}
		pod[of.container] = p
	}
	return p
}

// parseLabels reads what follows the opening brace, and returns what follows the closing one.
func parseLabels(text []byte) (of named, rest []byte, err error) {
	for {
		text = bytes.TrimLeft(text, ", ")
		if len(text) == 0 || text[0] == '}' {
			break
		}
		eq := bytes.Index(text, []byte(`="`))
		if eq < 0 {
			return of, nil, errLine
		}
		key := string(text[:eq])
		value, after, ok := unquote(text[eq+2:])
		if !ok {
			return of, nil, errLine
		}
		text = after
		switch key {
		case "namespace":
			of.pod.Namespace = value
		case "pod":
			of.pod.Name = value
		case "container":
			of.container = value
		}
	}
	if len(text) == 0 {
		return of, nil, errLine
	}
	return of, text[1:], nil
}

// unquote reads a label's value up to its closing quote, and returns what follows.
func unquote(text []byte) (value string, rest []byte, ok bool) {
	end := bytes.IndexAny(text, `"\`)
	if end >= 0 && text[end] == '"' {
		return string(text[:end]), text[end+1:], true // nearly always
	}
	var out []byte
	for i := 0; i < len(text); i++ {
		switch c := text[i]; {
		case c == '"':
			return string(out), text[i+1:], true
		case c == '\\' && i+1 < len(text):
			i++
			if c = text[i]; c == 'n' {
				c = '\n'
			}
			out = append(out, c)
		default:
			out = append(out, c)
		}
	}
	return "", nil, false
}
