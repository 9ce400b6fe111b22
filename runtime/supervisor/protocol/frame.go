package protocol

import (
	"encoding/binary"
	"encoding/json"
	"errors"
	"fmt"
	"io"
	"net"
	"os"

	"golang.org/x/sys/unix"
)

// MaxFrame bounds a frame in bytes. A container's environment may hold several objects of the API's size limit.
const MaxFrame = 32 << 20

// maxFiles bounds the descriptors of one frame.
const maxFiles = 4

// Send writes v as one frame with the given descriptors. The caller still owns the files. Not safe for concurrent use.
func Send(c *net.UnixConn, v any, files ...*os.File) error {
	body, err := json.Marshal(v)
	if err != nil {
		return fmt.Errorf("encode frame: %w", err)
	}
	if len(body) > MaxFrame {
		return fmt.Errorf("encode frame: %d bytes exceed the limit of %d", len(body), MaxFrame)
	}
	buf := binary.BigEndian.AppendUint32(make([]byte, 0, 4+len(body)), uint32(len(body)))
	buf = append(buf, body...)
	var rights []byte
	if len(files) > 0 {
		fds := make([]int, len(files))
		for i, f := range files {
			fd, err := Descriptor(f)
			if err != nil {
				return err
			}
			fds[i] = fd
		}
		rights = unix.UnixRights(fds...)
	}
	n, _, err := c.WriteMsgUnix(buf, rights, nil)
	if err != nil {
		return fmt.Errorf("send frame: %w", err)
	}
	if n < len(buf) {
		if _, err := c.Write(buf[n:]); err != nil {
			return fmt.Errorf("send frame: %w", err)
		}
	}
	return nil
}

// Descriptor is f's descriptor number, without f.Fd()'s side effect of making the descriptor blocking.
func Descriptor(f *os.File) (int, error) {
	rc, err := f.SyscallConn()
	if err != nil {
		return -1, fmt.Errorf("get descriptor of %s: %w", f.Name(), err)
	}
	fd := -1
	if err := rc.Control(func(n uintptr) { fd = int(n) }); err != nil {
		return -1, fmt.Errorf("get descriptor of %s: %w", f.Name(), err)
	}
	return fd, nil
}

// Receive reads one frame into v and returns the descriptors that came with it, which the caller closes. They are close-on-exec; their
// blocking mode is the sender's. It returns io.EOF if the peer closed the connection between frames.
func Receive(c *net.UnixConn, v any) (files []*os.File, err error) {
	defer func() {
		if err != nil {
			CloseAll(files)
			files = nil
		}
	}()
	var head [4]byte
	oob := make([]byte, unix.CmsgSpace(4*maxFiles))
	n, oobn, flags, _, err := c.ReadMsgUnix(head[:], oob)
	if err != nil && !errors.Is(err, io.EOF) {
		return nil, fmt.Errorf("receive frame: %w", err)
	}
	if n == 0 {
		return nil, io.EOF
	}
	if files, err = parseRights(oob[:oobn]); err != nil {
		return files, err
	}
	if flags&unix.MSG_CTRUNC != 0 {
		return files, errors.New("receive frame: too many descriptors")
	}
	if _, err := io.ReadFull(c, head[n:]); err != nil {
		return files, fmt.Errorf("receive frame: %w", err)
	}
	size := binary.BigEndian.Uint32(head[:])
	if size > MaxFrame {
		return files, fmt.Errorf("receive frame: %d bytes exceed the limit of %d", size, MaxFrame)
	}
	body := make([]byte, size)
	if _, err := io.ReadFull(c, body); err != nil {
		return files, fmt.Errorf("receive frame: %w", err)
	}
	if err := json.Unmarshal(body, v); err != nil {
		return files, fmt.Errorf("decode frame: %w", err)
	}
	return files, nil
}

func parseRights(oob []byte) ([]*os.File, error) {
	if len(oob) == 0 {
		return nil, nil
	}
	messages, err := unix.ParseSocketControlMessage(oob)
	if err != nil {
		return nil, fmt.Errorf("parse control message: %w", err)
	}
	var files []*os.File
	for i := range messages {
		fds, err := unix.ParseUnixRights(&messages[i])
		if err != nil {
			return files, fmt.Errorf("parse descriptors: %w", err)
		}
		for _, fd := range fds {
			unix.CloseOnExec(fd)
			files = append(files, os.NewFile(uintptr(fd), "received"))
		}
	}
	return files, nil
}

// CloseAll closes files, nil ones included.
func CloseAll(files []*os.File) {
	for _, f := range files {
		if f != nil {
			f.Close()
		}
	}
}
