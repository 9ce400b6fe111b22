package supervisor

import (
	"crypto/sha256"
	"embed"
	"encoding/hex"
	"errors"
	"fmt"
	"io/fs"
	"os"

	"golang.org/x/sys/unix"

	"github.com/peapod/peapod/internal/atomicfile"
)

// artifacts holds podinit when the build put it there before it built peapod.
//
//go:embed all:artifacts
var artifacts embed.FS

// ErrNoPodinit is the error of a binary that carries no podinit.
var ErrNoPodinit = errors.New("built without podinit: run make build")

// Program is a podinit executable.
type Program struct {
	body  []byte
	build string
}

// Embedded is the podinit that this binary carries; ErrNoPodinit if it carries none.
func Embedded() (*Program, error) {
	body, err := artifacts.ReadFile("artifacts/podinit")
	if errors.Is(err, fs.ErrNotExist) {
		return nil, ErrNoPodinit
	}
	if err != nil {
		return nil, fmt.Errorf("read podinit: %w", err)
	}
	return NewProgram(body), nil
}

// NewProgram is a podinit given as the bytes of its executable.
func NewProgram(body []byte) *Program {
	sum := sha256.Sum256(body)
	return &Program{body: body, build: hex.EncodeToString(sum[:])}
}

// sealed copies the program to a sealed memfd. libcontainer starts containers from its own executable, and one that is sealed needs no
// protective copy at each start. The caller closes it.
func (p *Program) sealed() (*os.File, error) {
	fd, err := unix.MemfdCreate("podinit", unix.MFD_CLOEXEC|unix.MFD_ALLOW_SEALING)
	if err != nil {
		return nil, os.NewSyscallError("memfd_create", err)
	}
	f := os.NewFile(uintptr(fd), "podinit")
	if _, err := f.Write(p.body); err != nil {
		f.Close()
		return nil, fmt.Errorf("copy podinit: %w", err)
	}
	seals := unix.F_SEAL_SEAL | unix.F_SEAL_SHRINK | unix.F_SEAL_GROW | unix.F_SEAL_WRITE
	if _, err := unix.FcntlInt(uintptr(fd), unix.F_ADD_SEALS, seals); err != nil {
		f.Close()
		return nil, os.NewSyscallError("fcntl", err)
	}
	return f, nil
}

// WriteTo puts a copy of the program at path for a container to execute, replacing what is there.
func (p *Program) WriteTo(path string) error {
	if err := atomicfile.Replace(path, p.body, 0o555); err != nil {
		return fmt.Errorf("copy podinit: %w", err)
	}
	return nil
}

// Build is the SHA-256 of the program, in hex.
func (p *Program) Build() string { return p.build }
