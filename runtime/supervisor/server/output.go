//go:build cgo

package server

import (
	"errors"
	"os"
	"slices"
	"sync"
	"time"

	"golang.org/x/sys/unix"
)

// chunkSize is what one read takes from a container's output, in bytes.
const chunkSize = 16 << 10

// chunks are the read buffers. A pump holds one only while there is something to read, so that silent containers cost none.
var chunks = sync.Pool{New: func() any { return new([chunkSize]byte) }}

// output copies one output stream of a container to its log and to those attached.
type output struct {
	name string
	file *os.File // does not block
	log  *logFile
	line lineSplitter

	mu     sync.Mutex
	sinks  []*os.File
	closed bool
}

func newOutput(name string, file *os.File, log *logFile) *output {
	return &output{name: name, file: file, log: log, line: lineSplitter{stream: name}}
}

// pump copies until the stream ends or stop is called. A line without an end stays in o.line after stop, and is written as a
// partial one after the end.
func (o *output) pump() {
	for {
		buf, n, err := o.read()
		if n > 0 {
			o.line.write(o.log, buf[:n])
			o.fanOut(buf[:n])
		}
		chunks.Put(buf)
		if errors.Is(err, os.ErrDeadlineExceeded) {
			return
		}
		if err != nil || n == 0 {
			// A pty's master says EIO once its last slave is closed: the end as well.
			o.line.flush(o.log)
			return
		}
	}
}

// read waits for output; the buffer is taken from the pool after there is some, or nearly so: an empty try gives it back.
func (o *output) read() (*[chunkSize]byte, int, error) {
	rc, err := o.file.SyscallConn()
	if err != nil {
		return chunks.Get().(*[chunkSize]byte), 0, err
	}
	var buf *[chunkSize]byte
	var n int
	var readErr error
	err = rc.Read(func(fd uintptr) bool {
		buf = chunks.Get().(*[chunkSize]byte)
		for {
			n, readErr = unix.Read(int(fd), buf[:])
			if readErr != unix.EINTR {
				break
			}
		}
		if readErr == unix.EAGAIN {
			chunks.Put(buf)
			buf, n, readErr = nil, 0, nil
			return false
		}
		return true
	})
	if buf == nil {
		buf = chunks.Get().(*[chunkSize]byte)
	}
	if err == nil {
		err = readErr
	}
	return buf, max(n, 0), err
}

// stop makes pump return without taking more.
func (o *output) stop() {
	// The only error is that the file is closed, and then pump has returned already.
	_ = o.file.SetReadDeadline(time.Unix(1, 0))
}

// sinkPatience is how long an attached receiver may take nothing at all before it is cut off. The pipe to it is the buffer; while it
// makes progress the container is slowed to its pace, as a terminal would.
const sinkPatience = time.Second

func (o *output) fanOut(data []byte) {
	o.mu.Lock()
	sinks := o.sinks
	o.mu.Unlock()
	for _, sink := range sinks {
		if !offer(sink, data) {
			o.detach(sink)
		}
	}
}

// offer writes data to sink and reports whether all of it went out.
func offer(sink *os.File, data []byte) bool {
	for len(data) > 0 {
		if err := sink.SetWriteDeadline(time.Now().Add(sinkPatience)); err != nil {
			return false
		}
		n, err := sink.Write(data)
		data = data[n:]
		if err != nil && (n == 0 || !errors.Is(err, os.ErrDeadlineExceeded)) {
			return false
		}
	}
	return true
}

// attach adds a receiver, a pipe end that does not block, which output owns from here on. It reports false if the stream has ended.
func (o *output) attach(sink *os.File) bool {
	o.mu.Lock()
	defer o.mu.Unlock()
	if o.closed {
		return false
	}
	// A new slice: fanOut goes through the old one without the lock.
	o.sinks = append(append([]*os.File(nil), o.sinks...), sink)
	return true
}

// detach removes and closes a receiver; a second time is no harm.
func (o *output) detach(sink *os.File) {
	o.mu.Lock()
	defer o.mu.Unlock()
	var rest []*os.File
	for _, s := range o.sinks {
		if s != sink {
			rest = append(rest, s)
		}
	}
	if len(rest) < len(o.sinks) {
		o.sinks = rest
		sink.Close()
	}
}

// holds reports whether sink is still attached.
func (o *output) holds(sink *os.File) bool {
	o.mu.Lock()
	defer o.mu.Unlock()
	return slices.Contains(o.sinks, sink)
}

// close ends the stream for all receivers.
func (o *output) close() {
	o.mu.Lock()
	defer o.mu.Unlock()
	o.closed = true
	for _, sink := range o.sinks {
		sink.Close()
	}
	o.sinks = nil
	o.file.Close()
}
