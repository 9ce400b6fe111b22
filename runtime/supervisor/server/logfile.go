//go:build cgo

package server

import (
	"bytes"
	"fmt"
	"os"
	"sync"
	"time"

	"golang.org/x/sys/unix"
)

// maxLine is the longest content of one entry of a log, in bytes. Longer lines are split into partial entries.
const maxLine = 16 << 10

// logFile is a container's CRI log, shared by its streams. A write takes whole entries, so that the streams never mix within a line.
type logFile struct {
	dir, name string
	logf      func(string, ...any)

	mu      sync.Mutex
	file    *os.File // nil if the container keeps no log
	size    int64    // of the file, up to the last whole entry
	failing bool
	closed  bool
}

func openLogFile(dir, name string, logf func(string, ...any)) (*logFile, error) {
	l := &logFile{dir: dir, name: name, logf: logf}
	if name == "" {
		return l, nil
	}
	return l, l.reopen()
}

// reopen opens the file anew. After an error the old file is still in use.
func (l *logFile) reopen() error {
	if l.name == "" {
		return nil
	}
	file, err := openBeneath(l.dir, l.name)
	if err != nil {
		return fmt.Errorf("open container log: %w", err)
	}
	info, err := file.Stat()
	if err != nil {
		file.Close()
		return fmt.Errorf("open container log: %w", err)
	}
	l.mu.Lock()
	defer l.mu.Unlock()
	if l.closed {
		file.Close()
		return nil
	}
	if l.file != nil {
		l.file.Close()
	}
	l.file, l.size, l.failing = file, info.Size(), false
	return nil
}

// openBeneath opens dir/name for appending. No part of name may be a link, so that nobody who can write below dir, which a container
// with a hostPath volume may, makes the supervisor write elsewhere.
func openBeneath(dir, name string) (*os.File, error) {
	base, err := unix.Open(dir, unix.O_PATH|unix.O_DIRECTORY|unix.O_CLOEXEC, 0)
	if err != nil {
		return nil, &os.PathError{Op: "open", Path: dir, Err: err}
	}
	defer unix.Close(base)
	fd, err := unix.Openat2(base, name, &unix.OpenHow{
		Flags:   unix.O_CREAT | unix.O_APPEND | unix.O_WRONLY | unix.O_CLOEXEC | unix.O_NOFOLLOW | unix.O_NONBLOCK,
		Mode:    0o640,
		Resolve: unix.RESOLVE_BENEATH | unix.RESOLVE_NO_SYMLINKS | unix.RESOLVE_NO_MAGICLINKS,
	})
	if err != nil {
		return nil, &os.PathError{Op: "open", Path: dir + "/" + name, Err: err}
	}
	var st unix.Stat_t
	if err := unix.Fstat(fd, &st); err != nil {
		unix.Close(fd)
		return nil, &os.PathError{Op: "stat", Path: dir + "/" + name, Err: err}
	}
	if st.Mode&unix.S_IFMT != unix.S_IFREG {
		unix.Close(fd)
		return nil, &os.PathError{Op: "open", Path: dir + "/" + name, Err: unix.EINVAL}
	}
	return os.NewFile(uintptr(fd), name), nil
}

// append writes whole entries. If the disk is full they are lost, not the container's progress; half an entry is taken back.
func (l *logFile) append(entries []byte) {
	l.mu.Lock()
	defer l.mu.Unlock()
	if l.file == nil {
		return
	}
	n, err := l.file.Write(entries)
	if err == nil {
		l.size += int64(n)
		if l.failing {
			l.failing = false
			l.logf("container log %s is written again", l.name)
		}
		return
	}
	if !l.failing {
		l.failing = true
		l.logf("container log %s loses entries: %v", l.name, err)
	}
	whole := int64(bytes.LastIndexByte(entries[:max(n, 0)], '\n') + 1)
	l.size += whole
	if int64(n) > whole {
		if err := l.file.Truncate(l.size); err != nil {
			l.logf("take back half an entry of container log %s: %v", l.name, err)
		}
	}
}

func (l *logFile) close() {
	l.mu.Lock()
	defer l.mu.Unlock()
	l.closed = true
	if l.file != nil {
		l.file.Close()
		l.file = nil
	}
}

// lineSplitter turns a stream into entries of the CRI log format: time, stream, F for a full line or P for a part of one, content.
type lineSplitter struct {
	stream string
	// rest is the line begun and not yet ended, shorter than maxLine.
	rest []byte
}

// entryBuffers hold entries until they are written.
var entryBuffers = sync.Pool{New: func() any { return new(bytes.Buffer) }}

// flushAt bounds an entry buffer: many short lines make entries many times their size.
const flushAt = 64 << 10

func (s *lineSplitter) write(log *logFile, data []byte) {
	if log.name == "" {
		return
	}
	out := entryBuffers.Get().(*bytes.Buffer)
	defer entryBuffers.Put(out)
	out.Reset()
	stamp := time.Now().AppendFormat(make([]byte, 0, 64), time.RFC3339Nano)
	for len(data) > 0 {
		end := bytes.IndexByte(data, '\n')
		line, full := data, end >= 0
		if full {
			line = data[:end]
		}
		data = data[len(line):]
		if full {
			data = data[1:]
		}
		for len(s.rest)+len(line) > maxLine {
			take := maxLine - len(s.rest)
			s.entry(out, stamp, 'P', line[:take])
			line = line[take:]
		}
		if full {
			s.entry(out, stamp, 'F', line)
		} else {
			s.rest = append(s.rest, line...)
		}
		if out.Len() >= flushAt {
			log.append(out.Bytes())
			out.Reset()
		}
	}
	if out.Len() > 0 {
		log.append(out.Bytes())
	}
}

// entry adds an entry of s.rest and line, and empties s.rest.
func (s *lineSplitter) entry(out *bytes.Buffer, stamp []byte, tag byte, line []byte) {
	out.Write(stamp)
	out.WriteByte(' ')
	out.WriteString(s.stream)
	out.Write([]byte{' ', tag, ' '})
	out.Write(s.rest)
	out.Write(line)
	out.WriteByte('\n')
	s.rest = nil
}

// flush writes an unended last line as a part of one.
func (s *lineSplitter) flush(log *logFile) {
	if len(s.rest) == 0 || log.name == "" {
		return
	}
	var out bytes.Buffer
	s.entry(&out, time.Now().AppendFormat(nil, time.RFC3339Nano), 'P', nil)
	log.append(out.Bytes())
}
