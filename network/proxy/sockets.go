package proxy

import (
	"context"
	"encoding/binary"
	"errors"
	"fmt"
	"os"
	"sync"

	"golang.org/x/sys/unix"
	"k8s.io/klog/v2"
)

// sockets tells that a socket of the host has ended which had a port that is wanted: the kernel says so (sock_diag's groups), to
// whoever listens. It listens only while there are such ports, since while it does the kernel tells of every socket. Its zero value
// is ready.
type sockets struct {
	mu    sync.Mutex
	ports map[uint16]bool
	// file is what is listened to; nil: nothing.
	file *os.File
	gone bool
	done sync.WaitGroup
}

// follow listens for the end of sockets on that port, among others, from now on; wake is called when there was one, which ended
// then tells. Where the kernel does not say, it is looked at again at the next change.
func (s *sockets) follow(ctx context.Context, port uint16, wake func()) {
	s.mu.Lock()
	defer s.mu.Unlock()
	if s.ports == nil {
		s.ports = map[uint16]bool{}
	}
	s.ports[port] = true
	if s.file != nil {
		return
	}
	file, err := openSockets()
	if err != nil {
		klog.FromContext(ctx).Error(err, "Cannot hear of ports that become free")
		return
	}
	s.file = file
	s.done.Go(func() { s.listen(file, wake) })
}

// keep is told which of the ports are still wanted; without any it listens no more.
func (s *sockets) keep(ports map[uint16]bool) {
	s.mu.Lock()
	defer s.mu.Unlock()
	s.ports = ports
	if len(ports) == 0 {
		s.stop()
	}
}

func (s *sockets) stop() {
	if s.file != nil {
		_ = s.file.Close() // it was only read
		s.file = nil
	}
}

// close ends it, and waits.
func (s *sockets) close() {
	s.keep(nil)
	s.done.Wait()
}

// ended says whether such a socket has ended since it was asked last.
func (s *sockets) ended() bool {
	s.mu.Lock()
	defer s.mu.Unlock()
	gone := s.gone
	s.gone = false
	return gone
}

// groups are those of sock_diag that tell of the end of TCP and UDP sockets, in both families: bits 1 to 4 of linux/sock_diag.h.
const groups = 0b1111

func openSockets() (*os.File, error) {
	fd, err := unix.Socket(unix.AF_NETLINK, unix.SOCK_RAW|unix.SOCK_CLOEXEC|unix.SOCK_NONBLOCK, unix.NETLINK_SOCK_DIAG)
	if err != nil {
		return nil, fmt.Errorf("make socket: %w", err)
	}
	if err := unix.Bind(fd, &unix.SockaddrNetlink{Family: unix.AF_NETLINK, Groups: groups}); err != nil {
		unix.Close(fd)
		return nil, fmt.Errorf("hear of the end of sockets: %w", err)
	}
	return os.NewFile(uintptr(fd), "sock_diag"), nil
}

// listen reads until the file is closed.
func (s *sockets) listen(file *os.File, wake func()) {
	message := make([]byte, 64<<10)
	for {
		n, err := file.Read(message)
		// Too much at once for the kernel to keep: one of them may have been meant.
		lost := errors.Is(err, unix.ENOBUFS)
		if err != nil && !lost {
			return
		}
		s.mu.Lock()
		found := lost
		for _, port := range endedPorts(message[:max(n, 0)]) {
			found = found || s.ports[port]
		}
		s.gone = s.gone || found
		s.mu.Unlock()
		if found {
			wake()
		}
	}
}

// endedPorts are the ports of the sockets that messages of sock_diag tell of.
func endedPorts(b []byte) []uint16 {
	// A header, then inet_diag_msg: family, state, timer and retransmissions, a byte each, then the port as on the wire.
	const port = unix.NLMSG_HDRLEN + 4
	var ports []uint16
	for len(b) >= port+2 {
		length := int(binary.NativeEndian.Uint32(b))
		if length < port+2 || length > len(b) {
			break
		}
		ports = append(ports, binary.BigEndian.Uint16(b[port:]))
		b = b[min((length+unix.NLMSG_ALIGNTO-1)&^(unix.NLMSG_ALIGNTO-1), len(b)):]
	}
	return ports
}
