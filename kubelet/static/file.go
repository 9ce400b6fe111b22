package static

import (
	"encoding/hex"
	"encoding/json"
	"errors"
	"fmt"
	"hash/fnv"
	"io"
	"os"
	"regexp"
	"strings"
	"time"

	v1 "k8s.io/api/core/v1"
	metav1 "k8s.io/apimachinery/pkg/apis/meta/v1"
	"k8s.io/apimachinery/pkg/types"
)

// maxFile is how large a file may be, in bytes.
const maxFile = 10 << 20

// errEmpty is of a file with nothing in it: whoever writes it has only just begun.
var errEmpty = errors.New("the file is empty")

// nameable are UIDs that files and cgroups can be named after.
var nameable = regexp.MustCompile(`^[0-9A-Za-z-]{1,63}$`)

// readFile reads what a file says; one that is no regular file is an error. Links are followed, as they are with upstream's kubelet.
func readFile(path string) ([]byte, error) {
	info, err := os.Stat(path) // before it is opened, for that waits for the other end of a pipe
	if err != nil {
		return nil, err
	}
	if !info.Mode().IsRegular() {
		return nil, fmt.Errorf("%s is no regular file", path)
	}
	f, err := os.Open(path)
	if err != nil {
		return nil, err
	}
	defer f.Close()
	data, err := io.ReadAll(io.LimitReader(f, maxFile+1))
	switch {
	case err != nil:
		return nil, fmt.Errorf("read %s: %w", path, err)
	case len(data) > maxFile:
		return nil, fmt.Errorf("%s is larger than %d bytes", path, maxFile)
	case len(data) == 0:
		return nil, errEmpty
	}
	return data, nil
}

// parse makes the Pod of this node that a file says. warning names what in the file is not known.
func (s *Source) parse(path string, data []byte) (p *v1.Pod, warning, err error) {
	p, warning, err = s.cfg.Format.Decode(data)
	if err != nil {
		return nil, nil, err
	}
	if err := s.adopt(p, path); err != nil {
		return nil, nil, err
	}
	s.cfg.Format.Complete(p)
	return p, warning, s.cfg.Format.Validate(p)
}

// adopt makes a Pod this node's own. The hash is of what the file says before anything is filled in, so that it is the same with
// another version of this program.
func (s *Source) adopt(p *v1.Pod, path string) error {
	if p.UID == "" {
		said, err := json.Marshal(p)
		if err != nil {
			return fmt.Errorf("hash pod: %w", err)
		}
		h := fnv.New128a()
		_, _ = h.Write(said) // never fails
		_, _ = fmt.Fprintf(h, "host:%s", s.cfg.NodeName)
		_, _ = fmt.Fprintf(h, "file:%s", path)
		p.UID = types.UID(hex.EncodeToString(h.Sum(nil)))
	} else if !nameable.MatchString(string(p.UID)) {
		return fmt.Errorf("metadata.uid: %q: must be letters, digits and dashes, 63 at most: files are named after it; leave it out to have one made", p.UID)
	}
	p.Name = p.Name + "-" + strings.ToLower(s.cfg.NodeName)
	if p.Namespace == "" {
		p.Namespace = metav1.NamespaceDefault
	}
	p.Spec.NodeName = s.cfg.NodeName
	if p.Annotations == nil {
		p.Annotations = map[string]string{}
	}
	p.Annotations[sourceAnnotation] = sourceFile
	p.Annotations[hashAnnotation] = string(p.UID)
	p.Annotations[seenAnnotation] = s.now().Format(time.RFC3339Nano)
	delete(p.Annotations, mirrorAnnotation)
	tolerate(p)
	if priority, ok := systemPriorities[p.Spec.PriorityClassName]; ok && p.Spec.Priority == nil {
		p.Spec.Priority = &priority
	}
	return nil
}

// tolerate keeps a Pod where it is, whatever becomes of the node.
func tolerate(p *v1.Pod) {
	all := v1.Toleration{Operator: v1.TolerationOpExists, Effect: v1.TaintEffectNoExecute}
	for i := range p.Spec.Tolerations {
		if all.MatchToleration(&p.Spec.Tolerations[i]) {
			p.Spec.Tolerations[i] = all
			return
		}
	}
	p.Spec.Tolerations = append(p.Spec.Tolerations, all)
}
