package criconfig

import (
	"context"
	"fmt"
	"slices"
	"sort"
	"strconv"
	"strings"

	v1 "k8s.io/api/core/v1"
	apierrors "k8s.io/apimachinery/pkg/api/errors"
	"k8s.io/apimachinery/pkg/util/validation"
	runtimeapi "k8s.io/cri-api/pkg/apis/runtime/v1"
)

// Objects reads what an environment refers to. A missing object is an API
// NotFound error.
type Objects interface {
	ConfigMap(ctx context.Context, namespace, name string) (*v1.ConfigMap, error)
	Secret(ctx context.Context, namespace, name string) (*v1.Secret, error)
	// Services are those of the namespace.
	Services(namespace string) ([]*v1.Service, error)
}

// EnvInput is what the environment of a container is made from.
type EnvInput struct {
	Pod         *v1.Pod // its status holds no address yet
	Container   *v1.Container
	PodIPs      []string
	HostIPs     []string
	Allocatable v1.ResourceList // of the node, for unset limits
	Objects     Objects
	// File reads a file of one of the Pod's volumes.
	File func(volume, path string) ([]byte, error)
}

// Env is a finished environment, in order, every name once.
type Env struct {
	Vars []*runtimeapi.KeyValue
	Map  map[string]string
	// Skipped names, by source, are keys that cannot be variable names.
	Skipped []string
}

func (e *Env) set(name, value string) {
	if _, ok := e.Map[name]; ok {
		for _, kv := range e.Vars {
			if kv.Key == name {
				kv.Value = []byte(value)
			}
		}
	} else {
		e.Vars = append(e.Vars, &runtimeapi.KeyValue{Key: name, Value: []byte(value)})
	}
	e.Map[name] = value
}

// Under adds variables that count where the Pod sets none of the name. They come before its own.
func (e *Env) Under(vars []*runtimeapi.KeyValue) {
	var added []*runtimeapi.KeyValue
	for _, kv := range vars {
		if _, ok := e.Map[kv.Key]; !ok {
			added = append(added, kv)
			e.Map[kv.Key] = string(kv.Value)
		}
	}
	e.Vars = slices.Concat(added, e.Vars)
}

// BuildEnv resolves envFrom, env and service links. Its errors become the
// message of CreateContainerConfigError.
func BuildEnv(ctx context.Context, in *EnvInput) (*Env, error) {
	e := &Env{Map: map[string]string{}}
	services, err := serviceEnv(in)
	if err != nil {
		return nil, err
	}
	for i := range in.Container.EnvFrom {
		if err := envFrom(ctx, in, &in.Container.EnvFrom[i], e); err != nil {
			return nil, err
		}
	}
	lookup := func(name string) (string, bool) {
		if v, ok := e.Map[name]; ok {
			return v, true
		}
		v, ok := services[name]
		return v, ok
	}
	for i := range in.Container.Env {
		v := &in.Container.Env[i]
		if v.ValueFrom == nil {
			e.set(v.Name, Expand(v.Value, lookup))
			continue
		}
		value, skip, err := valueFrom(ctx, in, v)
		if err != nil {
			return nil, err
		}
		if !skip {
			e.set(v.Name, value)
		}
	}
	names := make([]string, 0, len(services))
	for name := range services {
		names = append(names, name)
	}
	sort.Strings(names)
	for _, name := range names {
		if _, ok := e.Map[name]; !ok {
			e.set(name, services[name])
		}
	}
	return e, nil
}

func envFrom(ctx context.Context, in *EnvInput, from *v1.EnvFromSource, e *Env) error {
	data := map[string]string{}
	kind, name, optional := "", "", false
	switch {
	case from.ConfigMapRef != nil:
		ref := from.ConfigMapRef
		kind, name, optional = "configMap", ref.Name, ref.Optional != nil && *ref.Optional
		cm, err := in.Objects.ConfigMap(ctx, in.Pod.Namespace, ref.Name)
		if err != nil {
			if apierrors.IsNotFound(err) && optional {
				return nil
			}
			return err
		}
		data = cm.Data
	case from.SecretRef != nil:
		ref := from.SecretRef
		kind, name, optional = "secret", ref.Name, ref.Optional != nil && *ref.Optional
		secret, err := in.Objects.Secret(ctx, in.Pod.Namespace, ref.Name)
		if err != nil {
			if apierrors.IsNotFound(err) && optional {
				return nil
			}
			return err
		}
		for k, v := range secret.Data {
			data[k] = string(v)
		}
	}
	keys := make([]string, 0, len(data))
	for k := range data {
		keys = append(keys, k)
	}
	sort.Strings(keys)
	var invalid []string
	for _, k := range keys {
		full := from.Prefix + k
		if len(validation.IsRelaxedEnvVarName(full)) > 0 {
			invalid = append(invalid, full)
			continue
		}
		e.set(full, data[k])
	}
	if len(invalid) > 0 {
		e.Skipped = append(e.Skipped, fmt.Sprintf(
			"Keys [%s] from the EnvFrom %s %s/%s were skipped since they are considered invalid environment variable names.",
			strings.Join(invalid, ", "), kind, in.Pod.Namespace, name))
	}
	return nil
}

// valueFrom resolves one reference; skip: an optional one that is not there.
func valueFrom(ctx context.Context, in *EnvInput, v *v1.EnvVar) (value string, skip bool, err error) {
	from := v.ValueFrom
	switch {
	case from.FieldRef != nil:
		value, err = FieldValue(in.Pod, from.FieldRef.FieldPath, in.PodIPs, in.HostIPs)
	case from.ResourceFieldRef != nil:
		c := in.Container
		if n := from.ResourceFieldRef.ContainerName; n != "" && n != c.Name {
			if c = findContainer(in.Pod, n); c == nil {
				return "", false, fmt.Errorf("container %s not found", n)
			}
		}
		value, err = ResourceValue(from.ResourceFieldRef, in.Pod, c, in.Allocatable)
	case from.ConfigMapKeyRef != nil:
		return configMapKey(ctx, in, from.ConfigMapKeyRef)
	case from.SecretKeyRef != nil:
		return secretKey(ctx, in, from.SecretKeyRef)
	case from.FileKeyRef != nil:
		return fileKey(in, from.FileKeyRef)
	default:
		err = fmt.Errorf("env %s: this kind of valueFrom is not supported on this node", v.Name)
	}
	return value, false, err
}

func configMapKey(ctx context.Context, in *EnvInput, ref *v1.ConfigMapKeySelector) (string, bool, error) {
	optional := ref.Optional != nil && *ref.Optional
	cm, err := in.Objects.ConfigMap(ctx, in.Pod.Namespace, ref.Name)
	if err != nil {
		if apierrors.IsNotFound(err) && optional {
			return "", true, nil
		}
		return "", false, err
	}
	if value, ok := cm.Data[ref.Key]; ok {
		return value, false, nil
	}
	if optional {
		return "", true, nil
	}
	return "", false, fmt.Errorf("couldn't find key %v in ConfigMap %v/%v", ref.Key, in.Pod.Namespace, ref.Name)
}

func secretKey(ctx context.Context, in *EnvInput, ref *v1.SecretKeySelector) (string, bool, error) {
	optional := ref.Optional != nil && *ref.Optional
	secret, err := in.Objects.Secret(ctx, in.Pod.Namespace, ref.Name)
	if err != nil {
		if apierrors.IsNotFound(err) && optional {
			return "", true, nil
		}
		return "", false, err
	}
	if value, ok := secret.Data[ref.Key]; ok {
		return string(value), false, nil
	}
	if optional {
		return "", true, nil
	}
	return "", false, fmt.Errorf("couldn't find key %v in Secret %v/%v", ref.Key, in.Pod.Namespace, ref.Name)
}

// serviceEnv are the variables that describe Services: those of the Pod's
// namespace when it has service links, and always the API server's.
func serviceEnv(in *EnvInput) (map[string]string, error) {
	env := map[string]string{}
	add := func(s *v1.Service) {
		if s.Spec.ClusterIP == "" || s.Spec.ClusterIP == v1.ClusterIPNone || len(s.Spec.Ports) == 0 {
			return
		}
		describeService(env, s)
	}
	main, err := in.Objects.Services(v1.NamespaceDefault)
	if err != nil {
		return nil, err
	}
	for _, s := range main {
		if s.Name == "kubernetes" {
			add(s)
		}
	}
	if links := in.Pod.Spec.EnableServiceLinks; links != nil && !*links {
		return env, nil
	}
	own, err := in.Objects.Services(in.Pod.Namespace)
	if err != nil {
		return nil, err
	}
	for _, s := range own {
		add(s)
	}
	return env, nil
}

func envName(s string) string { return strings.ToUpper(strings.ReplaceAll(s, "-", "_")) }

func describeService(env map[string]string, s *v1.Service) {
	name, ip := envName(s.Name), s.Spec.ClusterIP
	host := ip
	if strings.Contains(ip, ":") {
		host = "[" + ip + "]"
	}
	env[name+"_SERVICE_HOST"] = ip
	env[name+"_SERVICE_PORT"] = strconv.Itoa(int(s.Spec.Ports[0].Port))
	for i := range s.Spec.Ports {
		p := &s.Spec.Ports[i]
		if p.Name != "" {
			env[name+"_SERVICE_PORT_"+envName(p.Name)] = strconv.Itoa(int(p.Port))
		}
		proto := "TCP"
		if p.Protocol != "" {
			proto = string(p.Protocol)
		}
		url := fmt.Sprintf("%s://%s:%d", strings.ToLower(proto), host, p.Port)
		if i == 0 {
			env[name+"_PORT"] = url
		}
		prefix := fmt.Sprintf("%s_PORT_%d_%s", name, p.Port, strings.ToUpper(proto))
		env[prefix] = url
		env[prefix+"_PROTO"] = strings.ToLower(proto)
		env[prefix+"_PORT"] = strconv.Itoa(int(p.Port))
		env[prefix+"_ADDR"] = ip
	}
}
