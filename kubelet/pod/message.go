package pod

import (
	"bytes"
	"encoding/json"
	"errors"
	"fmt"
	"io"
	"os"
	"strings"
	"time"

	"golang.org/x/sys/unix"
	v1 "k8s.io/api/core/v1"
	runtimeapi "k8s.io/cri-api/pkg/apis/runtime/v1"

	"github.com/peapod/peapod/kubelet/criconfig"
)

// Limits that Kubernetes puts on termination messages.
const (
	maxMessage         = 4096
	maxMessages        = 12 * 1024 // of all containers of a Pod together
	maxMessageLogBytes = 2048
	maxMessageLogLines = 80
)

// terminationMessage is what a container left to say: its message file, or
// the end of its log if it failed silently and asks for that.
func terminationMessage(s *runtimeapi.ContainerStatus) string {
	path := s.Annotations[criconfig.AnnotationMessagePath]
	var failures []string
	if path != "" {
		for _, m := range s.Mounts {
			if m.ContainerPath != path {
				continue
			}
			text, err := readMessage(m.HostPath)
			if errors.Is(err, os.ErrNotExist) {
				break // the Pod's directory went with what it had
			} else if err != nil {
				failures = append(failures, fmt.Sprintf("Error on reading termination log %s: %v", m.HostPath, err))
			} else if text != "" {
				return text
			}
			break
		}
	}
	if s.Annotations[criconfig.AnnotationMessagePolicy] == string(v1.TerminationMessageFallbackToLogsOnError) && s.ExitCode != 0 {
		text, err := readLogTail(s.LogPath)
		if err != nil {
			failures = append(failures, fmt.Sprintf("Error reading from file %s: %v", s.LogPath, err))
		} else if text != "" {
			return text
		}
	}
	return strings.Join(failures, "\n")
}

// told is what the Pod's status says that an ended instance left to say. It
// holds for a process that finds the instance ended: the file is gone with the
// directory of a Pod that is over.
func told(p *v1.Pod, id string) (message string, ok bool) {
	for _, list := range [][]v1.ContainerStatus{p.Status.InitContainerStatuses, p.Status.ContainerStatuses, p.Status.EphemeralContainerStatuses} {
		for i := range list {
			for _, st := range []v1.ContainerState{list[i].State, list[i].LastTerminationState} {
				if t := st.Terminated; t != nil && InstanceID(t.ContainerID) == id {
					return t.Message, true
				}
			}
		}
	}
	return "", false
}

// InstanceID is the runtime's name of an instance that a status calls RUNTIME://ID.
func InstanceID(containerID string) string {
	_, id, _ := strings.Cut(containerID, "://")
	return id
}

// openRegular opens a file that a container could have written to, without
// following a link and without hanging on a pipe.
func openRegular(path string) (*os.File, error) {
	fd, err := unix.Open(path, unix.O_RDONLY|unix.O_NOFOLLOW|unix.O_NONBLOCK|unix.O_CLOEXEC, 0)
	if err != nil {
		return nil, &os.PathError{Op: "open", Path: path, Err: err}
	}
	f := os.NewFile(uintptr(fd), path)
	info, err := f.Stat()
	if err == nil && !info.Mode().IsRegular() {
		err = fmt.Errorf("open %s: not a regular file", path)
	}
	if err != nil {
		return nil, errors.Join(err, f.Close())
	}
	return f, nil
}

// readMessage reads a message file; of a longer one, the end.
func readMessage(path string) (string, error) {
	data, err := readTail(path, maxMessage)
	return string(bytes.ToValidUTF8(data, []byte("\uFFFD"))), err
}

func readTail(path string, limit int64) ([]byte, error) {
	f, err := openRegular(path)
	if err != nil {
		return nil, err
	}
	defer f.Close()
	info, err := f.Stat()
	if err != nil {
		return nil, err
	}
	if info.Size() > limit {
		if _, err := f.Seek(info.Size()-limit, io.SeekStart); err != nil {
			return nil, err
		}
	}
	return io.ReadAll(io.LimitReader(f, limit))
}

// readHead reads a file's beginning, at most limit bytes: a container may have
// made the file as long as it likes.
func readHead(path string, limit int64) ([]byte, error) {
	f, err := openRegular(path)
	if err != nil {
		return nil, err
	}
	defer f.Close()
	return io.ReadAll(io.LimitReader(f, limit))
}

// readLogTail is the end of a CRI log file: at most 80 lines and 2048 bytes of
// what the container wrote. Each line carries up to 50 bytes of its own.
func readLogTail(path string) (string, error) {
	data, err := readTail(path, maxMessageLogBytes+maxMessageLogLines*64)
	if err != nil {
		return "", err
	}
	lines := bytes.SplitAfter(data, []byte("\n"))
	if len(lines) > maxMessageLogLines {
		lines = lines[len(lines)-maxMessageLogLines:]
	}
	var out []byte
	for _, line := range lines {
		out = append(out, logText(line)...)
	}
	if len(out) > maxMessageLogBytes {
		out = out[len(out)-maxMessageLogBytes:]
	}
	return string(bytes.ToValidUTF8(out, []byte("\uFFFD"))), nil
}

// logText strips "TIME STREAM TAG " off a CRI log line; a line cut off at its
// beginning has none and is dropped. A partial line ("P") has no line end.
func logText(line []byte) []byte {
	parts := bytes.SplitN(line, []byte(" "), 4)
	if len(parts) < 4 {
		return nil
	}
	if _, err := time.Parse(time.RFC3339Nano, string(parts[0])); err != nil {
		return nil
	}
	if bytes.HasPrefix(parts[2], []byte("P")) {
		return bytes.TrimSuffix(parts[3], []byte("\n"))
	}
	return parts[3]
}

// shorten cuts the messages of a status to their share of what one Pod may say.
func shorten(s *v1.PodStatus) {
	n := len(s.InitContainerStatuses) + len(s.ContainerStatuses) + len(s.EphemeralContainerStatuses)
	if n == 0 {
		return
	}
	share := maxMessages / n
	for _, list := range [][]v1.ContainerStatus{s.InitContainerStatuses, s.ContainerStatuses, s.EphemeralContainerStatuses} {
		for i := range list {
			for _, st := range []*v1.ContainerState{&list[i].State, &list[i].LastTerminationState} {
				if t := st.Terminated; t != nil && len(t.Message) > share {
					short := *t // the original may be shared
					short.Message = strings.ToValidUTF8(t.Message[:share], "")
					st.Terminated = &short
				}
			}
		}
	}
}

// preStopOf reads the hook that an orphan's annotations hold.
func preStopOf(annotations map[string]string) *v1.LifecycleHandler {
	raw := annotations[criconfig.AnnotationPreStop]
	if raw == "" {
		return nil
	}
	h := &v1.LifecycleHandler{}
	if err := json.Unmarshal([]byte(raw), h); err != nil {
		return nil
	}
	return h
}
