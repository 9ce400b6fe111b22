// Package protocol is what peapod and its container supervisor say to each other over a unix socket.
//
// A connection carries one operation: the client sends one Request frame, the supervisor answers with one Response frame, or with
// several where the operation says so (exec, attach, subscribe). A frame is a 4-byte big-endian length and that many bytes of JSON;
// file descriptors travel as SCM_RIGHTS with the first byte of their frame. Closing the connection ends the operation.
//
// The package is linked into the supervisor, whose start time every container start pays for: it imports only the standard library and
// golang.org/x/sys.
package protocol

import (
	"encoding/json"
	"time"
)

// What a supervisor that was started says on descriptor 3, once: it listens, or another one does, and this one ends.
const (
	Ready   = "ready\n"
	Another = "another\n"
)

// Version is the protocol's version. A supervisor answers requests of its own version only, except Hello and Upgrade, which never
// change, so that a newer peapod can replace an older supervisor in place.
const Version = 1

// Op names an operation.
type Op string

const (
	// Hello answers with Response.Hello.
	Hello Op = "hello"
	// Start creates and starts the container of Request.Start; answers with Response.Container.
	Start Op = "start"
	// Exec runs Request.Exec in a container. Descriptors sent: stdin, stdout, stderr, as far as Exec names them. First response:
	// Container.Pid, with the pty's master as descriptor if Exec.TTY. Second response, when the process ended: Exit. If the client
	// closes the connection first, the process is killed.
	Exec Op = "exec"
	// Signal sends Request.Signal to the container's first process; SIGKILL reaches every process of the container.
	Signal Op = "signal"
	// List answers with Response.Containers, running and exited.
	List Op = "list"
	// Stats answers with Response.Stats for the running containers among Request.IDs (all if empty).
	Stats Op = "stats"
	// Update changes a container's cgroup limits to Request.Resources (a runtime-spec LinuxResources).
	Update Op = "update"
	// Pause and Resume freeze and thaw a container.
	Pause  Op = "pause"
	Resume Op = "resume"
	// Delete kills what still runs of a container, then forgets it and its exit record. Deleting the unknown is no error.
	Delete Op = "delete"
	// ReopenLog closes and opens the container's log file, after a rotation renamed it.
	ReopenLog Op = "reopenLog"
	// Attach adds the sent descriptors (stdout, stderr as far as Request.Attach names them) as further receivers of the container's
	// output. The response carries as descriptor the container's stdin (the pty's master if it has a terminal), where Attach.Stdin
	// asks for it. The attachment ends when either side closes the connection; the supervisor closes it when the container ended.
	Attach Op = "attach"
	// CloseStdin, sent on the connection of an Attach, says that the client's input has ended.
	CloseStdin Op = "closeStdin"
	// Subscribe answers with one Response that holds the state of all containers, then one Response with Container set for each exit.
	Subscribe Op = "subscribe"
	// Upgrade makes the supervisor execute the sent descriptor (a sealed memfd with a newer podinit) in its own place. It answers
	// only if that failed; else the connection closes.
	Upgrade Op = "upgrade"
	// Shutdown kills every container, records the exits, and ends the supervisor.
	Shutdown Op = "shutdown"
)

// Request is the first frame of a connection.
type Request struct {
	Version int    `json:"v"`
	Op      Op     `json:"op"`
	ID      string `json:"id,omitempty"`

	Start     *StartRequest   `json:"start,omitempty"`
	Exec      *ExecRequest    `json:"exec,omitempty"`
	Attach    *AttachRequest  `json:"attach,omitempty"`
	Signal    int             `json:"signal,omitempty"`
	IDs       []string        `json:"ids,omitempty"`
	Resources json.RawMessage `json:"resources,omitempty"`
}

// StartRequest describes a container to start.
type StartRequest struct {
	// Spec is an OCI runtime specification, its root file system mounted.
	Spec json.RawMessage `json:"spec"`
	// LogDir and LogName name the CRI log file. LogName is a path below LogDir without links in it. No log is kept if LogName is
	// empty.
	LogDir  string `json:"logDir,omitempty"`
	LogName string `json:"logName,omitempty"`
	// Stdin keeps the container's standard input open for attachers; StdinOnce closes it when the first of them leaves.
	Stdin     bool `json:"stdin,omitempty"`
	StdinOnce bool `json:"stdinOnce,omitempty"`
	// TTY gives the container a terminal instead of pipes.
	TTY bool `json:"tty,omitempty"`
}

// ExecRequest describes a process to run in a running container.
type ExecRequest struct {
	// Process is a runtime-spec Process.
	Process json.RawMessage `json:"process"`
	TTY     bool            `json:"tty,omitempty"`
	// Stdin, Stdout and Stderr say which descriptors follow, in this order. Without one the process gets /dev/null.
	Stdin  bool `json:"stdin,omitempty"`
	Stdout bool `json:"stdout,omitempty"`
	Stderr bool `json:"stderr,omitempty"`
}

// AttachRequest says which of a container's streams to attach to.
type AttachRequest struct {
	Stdin  bool `json:"stdin,omitempty"`
	Stdout bool `json:"stdout,omitempty"`
	Stderr bool `json:"stderr,omitempty"`
}

// Response is a frame from the supervisor.
type Response struct {
	// Error is set if the operation failed; Code says how where a caller decides on it.
	Error string    `json:"error,omitempty"`
	Code  ErrorCode `json:"code,omitempty"`

	Hello      *HelloInfo       `json:"hello,omitempty"`
	Container  *ContainerState  `json:"container,omitempty"`
	Containers []ContainerState `json:"containers,omitempty"`
	Exit       *ExitState       `json:"exit,omitempty"`
	Stats      []ContainerStats `json:"stats,omitempty"`
	// Files counts the descriptors sent with this response.
	Files int `json:"files,omitempty"`
}

// ErrorCode tells apart the failures that callers handle.
type ErrorCode string

const (
	NotFound       ErrorCode = "notFound"
	NotRunning     ErrorCode = "notRunning"
	AlreadyExists  ErrorCode = "alreadyExists"
	VersionUnknown ErrorCode = "versionUnknown"
	Invalid        ErrorCode = "invalid"
)

// HelloInfo says who answers.
type HelloInfo struct {
	Version int `json:"version"`
	// Build is the SHA-256 of the running executable, in hex.
	Build string `json:"build"`
	Pid   int    `json:"pid"`
	// Upgrades counts the executions in place since the process began.
	Upgrades int `json:"upgrades"`
}

// ContainerState is what the supervisor knows of one container.
type ContainerState struct {
	ID        string    `json:"id"`
	Pid       int       `json:"pid"`
	StartedAt time.Time `json:"startedAt"`
	// Exit is nil while the container runs.
	Exit *ExitState `json:"exit,omitempty"`
}

// ExitState is how a process ended.
type ExitState struct {
	// Code is the exit code; 128 + signal number if a signal ended the process.
	Code int `json:"code"`
	// Signal is the number of the signal that ended the process, or 0.
	Signal int `json:"signal,omitempty"`
	// OOM says that the kernel killed a process of the container for want of memory.
	OOM bool `json:"oom,omitempty"`
	// Unknown says that nobody saw the end: the supervisor or the machine went down with the container.
	Unknown    bool      `json:"unknown,omitempty"`
	FinishedAt time.Time `json:"finishedAt"`
}

// ContainerStats are a container's usage counters at Time. Memory and Swap are bytes, CPU is nanoseconds since the start.
type ContainerStats struct {
	ID               string    `json:"id"`
	Time             time.Time `json:"time"`
	CPU              uint64    `json:"cpu"`
	CPUUser          uint64    `json:"cpuUser"`
	CPUKernel        uint64    `json:"cpuKernel"`
	CPUPeriods       uint64    `json:"cpuPeriods"`
	CPUThrottled     uint64    `json:"cpuThrottled"`
	CPUThrottledTime uint64    `json:"cpuThrottledTime"`
	MemoryUsage      uint64    `json:"memoryUsage"`
	MemoryLimit      uint64    `json:"memoryLimit"`
	MemoryWorkingSet uint64    `json:"memoryWorkingSet"`
	MemoryRSS        uint64    `json:"memoryRSS"`
	MemoryCache      uint64    `json:"memoryCache"`
	MemoryMaxUsage   uint64    `json:"memoryMaxUsage"`
	MemoryFailCount  uint64    `json:"memoryFailCount"`
	PageFaults       uint64    `json:"pageFaults"`
	MajorPageFaults  uint64    `json:"majorPageFaults"`
	SwapUsage        uint64    `json:"swapUsage"`
	SwapLimit        uint64    `json:"swapLimit"`
	Pids             uint64    `json:"pids"`
	PidsLimit        uint64    `json:"pidsLimit"`
	PSI              PSIStats  `json:"psi"`
	OOMKills         uint64    `json:"oomKills"`
}

// PSIStats is pressure stall information, where the kernel has it.
type PSIStats struct {
	CPU    *Pressure `json:"cpu,omitempty"`
	Memory *Pressure `json:"memory,omitempty"`
	IO     *Pressure `json:"io,omitempty"`
}

// Pressure is one resource's pressure; the averages are percentages, Total is microseconds.
type Pressure struct {
	Some, Full PressureLine
}

// PressureLine is one line of a pressure file.
type PressureLine struct {
	Avg10, Avg60, Avg300 float64
	Total                uint64
}
