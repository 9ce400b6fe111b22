package cluster

import (
	"context"
	"crypto/sha256"
	"encoding/hex"
	"errors"
	"fmt"
	"io/fs"
	"net"
	"os"
	"path/filepath"
	"strconv"
	"strings"
	"syscall"

	"github.com/google/nftables"
	"golang.org/x/sys/unix"

	"github.com/peapod/peapod/daemon/instance"
	"github.com/peapod/peapod/internal/removetree"
)

// Uninstall removes the cluster with `peapod uninstall --yes` and returns an error if that leaves anything behind. The
// cluster's own directory goes too, with the server's log.
func (c *Cluster) Uninstall() error {
	if out, err := c.Run("uninstall", "--yes"); err != nil {
		return fmt.Errorf("%s: %w", out, err)
	}
	if c.server != nil {
		<-c.server.ended
	}
	left, err := c.Leftovers()
	if err != nil {
		return err
	}
	if len(left) > 0 {
		return fmt.Errorf("peapod uninstall left on this machine:\n%s", strings.Join(left, "\n"))
	}
	return os.RemoveAll(c.Dir)
}

// Leftovers lists what of this instance is on the machine: processes, mounts, cgroups, interfaces, nftables tables,
// sockets, files and claims.
func (c *Cluster) Leftovers() ([]string, error) {
	var left []string
	for _, look := range []func() ([]string, error){
		c.processes, c.mounts, c.cgroups, c.interfaces, c.tables, c.sockets, c.files, c.claims,
	} {
		found, err := look()
		if err != nil {
			return nil, err
		}
		left = append(left, found...)
	}
	return left, nil
}

// marks are the texts that only this instance's things contain.
func (c *Cluster) marks() []string {
	return []string{c.Instance.DataDir, c.Instance.RunDir, "peapod-" + c.Instance.Name}
}

func (c *Cluster) marked(s string) bool {
	for _, m := range c.marks() {
		if strings.Contains(s, m) {
			return true
		}
	}
	return false
}

// networkName is what the network makes of an instance's name, short enough for interfaces.
func networkName(i instance.Instance) string {
	sum := sha256.Sum256([]byte(i.Name))
	return hex.EncodeToString(sum[:])[:5]
}

func (c *Cluster) processes() ([]string, error) {
	entries, err := os.ReadDir("/proc")
	if err != nil {
		return nil, fmt.Errorf("list processes: %w", err)
	}
	var found []string
	for _, e := range entries {
		if _, err := strconv.Atoi(e.Name()); err != nil || e.Name() == strconv.Itoa(os.Getpid()) {
			continue
		}
		dir := filepath.Join("/proc", e.Name())
		// A process that ends while it is looked at has nothing to read.
		cmdline, _ := os.ReadFile(filepath.Join(dir, "cmdline"))
		cgroup, _ := os.ReadFile(filepath.Join(dir, "cgroup"))
		if (c.marked(string(cmdline)) || c.marked(string(cgroup))) && !isZombie(dir) {
			found = append(found, fmt.Sprintf("process %s: %s", e.Name(), strings.ReplaceAll(string(cmdline), "\x00", " ")))
		}
	}
	return found, nil
}

// isZombie says whether a process has ended and only waits for its parent, which may be a machine's or a container's slow
// init, to take notice.
func isZombie(dir string) bool {
	stat, err := os.ReadFile(filepath.Join(dir, "stat"))
	if err != nil {
		return true // It has been noticed meanwhile.
	}
	_, rest, _ := strings.Cut(string(stat), ") ")
	return strings.HasPrefix(rest, "Z") || strings.HasPrefix(rest, "X")
}

func (c *Cluster) mounts() ([]string, error) { return c.lines("/proc/self/mountinfo", "mount") }

func (c *Cluster) sockets() ([]string, error) { return c.lines("/proc/net/unix", "socket") }

func (c *Cluster) lines(file, what string) ([]string, error) {
	b, err := os.ReadFile(file)
	if err != nil {
		return nil, fmt.Errorf("list %ss: %w", what, err)
	}
	var found []string
	for line := range strings.Lines(string(b)) {
		if c.marked(line) {
			found = append(found, what+": "+strings.TrimSpace(line))
		}
	}
	return found, nil
}

func (c *Cluster) cgroups() ([]string, error) {
	var found []string
	err := filepath.WalkDir("/sys/fs/cgroup", func(path string, d fs.DirEntry, err error) error {
		if errors.Is(err, fs.ErrNotExist) {
			return nil // Another instance's, which has just gone.
		}
		if err != nil {
			return err
		}
		if d.IsDir() && c.marked(path) {
			found = append(found, "cgroup: "+path)
			return fs.SkipDir
		}
		return nil
	})
	if err != nil {
		return nil, fmt.Errorf("list cgroups: %w", err)
	}
	return found, nil
}

func (c *Cluster) interfaces() ([]string, error) {
	list, err := net.Interfaces()
	if err != nil {
		return nil, fmt.Errorf("list interfaces: %w", err)
	}
	var found []string
	for _, i := range list {
		if strings.HasPrefix(i.Name, "pp"+networkName(c.Instance)) {
			found = append(found, "interface: "+i.Name)
		}
	}
	return found, nil
}

func (c *Cluster) tables() ([]string, error) {
	conn, err := nftables.New()
	if err != nil {
		return nil, fmt.Errorf("list nftables tables: %w", err)
	}
	list, err := conn.ListTables()
	if err != nil {
		return nil, fmt.Errorf("list nftables tables: %w", err)
	}
	var found []string
	for _, t := range list {
		if strings.Contains(t.Name, networkName(c.Instance)) {
			found = append(found, "nftables table: "+t.Name)
		}
	}
	return found, nil
}

func (c *Cluster) files() ([]string, error) {
	var found []string
	for _, path := range []string{c.Instance.DataDir, c.Instance.RunDir} {
		if _, err := os.Lstat(path); err == nil {
			found = append(found, "directory: "+path)
		}
	}
	return found, nil
}

func (c *Cluster) claims() ([]string, error) {
	b, err := os.ReadFile(filepath.Join(instance.RunRoot, "claims.json"))
	if err != nil && !errors.Is(err, fs.ErrNotExist) {
		return nil, fmt.Errorf("read claims: %w", err)
	}
	if strings.Contains(string(b), c.Instance.DataDir) {
		return []string{"claim on addresses in " + filepath.Join(instance.RunRoot, "claims.json")}, nil
	}
	return nil, nil
}

// RemoveAbandoned uninstalls the clusters of tests that ended without doing so: those that were killed. Of several at once
// one does it, and the others wait.
func RemoveAbandoned(ctx context.Context) error {
	binary, err := findBinary()
	if err != nil {
		return err
	}
	lock, err := os.OpenFile("/tmp/peapod-e2e.lock", os.O_CREATE|os.O_RDWR, 0o600)
	if err != nil {
		return fmt.Errorf("remove what earlier tests left: %w", err)
	}
	defer lock.Close()
	if err := unix.Flock(int(lock.Fd()), unix.LOCK_EX); err != nil {
		return fmt.Errorf("remove what earlier tests left: %w", err)
	}
	dirs, err := filepath.Glob(filepath.Join("/tmp", dirPrefix+"*"))
	if err != nil {
		return err
	}
	for _, dir := range dirs {
		owner, _, _ := strings.Cut(strings.TrimPrefix(filepath.Base(dir), dirPrefix), "-")
		pid, err := strconv.Atoi(owner)
		if err != nil || !errors.Is(syscall.Kill(pid, 0), syscall.ESRCH) {
			continue
		}
		inst, err := instance.At(filepath.Join(dir, "data"))
		if err != nil {
			return err
		}
		c := &Cluster{Binary: binary, Dir: dir, Instance: inst}
		if out, err := c.CommandContext(ctx, "uninstall", "--yes").CombinedOutput(); err != nil {
			return fmt.Errorf("remove the cluster that an earlier test left in %s: %w: %s", dir, err, out)
		}
		if err := removetree.Remove(dir); err != nil { // with what a test that was killed had mounted
			return fmt.Errorf("remove what an earlier test left: %w", err)
		}
	}
	return nil
}
