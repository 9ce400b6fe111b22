// Package instance gives one data directory its identity on a machine: the name that all its interfaces, cgroups and
// sockets carry, the lock that keeps a second server out, and the claim on address ranges that keeps two servers on one
// machine apart.
package instance

import (
	"crypto/sha256"
	"encoding/hex"
	"errors"
	"fmt"
	"io"
	"os"
	"path/filepath"
	"strconv"
	"strings"
	"time"

	"golang.org/x/sys/unix"

	"github.com/peapod/peapod/internal/atomicfile"
)

// DefaultDataDir is where everything that must outlive a reboot is kept, unless told otherwise.
const DefaultDataDir = "/var/lib/peapod"

// RunRoot holds the directories of all instances' sockets, pinned namespaces and mounts.
const RunRoot = "/run/peapod"

// DataDirEnv is the environment variable that replaces DefaultDataDir.
const DataDirEnv = "PEAPOD_DATA_DIR"

// Instance is a data directory and what follows from it.
type Instance struct {
	// DataDir is absolute and free of symbolic links.
	DataDir string
	// Name is eight hexadecimal digits derived from DataDir; short, since interface names hold 15 bytes.
	Name string
	// RunDir is RunRoot/Name. It need not exist.
	RunDir string
}

// At returns the instance of a data directory, which need not exist yet.
func At(dataDir string) (Instance, error) {
	if dataDir == "" {
		return Instance{}, errors.New("data directory: the path is empty; give --data-dir or " + DataDirEnv)
	}
	abs, err := filepath.Abs(dataDir)
	if err != nil {
		return Instance{}, fmt.Errorf("resolve data directory %q: %w", dataDir, err)
	}
	if abs, err = resolveExisting(abs); err != nil {
		return Instance{}, fmt.Errorf("resolve data directory %q: %w", dataDir, err)
	}
	if strings.ContainsAny(abs, ":,\\\n") {
		return Instance{}, fmt.Errorf("data directory %q: overlay mounts cannot name a path with ':', ',', '\\' or a line break; choose another", abs)
	}
	sum := sha256.Sum256([]byte(abs))
	name := hex.EncodeToString(sum[:4])
	return Instance{DataDir: abs, Name: name, RunDir: filepath.Join(RunRoot, name)}, nil
}

// resolveExisting resolves the links in the part of path that exists.
func resolveExisting(path string) (string, error) {
	rest := ""
	for p := path; ; p = filepath.Dir(p) {
		real, err := filepath.EvalSymlinks(p)
		if err == nil {
			return filepath.Join(real, rest), nil
		}
		if !errors.Is(err, os.ErrNotExist) || p == "/" {
			return "", err
		}
		rest = filepath.Join(filepath.Base(p), rest)
	}
}

// Kubeconfig is the administrator's client configuration.
func (i Instance) Kubeconfig() string { return filepath.Join(i.DataDir, "admin.kubeconfig") }

// AgentFile is what an agent knows of its cluster. It is there once a machine has joined one with this data directory.
func (i Instance) AgentFile() string { return filepath.Join(i.DataDir, "agent.json") }

// Program is what runs with this data directory, as users know it: "agent" where the machine has joined another's cluster, or "server".
func (i Instance) Program() string {
	if _, err := os.Stat(i.AgentFile()); err == nil {
		return "agent"
	}
	return "server"
}

// Socket is where the running server takes CRI requests.
func (i Instance) Socket() string { return filepath.Join(i.RunDir, "cri.sock") }

// ReadyFile holds the process ID of the last server of this instance that became ready.
func (i Instance) ReadyFile() string { return filepath.Join(i.RunDir, "ready") }

// MarkReady announces that this process, which holds the Lock, is ready.
func (i Instance) MarkReady() error {
	return atomicfile.Write(i.ReadyFile(), []byte(strconv.Itoa(os.Getpid())+"\n"), 0o600)
}

// Ready says whether the server s of this instance has announced that it is ready.
func (i Instance) Ready(s *Server) bool {
	b, err := os.ReadFile(i.ReadyFile())
	return err == nil && strings.TrimSpace(string(b)) == strconv.Itoa(s.PID)
}

func (i Instance) lockFile() string { return filepath.Join(i.DataDir, "server.lock") }

// RunningError says that another process holds the data directory.
type RunningError struct {
	DataDir string
	PID     int
}

func (e *RunningError) Error() string {
	return fmt.Sprintf("data directory %s is in use by the server with process ID %d; stop it (peapod stop --data-dir %s) or choose another --data-dir",
		e.DataDir, e.PID, e.DataDir)
}

// Lock is held by the one server of a data directory for as long as it lives; the kernel releases it with the process.
type Lock struct{ f *os.File }

// Lock takes the data directory, making it (0700) if need be. It fails with a *RunningError where somebody has it.
func (i Instance) Lock() (*Lock, error) {
	if err := os.MkdirAll(i.DataDir, 0o700); err != nil {
		return nil, fmt.Errorf("make data directory: %w", err)
	}
	f, err := os.OpenFile(i.lockFile(), os.O_CREATE|os.O_RDWR|unix.O_CLOEXEC, 0o600)
	if err != nil {
		return nil, fmt.Errorf("open lock of data directory: %w", err)
	}
	if err := lockAlone(f); err != nil {
		defer f.Close()
		if errors.Is(err, unix.EWOULDBLOCK) {
			pid, _ := readPID(f)
			return nil, &RunningError{DataDir: i.DataDir, PID: pid}
		}
		return nil, fmt.Errorf("lock data directory %s: %w", i.DataDir, err)
	}
	if err := f.Truncate(0); err != nil {
		f.Close()
		return nil, fmt.Errorf("write lock of data directory: %w", err)
	}
	if _, err := f.WriteAt([]byte(strconv.Itoa(os.Getpid())+"\n"), 0); err != nil {
		f.Close()
		return nil, fmt.Errorf("write lock of data directory: %w", err)
	}
	return &Lock{f}, nil
}

// lookers is how long those may have the lock who look whether a server has it (see unlocked): each has it for microseconds.
const lookers = 2 * time.Second

// lockAlone takes the lock, or fails with EWOULDBLOCK where a server has it.
func lockAlone(f *os.File) error {
	for end := time.Now().Add(lookers); ; {
		err := unix.Flock(int(f.Fd()), unix.LOCK_EX|unix.LOCK_NB)
		if !errors.Is(err, unix.EWOULDBLOCK) || time.Now().After(end) {
			return err
		}
		free, lookErr := unlocked(f)
		if lookErr != nil {
			return lookErr
		}
		if !free {
			return err
		}
		time.Sleep(time.Millisecond) // the kernel tells nobody when a lock is free who does not wait for it
	}
}

// Release gives the data directory up.
func (l *Lock) Release() error { return l.f.Close() }

// Server is a running server, held by its pidfd so that a reused process ID is never mistaken for it.
type Server struct {
	PID   int
	pidfd int
}

// Running returns the server that holds the data directory, or nil if there is none. The caller closes it.
func (i Instance) Running() (*Server, error) {
	f, err := os.Open(i.lockFile())
	if errors.Is(err, os.ErrNotExist) {
		return nil, nil
	}
	if err != nil {
		return nil, fmt.Errorf("open lock of data directory: %w", err)
	}
	defer f.Close()
	if free, err := unlocked(f); err != nil || free {
		return nil, err
	}
	pid, err := readPID(f)
	if errors.Is(err, io.EOF) {
		return nil, nil // it has the lock and has not said so yet: it is about to start
	}
	if err != nil {
		return nil, err
	}
	fd, err := unix.PidfdOpen(pid, 0)
	if errors.Is(err, unix.ESRCH) {
		return nil, nil
	}
	if err != nil {
		return nil, fmt.Errorf("open process %d: %w", pid, err)
	}
	// Held still: the process that pidfd names is the one that wrote its ID.
	if free, err := unlocked(f); err != nil || free {
		unix.Close(fd)
		return nil, err
	}
	return &Server{PID: pid, pidfd: fd}, nil
}

// unlocked says whether nobody holds the lock.
func unlocked(f *os.File) (bool, error) {
	err := unix.Flock(int(f.Fd()), unix.LOCK_SH|unix.LOCK_NB)
	if errors.Is(err, unix.EWOULDBLOCK) {
		return false, nil
	}
	if err != nil {
		return false, fmt.Errorf("try lock of data directory: %w", err)
	}
	return true, unix.Flock(int(f.Fd()), unix.LOCK_UN)
}

func readPID(f *os.File) (int, error) {
	b := make([]byte, 32)
	n, err := f.ReadAt(b, 0)
	if n == 0 {
		return 0, fmt.Errorf("read process ID from %s: %w", f.Name(), err)
	}
	pid, err := strconv.Atoi(strings.TrimSpace(string(b[:n])))
	if err != nil {
		return 0, fmt.Errorf("read process ID from %s: %w", f.Name(), err)
	}
	return pid, nil
}

// Stop sends sig and waits until the process has ended or timeoutMillis have passed (forever if negative). It says
// whether the process has ended.
func (s *Server) Stop(sig unix.Signal, timeoutMillis int) (bool, error) {
	if err := unix.PidfdSendSignal(s.pidfd, sig, nil, 0); err != nil {
		if errors.Is(err, unix.ESRCH) {
			return true, nil
		}
		return false, fmt.Errorf("signal process %d: %w", s.PID, err)
	}
	for {
		n, err := unix.Poll([]unix.PollFd{{Fd: int32(s.pidfd), Events: unix.POLLIN}}, timeoutMillis)
		if errors.Is(err, unix.EINTR) {
			continue
		}
		return n > 0, err
	}
}

// Close forgets the process.
func (s *Server) Close() error { return unix.Close(s.pidfd) }
