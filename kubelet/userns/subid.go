package userns

import (
	"bufio"
	"errors"
	"fmt"
	"os"
	"strconv"
	"strings"
)

// Length is how many IDs every Pod gets; ranges begin at multiples of it.
const Length = 65536

// subordinateUser is whose subordinate IDs are for Pods.
const subordinateUser = "kubelet"

// span are IDs of the machine, [first, first+length).
type span struct{ first, length uint32 }

// everything is the span where nobody has set one: all IDs but those of the machine's own users. The last Length of them are
// left out too: the highest ID is not one (to the kernel it means none), and a range with it cannot be mapped.
var everything = span{first: Length, length: 1<<32 - 2*Length}

// Files are where subordinate IDs are set; see subuid(5). What is empty is the file in /etc.
type Files struct{ Passwd, SubUID, SubGID string }

func (f Files) withDefaults() Files {
	for _, d := range []struct {
		path *string
		at   string
	}{{&f.Passwd, "/etc/passwd"}, {&f.SubUID, "/etc/subuid"}, {&f.SubGID, "/etc/subgid"}} {
		if *d.path == "" {
			*d.path = d.at
		}
	}
	return f
}

// pool reads which IDs Pods may have: the subordinate IDs of user kubelet, which must be one range and the same for users and
// groups, or everything where there are none. It must do for maxPods Pods.
func pool(f Files, maxPods int64) (span, error) {
	f = f.withDefaults()
	names, err := subordinateNames(f.Passwd)
	if err != nil {
		return span{}, err
	}
	users, err := subordinates(f.SubUID, names)
	if err != nil {
		return span{}, err
	}
	groups, err := subordinates(f.SubGID, names)
	if err != nil {
		return span{}, err
	}
	remedy := fmt.Sprintf("set one line %s:FIRST:COUNT in both %s and %s, with multiples of %d, or none", subordinateUser, f.SubUID, f.SubGID, Length)
	switch {
	case len(users) == 0 && len(groups) == 0:
		return everything, nil
	case len(users) != 1 || len(groups) != 1 || users[0] != groups[0]:
		return span{}, fmt.Errorf("mismatched subuids and subgids for user %q: %v and %v: %s", subordinateUser, users, groups, remedy)
	}
	s := users[0]
	switch {
	case s.first%Length != 0, s.first < Length:
		return span{}, fmt.Errorf("kubelet user assigned ID %d must be a multiple of %d above 0: %s", s.first, Length, remedy)
	case s.length%Length != 0:
		return span{}, fmt.Errorf("kubelet user assigned IDs length %d is not a multiple of %d: %s", s.length, Length, remedy)
	case uint64(s.first)+uint64(s.length) > 1<<32-Length:
		return span{}, fmt.Errorf("kubelet user assigned IDs %d:%d end above %d: %s", s.first, s.length, uint32(1<<32-Length), remedy)
	case int64(s.length/Length) < maxPods:
		return span{}, fmt.Errorf("kubelet user assigned IDs are not enough to support %d pods: %d are, %d are needed", maxPods, s.length, maxPods*Length)
	}
	return s, nil
}

// subordinateNames are what a line about user kubelet may begin with: the name, and the user's number if there is one.
func subordinateNames(passwd string) ([]string, error) {
	names := []string{subordinateUser}
	err := eachLine(passwd, func(line string) error {
		if f := strings.Split(line, ":"); f[0] == subordinateUser && len(f) > 2 {
			names = append(names, f[2])
		}
		return nil
	})
	return names, err
}

// subordinates are the spans that the file at path gives to one of names.
func subordinates(path string, names []string) ([]span, error) {
	var list []span
	err := eachLine(path, func(line string) error {
		name, ids, _ := strings.Cut(line, ":")
		for _, n := range names {
			if n != name {
				continue
			}
			first, count, _ := strings.Cut(ids, ":")
			a, errFirst := strconv.ParseUint(first, 10, 32)
			b, errCount := strconv.ParseUint(count, 10, 32)
			if err := errors.Join(errFirst, errCount); err != nil {
				return fmt.Errorf("read %s: line %q is not NAME:FIRST:COUNT: %w", path, line, err)
			}
			list = append(list, span{uint32(a), uint32(b)})
			break
		}
		return nil
	})
	return list, err
}

// eachLine calls fn with each line of a file; an absent one has none.
func eachLine(path string, fn func(line string) error) error {
	f, err := os.Open(path)
	if errors.Is(err, os.ErrNotExist) {
		return nil
	}
	if err != nil {
		return fmt.Errorf("read subordinate IDs: %w", err)
	}
	defer f.Close()
	lines := bufio.NewScanner(f)
	for lines.Scan() {
		if err := fn(lines.Text()); err != nil {
			return err
		}
	}
	if err := lines.Err(); err != nil {
		return fmt.Errorf("read %s: %w", path, err)
	}
	return nil
}
