package daemon

import (
	"context"
	"errors"
	"fmt"
	"io/fs"
	"os"
	"path/filepath"
	"strings"

	"github.com/peapod/peapod/daemon/instance"
	"github.com/peapod/peapod/daemon/join"
	"github.com/peapod/peapod/internal/atomicfile"
	"github.com/peapod/peapod/store/etcd"
)

// serverTokenFile keeps the token that the servers of a cluster show each other.
func serverTokenFile(i instance.Instance) string { return filepath.Join(i.DataDir, "server-token") }

// nextTokenFile has the token that is to take its place, from before etcd has it until the other file has it too.
func nextTokenFile(i instance.Instance) string { return serverTokenFile(i) + ".next" }

// leastToken is how short a token may be that a user chooses: it protects every key of the cluster in etcd.
const leastToken = 16

func newServerToken() string { return letters(52) }

// serverToken is the token that was given, or the one that this server has used before; empty if there is neither.
func serverToken(i instance.Instance, given string) (string, error) {
	if given != "" && len(given) < leastToken {
		return "", fmt.Errorf("--token: it must have at least %d characters", leastToken)
	}
	if given != "" {
		return given, nil
	}
	return readToken(serverTokenFile(i))
}

// readToken returns nothing where there is no file.
func readToken(file string) (string, error) {
	b, err := os.ReadFile(file)
	if err != nil && !errors.Is(err, fs.ErrNotExist) {
		return "", fmt.Errorf("read the servers' token: %w", err)
	}
	return strings.TrimSpace(string(b)), nil
}

// keepToken has the next start know the token. No other is to follow then.
func keepToken(i instance.Instance, token string) error {
	if err := writeToken(serverTokenFile(i), token); err != nil {
		return err
	}
	if err := os.Remove(nextTokenFile(i)); err != nil && !errors.Is(err, fs.ErrNotExist) {
		return fmt.Errorf("store the servers' token: %w", err)
	}
	return nil
}

func writeToken(file, token string) error {
	if err := atomicfile.Write(file, []byte(token+"\n"), 0o600); err != nil {
		return fmt.Errorf("store the servers' token: %w", err)
	}
	return nil
}

// enterRotated is enterCluster after a rotation that ended between etcd and the file here; wrong is what it is otherwise.
func enterRotated(i instance.Instance, s *settled, dir string, sealed []byte, wrong error) (string, error) {
	next, err := readToken(nextTokenFile(i))
	if err != nil {
		return "", err
	}
	if next == "" {
		return "", wrong
	}
	return next, enterCluster(s, next, dir, sealed)
}

// RotateServerToken puts a new token in the place of the one that the servers of a cluster share, and returns it: with the old one nobody
// reads the cluster's keys in etcd any more. It is run where one of the servers runs, with that server's options of etcd; servers that
// run go on. It can be repeated: one that was interrupted is finished.
func RotateServerToken(ctx context.Context, i instance.Instance, o Options) (token string, err error) {
	r, err := readShared(i)
	if err != nil {
		return "", err
	}
	if r.ID == "" {
		return "", fmt.Errorf("data directory %s is not that of one of several servers, so there is no server token; tokens of machines that join are revoked by 'peapod token delete'", i.DataDir)
	}
	o.NodeName = r.NodeName // it is no option of this command's
	s, err := o.settle()
	if err != nil {
		return "", err
	}
	if err := sameStorage(i, s, r); err != nil {
		return "", err
	}
	old, err := serverToken(i, o.Token)
	if err != nil {
		return "", err
	}
	if token, err = readToken(nextTokenFile(i)); err != nil {
		return "", err
	}
	if token == "" {
		token = newServerToken()
		// Before anything is sealed with it: a token that is lost is a cluster that is lost.
		if err := writeToken(nextTokenFile(i), token); err != nil {
			return "", err
		}
	}
	st, err := etcd.Open(ctx, s.etcd())
	if err != nil {
		return "", err
	}
	err = st.Change(ctx, clusterKey, func(sealed []byte) ([]byte, error) { return reseal(sealed, old, token) })
	if err := errors.Join(err, st.Close()); err != nil {
		return "", err
	}
	return token, keepToken(i, token)
}

// reseal changes the token of what is sealed, unless that has been done.
func reseal(sealed []byte, old, token string) ([]byte, error) {
	data, err := join.Unseal(old, sealed)
	if errors.Is(err, join.ErrWrongToken) {
		if _, done := join.Unseal(token, sealed); done == nil {
			return sealed, nil
		}
	}
	if err != nil {
		return nil, fmt.Errorf("--token: %w", err)
	}
	return join.Seal(token, data)
}
