package oci

import (
	"bufio"
	"errors"
	"fmt"
	"io"
	"math"
	"slices"
	"strconv"
	"strings"

	"github.com/opencontainers/runtime-spec/specs-go"
	runtimeapi "k8s.io/cri-api/pkg/apis/runtime/v1"
)

// maxAccounts bounds what is read of an image's /etc/passwd and /etc/group, in bytes. They are the image author's.
const maxAccounts = 4 << 20

// ResolveUser finds the numeric user and groups of a container, and the user's home directory, "/" if unknown. passwd and group are the image's /etc/passwd and /etc/group, empty if it
// has none. imageUser is the image config's User.
func ResolveUser(security *runtimeapi.LinuxContainerSecurityContext, imageUser string, passwd, group io.Reader) (_ specs.User, home string, err error) {
	users, err := readAccounts(passwd, 4)
	if err != nil {
		return specs.User{}, "", fmt.Errorf("read /etc/passwd of the image: %w", err)
	}
	groups, err := readAccounts(group, 3)
	if err != nil {
		return specs.User{}, "", fmt.Errorf("read /etc/group of the image: %w", err)
	}
	name, groupName := imageUser, ""
	if security.GetRunAsUser() != nil {
		name = strconv.FormatInt(security.RunAsUser.Value, 10)
	} else if security.GetRunAsUsername() != "" {
		name = security.RunAsUsername
	} else {
		name, groupName, _ = strings.Cut(imageUser, ":")
	}
	if security.GetRunAsGroup() != nil {
		if security.GetRunAsUser() == nil && security.GetRunAsUsername() == "" {
			return specs.User{}, "", errors.New("a group to run as is given without a user")
		}
		groupName = strconv.FormatInt(security.RunAsGroup.Value, 10)
	}
	user, login, home, err := findUser(name, users)
	if err != nil {
		return specs.User{}, "", err
	}
	if groupName != "" {
		if user.GID, err = findGroup(groupName, groups); err != nil {
			return specs.User{}, "", err
		}
	}
	user.AdditionalGids = []uint32{user.GID}
	if security.GetSupplementalGroupsPolicy() == runtimeapi.SupplementalGroupsPolicy_Merge && login != "" {
		for _, g := range groups {
			if len(g) > 3 && slices.Contains(strings.Split(g[3], ","), login) {
				if gid, ok := parseID(g[2]); ok {
					user.AdditionalGids = append(user.AdditionalGids, gid)
				}
			}
		}
	}
	for _, g := range security.GetSupplementalGroups() {
		gid, ok := parseID(strconv.FormatInt(g, 10))
		if !ok {
			return specs.User{}, "", fmt.Errorf("supplemental group %d is out of range", g)
		}
		user.AdditionalGids = append(user.AdditionalGids, gid)
	}
	slices.Sort(user.AdditionalGids)
	user.AdditionalGids = slices.Compact(user.AdditionalGids)
	return user, home, nil
}

// findUser looks a user up by name or number. A number need not be listed; its group is 0 then. login is the listed name, or "".
func findUser(name string, users [][]string) (user specs.User, login, home string, err error) {
	if name == "" {
		name = "0"
	}
	id, numeric := parseID(name)
	for _, u := range users {
		uid, ok := parseID(u[2])
		if !ok || !(u[0] == name || (numeric && uid == id)) {
			continue
		}
		gid, ok := parseID(u[3])
		if !ok {
			return user, "", "", fmt.Errorf("user %q has a bad group in the image's /etc/passwd", name)
		}
		return specs.User{UID: uid, GID: gid}, u[0], homeOf(u), nil
	}
	if !numeric {
		return user, "", "", fmt.Errorf("unable to find user %s: no matching entries in passwd file", name)
	}
	return specs.User{UID: id}, "", "/", nil
}

func homeOf(account []string) string {
	if len(account) > 5 && strings.HasPrefix(account[5], "/") && !strings.ContainsRune(account[5], 0) {
		return account[5]
	}
	return "/"
}

func findGroup(name string, groups [][]string) (uint32, error) {
	id, numeric := parseID(name)
	for _, g := range groups {
		if g[0] == name {
			if gid, ok := parseID(g[2]); ok {
				return gid, nil
			}
		}
	}
	if !numeric {
		return 0, fmt.Errorf("unable to find group %s: no matching entries in group file", name)
	}
	return id, nil
}

// parseID parses a user or group number; the kernel's own upper half is out of range, as for Kubernetes.
func parseID(s string) (uint32, bool) {
	n, err := strconv.ParseUint(s, 10, 32)
	if err != nil || n > math.MaxInt32 {
		return 0, false
	}
	return uint32(n), true
}

// readAccounts splits the lines of passwd or group; those with fewer than fields are left out, as by every C library.
func readAccounts(r io.Reader, fields int) ([][]string, error) {
	limited := &io.LimitedReader{R: r, N: maxAccounts + 1}
	scanner := bufio.NewScanner(limited)
	scanner.Buffer(nil, maxAccounts)
	var accounts [][]string
	for scanner.Scan() {
		line := strings.TrimSpace(scanner.Text())
		if line == "" || strings.HasPrefix(line, "#") {
			continue
		}
		if f := strings.Split(line, ":"); len(f) >= fields {
			accounts = append(accounts, f)
		}
	}
	if err := scanner.Err(); err != nil {
		return nil, err
	}
	if limited.N <= 0 {
		return nil, errors.New("file is too large")
	}
	return accounts, nil
}
