package image

import (
	"slices"
	"testing"

	runtimeapi "k8s.io/cri-api/pkg/apis/runtime/v1"
)

// The runtime lists images by ID, which says nothing to a reader.
func TestLinesAreInOrderOfNames(t *testing.T) {
	got := lines([]*runtimeapi.Image{
		{Id: "sha256:1", RepoTags: []string{"docker.io/library/nginx:1.20.2", "docker.io/library/busybox:latest"}, Size: 2048, Pinned: true},
		{Id: "sha256:22222222222222222", Size: 10},
		{Id: "sha256:3", RepoTags: []string{"docker.io/library/myapp:1.0"}, Size: 10},
	})
	want := []string{
		"<none>\t2222222222222\t10\tfalse",
		"docker.io/library/busybox:latest\t1\t2.0Ki\ttrue",
		"docker.io/library/myapp:1.0\t3\t10\tfalse",
		"docker.io/library/nginx:1.20.2\t1\t2.0Ki\ttrue",
	}
	if !slices.Equal(got, want) {
		t.Errorf("lines are\n%q, want\n%q", got, want)
	}
}
