package server

import (
	"errors"
	"fmt"
	"io/fs"
	"net/http"
	"os"
	"slices"
	"strings"

	v1 "k8s.io/api/core/v1"
	metav1 "k8s.io/apimachinery/pkg/apis/meta/v1"
	"k8s.io/apimachinery/pkg/runtime"
	"k8s.io/apimachinery/pkg/types"
	"k8s.io/client-go/kubernetes/scheme"
	runtimeapi "k8s.io/cri-api/pkg/apis/runtime/v1"

	"github.com/peapod/peapod/kubelet/criconfig"
)

// pods lists the Pods of the node.
func (s *Server) pods(w http.ResponseWriter, r *http.Request) {
	list := &v1.PodList{Items: []v1.Pod{}}
	for _, p := range s.cfg.Pods.Pods() {
		list.Items = append(list.Items, *p)
	}
	writePods(w, r, list)
}

// runningPods lists what the runtime runs: Pods with a sandbox or a container that has not ended, and of these Pods no more
// than names and images. It asks the runtime, so that it shows what the node has left of Pods that the API knows no more.
func (s *Server) runningPods(w http.ResponseWriter, r *http.Request) {
	sandboxes, err := s.cfg.Runtime.ListPodSandbox(r.Context(), &runtimeapi.PodSandboxFilter{
		State: &runtimeapi.PodSandboxStateValue{State: runtimeapi.PodSandboxState_SANDBOX_READY},
	})
	if err != nil {
		fail(w, r, fmt.Errorf("list sandboxes: %w", err))
		return
	}
	containers, err := s.cfg.Runtime.ListContainers(r.Context(), nil)
	if err != nil {
		fail(w, r, fmt.Errorf("list containers: %w", err))
		return
	}
	running := map[string]*v1.Pod{}
	add := func(labels map[string]string) *v1.Pod {
		uid := labels[criconfig.LabelPodUID]
		if running[uid] == nil {
			running[uid] = &v1.Pod{ObjectMeta: metav1.ObjectMeta{
				UID: types.UID(uid), Name: labels[criconfig.LabelPodName], Namespace: labels[criconfig.LabelPodNamespace],
			}}
		}
		return running[uid]
	}
	for _, sb := range sandboxes {
		add(sb.Labels)
	}
	for _, c := range containers {
		if c.State == runtimeapi.ContainerState_CONTAINER_EXITED {
			continue
		}
		p := add(c.Labels)
		p.Spec.Containers = append(p.Spec.Containers, v1.Container{Name: c.Labels[criconfig.LabelContainerName], Image: c.GetImage().GetImage()})
	}
	list := &v1.PodList{Items: []v1.Pod{}}
	for _, p := range running {
		list.Items = append(list.Items, *p)
	}
	slices.SortFunc(list.Items, func(a, b v1.Pod) int {
		return strings.Compare(a.Namespace+"/"+a.Name+"/"+string(a.UID), b.Namespace+"/"+b.Name+"/"+string(b.UID))
	})
	writePods(w, r, list)
}

func writePods(w http.ResponseWriter, r *http.Request, list *v1.PodList) {
	b, err := runtime.Encode(scheme.Codecs.LegacyCodec(v1.SchemeGroupVersion), list)
	if err != nil {
		fail(w, r, fmt.Errorf("encode pods: %w", err))
		return
	}
	w.Header().Set("Content-Type", "application/json")
	_, _ = w.Write(b)
}

// nodeLogs serves the files of the node's log directory. No link leads out of it: containers may write there.
func (s *Server) nodeLogs(w http.ResponseWriter, r *http.Request) {
	directory := s.cfg.LogDirectory
	if directory == "" {
		directory = "/var/log"
	}
	root, err := os.OpenRoot(directory)
	if errors.Is(err, fs.ErrNotExist) {
		http.NotFound(w, r)
		return
	}
	if err != nil {
		fail(w, r, fmt.Errorf("open the node's logs: %w", err))
		return
	}
	defer root.Close()
	http.StripPrefix("/logs/", http.FileServerFS(regular{root.FS()})).ServeHTTP(w, r)
}

// regular shows the regular files and the directories of a file system: opening a pipe waits for its writer.
type regular struct{ fs.FS }

func (f regular) Open(name string) (fs.File, error) {
	info, err := fs.Stat(f.FS, name)
	if err != nil {
		return nil, err
	}
	if !info.IsDir() && !info.Mode().IsRegular() {
		return nil, &fs.PathError{Op: "open", Path: name, Err: fs.ErrPermission}
	}
	return f.FS.Open(name)
}
