package server

import (
	"context"
	"os"
	"time"

	internalapi "k8s.io/cri-api/pkg/apis"
	runtimeapi "k8s.io/cri-api/pkg/apis/runtime/v1"
)

// patience is how long cri-client's reader waits for a change of the log before it looks again.
const patience = time.Second

// following is the runtime as a reader sees it that follows a log. cri-client's reader asks before each wait whether the container
// runs, and if not it reads to the end of the file that it has open: where the log was rotated since, the new file's lines
// would be lost. So a container that has ended is said to run until the reader has waited in vain, because it has then
// taken up every change that it had not come to. It is for one reader.
type following struct {
	internalapi.RuntimeService
	path string
	out  *flusher

	file    os.FileInfo // what was at path when it was last looked at; nil if nothing was
	rotated bool        // since the reader last waited in vain
	asked   time.Time   // when the reader was last answered
	writes  int         // how often the reader had written by then
}

// follow must be called before the log is opened.
func follow(r internalapi.RuntimeService, path string, out *flusher) *following {
	f := &following{RuntimeService: r, path: path, out: out, asked: time.Now()}
	f.look()
	f.rotated = false
	return f
}

// look notices that the log is another file than before.
func (f *following) look() {
	now, err := os.Stat(f.path)
	if err != nil {
		now = nil // between the renaming of a log and the making of the next
	}
	f.rotated = f.rotated || now == nil || f.file == nil || !os.SameFile(now, f.file)
	f.file = now
}

// ContainerStatus implements internalapi.RuntimeService.
func (f *following) ContainerStatus(ctx context.Context, id string, verbose bool) (*runtimeapi.ContainerStatusResponse, error) {
	inVain := f.out.writes == f.writes && time.Since(f.asked) >= patience
	r, err := f.RuntimeService.ContainerStatus(ctx, id, verbose)
	if inVain {
		f.rotated = false
	}
	f.look()
	f.asked, f.writes = time.Now(), f.out.writes
	if err != nil || !f.rotated || r.GetStatus().GetState() != runtimeapi.ContainerState_CONTAINER_EXITED {
		return r, err
	}
	return &runtimeapi.ContainerStatusResponse{Status: &runtimeapi.ContainerStatus{
		Id: r.Status.Id, LogPath: r.Status.LogPath, State: runtimeapi.ContainerState_CONTAINER_RUNNING}}, nil
}
