package cluster

import (
	"bytes"
	"errors"
	"fmt"
	"io"
	"io/fs"
	"os"
	"sync"
)

// excerpt is how many lines of a log are worth reading beside a test's failure.
const excerpt = 150

// noise is said for every informer of a server whose objects are watched for changes, as tests have them. What the
// watching finds is not among it: that is a panic.
var noise = []byte("Mutation detector is enabled")

// Log is the log of a server or agent, over all its starts.
type Log struct {
	// File is where the program writes it.
	File string

	mu   sync.Mutex
	told int64 // how much of File was looked at by Tell
}

// Open opens the file to be written at its end, for the streams of a program that is started.
func (l *Log) Open() (*os.File, error) {
	f, err := os.OpenFile(l.File, os.O_CREATE|os.O_APPEND|os.O_WRONLY, 0o600)
	if err != nil {
		return nil, fmt.Errorf("open server log: %w", err)
	}
	return f, nil
}

// Tell writes the last lines since the last call, under a title, or nothing if there are none. Tests have it write to
// standard error from a cleanup: that is on the page before `go test` reports the test, so that what failed stands last.
func (l *Log) Tell(w io.Writer, title string) error {
	l.mu.Lock()
	defer l.mu.Unlock()
	b, err := l.rest()
	if err != nil {
		return fmt.Errorf("read server log: %w", err)
	}
	lines := lastLines(b)
	if len(lines) == 0 {
		return nil
	}
	_, err = fmt.Fprintf(w, "--- %s: end of server log %s ---\n%s--- end of excerpt ---\n", title, l.File, lines)
	return err
}

// rest reads what was written since the last call. A server that was never started has written nothing.
func (l *Log) rest() ([]byte, error) {
	f, err := os.Open(l.File)
	if errors.Is(err, fs.ErrNotExist) {
		return nil, nil
	}
	if err != nil {
		return nil, err
	}
	defer f.Close()
	if _, err := f.Seek(l.told, io.SeekStart); err != nil {
		return nil, err
	}
	b, err := io.ReadAll(f)
	l.told += int64(len(b))
	return b, err
}

// lastLines is the excerpt of a text, without noise. Of a program that crashed it is what it said of that first: the stacks of
// all its goroutines come after, and are many.
func lastLines(text []byte) []byte {
	var lines [][]byte
	crash := -1
	for line := range bytes.Lines(text) {
		if bytes.Contains(line, noise) {
			continue
		}
		if crash < 0 && (bytes.HasPrefix(line, []byte("fatal error: ")) || bytes.HasPrefix(line, []byte("panic: "))) {
			crash = len(lines)
		}
		lines = append(lines, line)
	}
	if crash >= 0 && len(lines)-crash > excerpt/2 {
		return bytes.Join(lines[max(0, crash-excerpt/2):min(len(lines), crash+excerpt/2)], nil)
	}
	return bytes.Join(lines[max(0, len(lines)-excerpt):], nil)
}
