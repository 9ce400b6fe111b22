package builtin_test

import (
	"context"
	"errors"
	"testing"

	runtimeapi "k8s.io/cri-api/pkg/apis/runtime/v1"

	"github.com/peapod/peapod/runtime/image"
	"github.com/peapod/peapod/runtime/image/builtin"
)

func TestImport(t *testing.T) {
	store, err := image.Open(t.Context(), image.Config{Dir: t.TempDir()})
	if err != nil {
		t.Fatal(err)
	}
	defer store.Close(context.Background())
	err = builtin.Import(t.Context(), store)
	if errors.Is(err, builtin.ErrAbsent) {
		t.Skip("needs make build")
	}
	for range 2 {
		if err != nil {
			t.Fatal(err)
		}
		err = builtin.Import(t.Context(), store)
	}
	resolved, err := store.Resolve(t.Context(), builtin.HelloName)
	if err != nil {
		t.Fatal(err)
	}
	if resolved.Config.Entrypoint[0] != "/hello" {
		t.Errorf("config %+v", resolved.Config)
	}
	id, err := store.PullImage(t.Context(), &runtimeapi.ImageSpec{Image: builtin.HelloName}, nil, nil)
	if err != nil || id != resolved.ID {
		t.Errorf("pull gives %s, %v", id, err)
	}
}
