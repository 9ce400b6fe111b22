package metrics

import (
	"errors"
	"fmt"
	"reflect"
	"strings"
	"testing"

	critesting "k8s.io/cri-api/pkg/apis/testing"
)

// Each operation is asked of the runtime, whose error comes back, and counted by upstream's name once.
func TestOperations(t *testing.T) {
	runtime, images := critesting.NewFakeRuntimeService(), critesting.NewFakeImageService()
	s := New()
	sick := errors.New("sick")
	for _, c := range []struct {
		through    any
		fail       func(method string, err error)
		called     *[]string
		operations string // Method=name
	}{
		{s.Runtime(runtime), runtime.InjectError, &runtime.Called, `Version=version Status=status RuntimeConfig=runtime_config RunPodSandbox=run_podsandbox
			StopPodSandbox=stop_podsandbox RemovePodSandbox=remove_podsandbox PodSandboxStatus=podsandbox_status ListPodSandbox=list_podsandbox
			CreateContainer=create_container StartContainer=start_container StopContainer=stop_container RemoveContainer=remove_container
			ListContainers=list_containers ContainerStatus=container_status UpdateContainerResources=update_container
			ReopenContainerLog=reopen_container_log ExecSync=exec_sync Exec=exec Attach=attach PortForward=port_forward
			ContainerStats=container_stats ListContainerStats=list_container_stats ListPodSandboxStats=list_podsandbox_stats`},
		{s.Images(images), images.InjectError, &images.Called, `ListImages=list_images ImageStatus=image_status PullImage=pull_image
			RemoveImage=remove_image ImageFsInfo=image_fs_info`},
	} {
		for _, operation := range strings.Fields(c.operations) {
			method, name, _ := strings.Cut(operation, "=")
			c.fail(method, sick)
			*c.called = nil
			f := reflect.ValueOf(c.through).MethodByName(method)
			in := []reflect.Value{reflect.ValueOf(t.Context())}
			for i := 1; i < f.Type().NumIn(); i++ {
				in = append(in, reflect.Zero(f.Type().In(i)))
			}
			out := f.Call(in)
			if err, _ := out[len(out)-1].Interface().(error); !errors.Is(err, sick) {
				t.Errorf("%s: its error is %v, the runtime's %v", method, err, sick)
			}
			if got := fmt.Sprint(*c.called); got != "["+method+"]" {
				t.Errorf("%s: the runtime is asked for %s", method, got)
			}
			of := `{operation_type="` + name + `"} 1`
			want(t, scrape(t, s.Kubelet()), "kubelet_runtime_operations_total"+of, "kubelet_runtime_operations_errors_total"+of, "kubelet_runtime_operations_duration_seconds_count"+of)
		}
	}
}
