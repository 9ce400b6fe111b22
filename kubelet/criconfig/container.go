package criconfig

import (
	"encoding/json"
	"fmt"
	"maps"
	"slices"
	"strconv"

	v1 "k8s.io/api/core/v1"
	runtimeapi "k8s.io/cri-api/pkg/apis/runtime/v1"
)

// ContainerInput is what a container's configuration is made from.
type ContainerInput struct {
	Pod          *v1.Pod
	Container    *v1.Container
	Hash         string
	RestartCount int32
	Round        int32  // how often all containers of the Pod were restarted before
	ImageRef     string // as the runtime knows it
	ImageUser    ImageUser
	Env          *Env
	Mounts       []*runtimeapi.Mount
	Devices      []*runtimeapi.Device
	Claimed      []string // names of devices in the Container Device Interface
	Given        *Given   // of device plugins; its variables are in Env already
	TargetID     string   // the container whose PID namespace an ephemeral one joins
	Users        *runtimeapi.UserNamespace
}

// Given is what device plugins give to a container for its devices.
type Given struct {
	Envs        []*runtimeapi.KeyValue
	Mounts      []*runtimeapi.Mount
	Devices     []*runtimeapi.Device
	Annotations map[string]string
	CDI         []string // names of devices in the Container Device Interface
}

// Container is the configuration of one instance of a container.
func Container(in *ContainerInput, node *Node) (*runtimeapi.ContainerConfig, error) {
	pod, c := in.Pod, in.Container
	if err := VerifyNonRoot(pod, c, in.ImageUser); err != nil {
		return nil, err
	}
	annotations, err := containerAnnotations(in)
	if err != nil {
		return nil, err
	}
	cfg := &runtimeapi.ContainerConfig{
		Metadata:    &runtimeapi.ContainerMetadata{Name: c.Name, Attempt: uint32(in.RestartCount)},
		Image:       &runtimeapi.ImageSpec{Image: in.ImageRef, UserSpecifiedImage: c.Image},
		Command:     ExpandAll(c.Command, in.Env.Map),
		Args:        ExpandAll(c.Args, in.Env.Map),
		WorkingDir:  c.WorkingDir,
		Envs:        in.Env.Vars,
		Mounts:      in.Mounts,
		Devices:     in.Devices,
		Labels:      containerLabels(pod, c),
		Annotations: annotations,
		LogPath:     LogPath(c.Name, in.RestartCount),
		Stdin:       c.Stdin,
		StdinOnce:   c.StdinOnce,
		Tty:         c.TTY,
		Linux: &runtimeapi.LinuxContainerConfig{
			Resources:       ContainerResources(pod, c, node),
			SecurityContext: securityContext(in, node),
		},
	}
	claimed := in.Claimed
	if in.Given != nil { // before what the Pod says, which counts where both say something
		cfg.Mounts = slices.Concat(in.Given.Mounts, cfg.Mounts)
		cfg.Devices = slices.Concat(in.Given.Devices, cfg.Devices)
		claimed = slices.Concat(claimed, in.Given.CDI)
	}
	for _, name := range claimed {
		cfg.CDIDevices = append(cfg.CDIDevices, &runtimeapi.CDIDevice{Name: name})
	}
	// What is mounted keeps its owners: to the Pod an ID in a volume is the same ID.
	for _, m := range cfg.Mounts {
		m.UidMappings, m.GidMappings = in.Users.GetUids(), in.Users.GetGids()
	}
	if c.Lifecycle != nil && c.Lifecycle.StopSignal != nil {
		n, ok := runtimeapi.Signal_value["SIGNAL_"+string(*c.Lifecycle.StopSignal)]
		if !ok {
			return nil, fmt.Errorf("stop signal %s is not known", *c.Lifecycle.StopSignal)
		}
		cfg.StopSignal = runtimeapi.Signal(n)
	}
	return cfg, nil
}

// LogPath is a container's log file below the Pod's log directory.
func LogPath(name string, restartCount int32) string {
	return name + "/" + strconv.Itoa(int(restartCount)) + ".log"
}

func containerLabels(pod *v1.Pod, c *v1.Container) map[string]string {
	return map[string]string{
		LabelPodName: pod.Name, LabelPodNamespace: pod.Namespace, LabelPodUID: string(pod.UID), LabelContainerName: c.Name,
	}
}

func containerAnnotations(in *ContainerInput) (map[string]string, error) {
	pod, c := in.Pod, in.Container
	a := map[string]string{}
	if in.Given != nil {
		maps.Copy(a, in.Given.Annotations)
	}
	// The kubelet's own are read again, so they count.
	a[AnnotationHash] = in.Hash
	a[AnnotationRestartCount] = strconv.Itoa(int(in.RestartCount))
	a[AnnotationMessagePath] = c.TerminationMessagePath
	a[AnnotationMessagePolicy] = string(c.TerminationMessagePolicy)
	if in.Round > 0 {
		a[AnnotationRound] = strconv.Itoa(int(in.Round))
	}
	if s := pod.DeletionGracePeriodSeconds; s != nil {
		a[AnnotationDeletionGrace] = strconv.FormatInt(*s, 10)
	}
	if s := pod.Spec.TerminationGracePeriodSeconds; s != nil {
		a[AnnotationTerminationGrace] = strconv.FormatInt(*s, 10)
	}
	if c.Lifecycle != nil && c.Lifecycle.PreStop != nil {
		raw, err := json.Marshal(c.Lifecycle.PreStop)
		if err != nil {
			return nil, fmt.Errorf("encode preStop hook of container %s: %w", c.Name, err)
		}
		a[AnnotationPreStop] = string(raw)
	}
	if len(c.Ports) > 0 {
		raw, err := json.Marshal(c.Ports)
		if err != nil {
			return nil, fmt.Errorf("encode ports of container %s: %w", c.Name, err)
		}
		a[AnnotationPorts] = string(raw)
	}
	return a, nil
}
