package instance

import (
	"encoding/json"
	"errors"
	"fmt"
	"net/netip"
	"os"
	"path/filepath"

	"golang.org/x/sys/unix"

	"github.com/peapod/peapod/internal/atomicfile"
	"github.com/peapod/peapod/internal/cidrs"
)

// Ranges are the addresses of a cluster: of its Pods and of its Services.
type Ranges struct {
	Cluster cidrs.List `json:"clusterCIDR"`
	Service cidrs.List `json:"serviceCIDR"`
}

func (r Ranges) String() string { return r.Cluster.String() + " " + r.Service.String() }

func (r Ranges) overlaps(networks ...netip.Prefix) bool {
	return r.Cluster.Overlaps(networks...) || r.Service.Overlaps(networks...)
}

// choices are the ranges tried, in order, where the user names none: upstream's usual ones first, then their neighbours
// for further instances on the same machine.
func choices(yield func(Ranges) bool) {
	for i := range 11 {
		r := Ranges{
			Cluster: cidrs.Of(netip.PrefixFrom(netip.AddrFrom4([4]byte{10, byte(244 + i), 0, 0}), 16)),
			Service: cidrs.Of(netip.PrefixFrom(netip.AddrFrom4([4]byte{10, byte(96 + i), 0, 0}), 16)),
		}
		if !yield(r) {
			return
		}
	}
}

// Usual are the ranges of a cluster whose user names none, on a machine where they are free.
func Usual() (usual Ranges) {
	for r := range choices {
		return r
	}
	return usual
}

// claim is what one instance holds of the machine's addresses.
type claim struct {
	DataDir string `json:"dataDir"`
	Ranges
}

// ClaimRanges returns the cluster's address ranges. A data directory keeps the ranges that it was made with: asking for
// others is an error. A new one gets what want names; a range that want leaves empty is chosen so that it overlaps
// neither another instance's nor anything in inUse (the machine's addresses and routes).
func (i Instance) ClaimRanges(want Ranges, inUse []netip.Prefix) (Ranges, error) {
	unlock, err := lockClaims()
	if err != nil {
		return Ranges{}, err
	}
	defer unlock()
	claims, err := readClaims()
	if err != nil {
		return Ranges{}, err
	}
	rec, err := i.readRecord()
	if err != nil {
		return Ranges{}, err
	}
	if rec.Ranges == nil {
		got, err := choose(want, inUse, claims, i.DataDir)
		if err != nil {
			return Ranges{}, err
		}
		rec.Ranges = &got
		if err := i.writeRecord(rec); err != nil {
			return Ranges{}, err
		}
	}
	if err := unchanged("cluster-cidr", want.Cluster, rec.Ranges.Cluster); err != nil {
		return Ranges{}, err
	}
	if err := unchanged("service-cidr", want.Service, rec.Ranges.Service); err != nil {
		return Ranges{}, err
	}
	if other, ok := conflict(*rec.Ranges, claims, i.DataDir); ok {
		return Ranges{}, fmt.Errorf("addresses %s and %s of data directory %s overlap those of the instance at %s; uninstall one of them",
			rec.Ranges.Cluster, rec.Ranges.Service, i.DataDir, other)
	}
	claims[i.Name] = claim{i.DataDir, *rec.Ranges}
	return *rec.Ranges, writeClaims(claims)
}

// Ranges returns the address ranges of a data directory that has been started once.
func (i Instance) Ranges() (r Ranges, made bool, err error) {
	rec, err := i.readRecord()
	if err != nil || rec.Ranges == nil {
		return Ranges{}, false, err
	}
	return *rec.Ranges, true, nil
}

// Claims says whether ranges are the instance's.
func (i Instance) Claims() (bool, error) {
	unlock, err := lockClaims()
	if err != nil {
		return false, err
	}
	defer unlock()
	claims, err := readClaims()
	_, ok := claims[i.Name]
	return ok, err
}

// ReleaseClaim gives the instance's ranges up. It is idempotent.
func (i Instance) ReleaseClaim() error {
	unlock, err := lockClaims()
	if err != nil {
		return err
	}
	defer unlock()
	claims, err := readClaims()
	if err != nil {
		return err
	}
	delete(claims, i.Name)
	if len(claims) > 0 {
		return writeClaims(claims)
	}
	// The last one leaves nothing behind, unless others have their directories there or the user has mounted something on it.
	if err := os.Remove(claimsFile()); err != nil && !errors.Is(err, os.ErrNotExist) {
		return fmt.Errorf("give up addresses: %w", err)
	}
	if err := os.Remove(RunRoot); err != nil && !errors.Is(err, unix.ENOTEMPTY) && !errors.Is(err, unix.EBUSY) {
		return fmt.Errorf("give up addresses: %w", err)
	}
	return nil
}

func unchanged(flag string, want, have cidrs.List) error {
	if len(want) > 0 && !want.Equal(have) {
		return fmt.Errorf("--%s %s: this data directory was made with %s, which cannot be changed; leave the flag out or choose another --data-dir", flag, want, have)
	}
	return nil
}

func choose(want Ranges, inUse []netip.Prefix, claims map[string]claim, self string) (Ranges, error) {
	free := func(r Ranges) bool {
		for _, p := range inUse {
			// A default route overlaps everything and says nothing.
			if p.Bits() > 0 && r.overlaps(p) {
				return false
			}
		}
		_, taken := conflict(r, claims, self)
		return !taken && !r.Cluster.Overlaps(r.Service...)
	}
	asked := len(want.Cluster) > 0 && len(want.Service) > 0
	for r := range choices {
		if len(want.Cluster) > 0 {
			r.Cluster = want.Cluster
		}
		if len(want.Service) > 0 {
			r.Service = want.Service
		}
		if free(r) {
			return r, nil
		}
		if asked {
			return Ranges{}, fmt.Errorf("--cluster-cidr %s, --service-cidr %s: they overlap each other, an address or route of this machine, or another instance; choose others", r.Cluster, r.Service)
		}
	}
	return Ranges{}, errors.New("no free address ranges for Pods and Services on this machine; name some with --cluster-cidr and --service-cidr")
}

// conflict returns the data directory of an instance, other than self, that holds part of r.
func conflict(r Ranges, claims map[string]claim, self string) (string, bool) {
	for _, c := range claims {
		if c.DataDir == self {
			continue
		}
		if _, err := os.Stat(c.DataDir); errors.Is(err, os.ErrNotExist) {
			continue // the instance is gone, and its addresses with it
		}
		if r.overlaps(c.Cluster...) || r.overlaps(c.Service...) {
			return c.DataDir, true
		}
	}
	return "", false
}

func claimsFile() string { return filepath.Join(RunRoot, "claims.json") }

// lockClaims keeps other instances from choosing at the same time: who holds the lock of the directory may change what the
// claims are, and remove it.
func lockClaims() (unlock func() error, err error) {
	for {
		if err := os.MkdirAll(RunRoot, 0o755); err != nil {
			return nil, fmt.Errorf("claim addresses: %w", err)
		}
		f, err := os.Open(RunRoot)
		if errors.Is(err, os.ErrNotExist) {
			continue // it was removed since
		}
		if err != nil {
			return nil, fmt.Errorf("claim addresses: %w", err)
		}
		var st unix.Stat_t
		if err = unix.Flock(int(f.Fd()), unix.LOCK_EX); err == nil {
			err = unix.Fstat(int(f.Fd()), &st)
		}
		if err == nil && st.Nlink > 0 {
			return f.Close, nil
		}
		f.Close()
		if err != nil {
			return nil, fmt.Errorf("claim addresses: %w", err)
		}
	}
}

func readClaims() (map[string]claim, error) {
	claims := map[string]claim{}
	b, err := os.ReadFile(claimsFile())
	if errors.Is(err, os.ErrNotExist) {
		return claims, nil
	}
	if err != nil {
		return nil, fmt.Errorf("read address claims: %w", err)
	}
	if err := json.Unmarshal(b, &claims); err != nil {
		return nil, fmt.Errorf("read address claims %s: %w; remove the file, it is made anew by each running instance's next start", claimsFile(), err)
	}
	return claims, nil
}

func writeClaims(claims map[string]claim) error {
	b, err := json.MarshalIndent(claims, "", "  ")
	if err != nil {
		return err
	}
	return atomicfile.Write(claimsFile(), append(b, '\n'), 0o600)
}
