package cri

import (
	"fmt"
	"slices"
	"strings"

	"github.com/opencontainers/runtime-spec/specs-go"
	runtimeapi "k8s.io/cri-api/pkg/apis/runtime/v1"
	"tags.cncf.io/container-device-interface/pkg/cdi"
)

// injectDevices adds to a container's specification what the devices need that the container asks for by names of the Container Device
// Interface: device nodes, mounts, variables, hooks. What the names stand for is in files that others put into directories of the machine
// (CDISpecDirs); all of them are read each time, since they come and go, and nothing is remembered or watched for that. A file that makes
// no sense harms only who asks for what is in it.
func (s *Service) injectDevices(spec *specs.Spec, config *runtimeapi.ContainerConfig) error {
	names, err := deviceNames(config)
	if err != nil || len(names) == 0 {
		return err
	}
	cache, err := cdi.NewCache(cdi.WithSpecDirs(s.cfg.CDISpecDirs...), cdi.WithAutoRefresh(false))
	if err != nil {
		return fmt.Errorf("read CDI specifications: %w", err)
	}
	for path, errs := range cache.GetErrors() {
		for _, err := range errs {
			s.log.Error(err, "CDI specification is not used", "path", path)
		}
	}
	own := len(spec.Process.Env)
	if _, err := cache.InjectDevices(spec, names...); err != nil {
		return fmt.Errorf("CDI device injection failed: %w", err)
	}
	// HOME is the last variable where nobody has set it, and stays that: elsewhere the runtime beneath adds it when the container starts.
	if own > 0 && strings.HasPrefix(spec.Process.Env[own-1], "HOME=") {
		home := spec.Process.Env[own-1]
		spec.Process.Env = append(slices.Delete(spec.Process.Env, own-1, own), home)
	}
	return nil
}

// deviceNames are the devices that a container asks for, each once: in its configuration, and in annotations, which clients used before
// that had a field for it.
func deviceNames(config *runtimeapi.ContainerConfig) (names []string, err error) {
	add := func(name string) {
		if !slices.Contains(names, name) {
			names = append(names, name)
		}
	}
	for _, d := range config.CDIDevices {
		add(d.GetName())
	}
	_, annotated, err := cdi.ParseAnnotations(config.Annotations)
	if err != nil {
		return nil, fmt.Errorf("read CDI annotations: %w", err)
	}
	slices.Sort(annotated) // they come in no order
	for _, name := range annotated {
		add(name)
	}
	return names, nil
}
