package podspec

import (
	"fmt"
	"slices"
	"strings"

	corev1 "k8s.io/api/core/v1"
	"k8s.io/apimachinery/pkg/api/resource"
	"k8s.io/apimachinery/pkg/util/validation"
	"k8s.io/apimachinery/pkg/util/validation/field"

	v "github.com/peapod/peapod/api/validation"
)

const oneSource = "may not have more than one field specified at a time"

func checkEnv(vars []corev1.EnvVar, path *field.Path) field.ErrorList {
	var errs field.ErrorList
	for i := range vars {
		at := path.Index(i)
		if vars[i].Name == "" {
			errs = append(errs, field.Required(at.Child("name"), ""))
		} else {
			errs = append(errs, v.Messages(validation.IsRelaxedEnvVarName(vars[i].Name), vars[i].Name, at.Child("name"))...)
		}
		if vars[i].ValueFrom != nil {
			errs = append(errs, checkValueFrom(&vars[i], at.Child("valueFrom"))...)
		}
	}
	return errs
}

func checkValueFrom(e *corev1.EnvVar, path *field.Path) field.ErrorList {
	var errs field.ErrorList
	sources, from := 0, e.ValueFrom
	if from.FieldRef != nil {
		sources++
		errs = append(errs, checkFieldRef(from.FieldRef, envFields, path.Child("fieldRef"))...)
	}
	if from.ResourceFieldRef != nil {
		sources++
		errs = append(errs, checkResourceFieldRef(from.ResourceFieldRef, false, path.Child("resourceFieldRef"))...)
	}
	if ref := from.ConfigMapKeyRef; ref != nil {
		sources++
		errs = append(errs, checkKeyRef(ref.Name, ref.Key, path.Child("configMapKeyRef"))...)
	}
	if ref := from.SecretKeyRef; ref != nil {
		sources++
		errs = append(errs, checkKeyRef(ref.Name, ref.Key, path.Child("secretKeyRef"))...)
	}
	if from.FileKeyRef != nil {
		sources++
		errs = append(errs, checkFileKeyRef(from.FileKeyRef, path.Child("fileKeyRef"))...)
	}
	switch {
	case sources == 0:
		errs = append(errs, field.Invalid(path, "",
			"must specify one of: `fieldRef`, `resourceFieldRef`, `configMapKeyRef`, `secretKeyRef` or `fileKeyRef`"))
	case e.Value != "":
		errs = append(errs, field.Invalid(path, "", "may not be specified when `value` is not empty"))
	case sources > 1:
		errs = append(errs, field.Invalid(path, "", oneSource))
	}
	return errs
}

func checkEnvFrom(sources []corev1.EnvFromSource, path *field.Path) field.ErrorList {
	var errs field.ErrorList
	for i := range sources {
		s, at := &sources[i], path.Index(i)
		if s.Prefix != "" {
			errs = append(errs, v.Messages(validation.IsRelaxedEnvVarName(s.Prefix), s.Prefix, at.Child("prefix"))...)
		}
		n := 0
		if s.ConfigMapRef != nil {
			n++
			errs = append(errs, checkEnvObject(s.ConfigMapRef.Name, at.Child("configMapRef"))...)
		}
		if s.SecretRef != nil {
			n++
			errs = append(errs, checkEnvObject(s.SecretRef.Name, at.Child("secretRef"))...)
		}
		switch {
		case n == 0:
			errs = append(errs, field.Invalid(path, "", "must specify one of: `configMapRef` or `secretRef`"))
		case n > 1:
			errs = append(errs, field.Invalid(path, "", oneSource))
		}
	}
	return errs
}

func checkEnvObject(name string, path *field.Path) field.ErrorList {
	if name == "" {
		return field.ErrorList{field.Required(path.Child("name"), "")}
	}
	return v.ObjectName(name, path.Child("name"))
}

func checkKeyRef(name, key string, path *field.Path) field.ErrorList {
	errs := v.ObjectName(name, path.Child("name"))
	return append(errs, v.ConfigKey(key, path.Child("key"))...)
}

// maxFileKey is the longest name of a variable in an env file.
const maxFileKey = 128

func checkFileKeyRef(ref *corev1.FileKeySelector, path *field.Path) field.ErrorList {
	errs := v.RequiredDNSLabel(ref.VolumeName, path.Child("volumeName"))
	if ref.Path == "" {
		errs = append(errs, field.Required(path.Child("path"), ""))
	} else {
		errs = append(errs, v.NonReservedPath(ref.Path, path.Child("path"))...)
	}
	switch {
	case ref.Key == "":
		errs = append(errs, field.Required(path.Child("key"), ""))
	default:
		if len(ref.Key) > maxFileKey {
			errs = append(errs, field.TooLong(path.Child("key"), ref.Key, maxFileKey))
		}
		errs = append(errs, v.Messages(validation.IsRelaxedEnvVarName(ref.Key), ref.Key, path.Child("key"))...)
	}
	return errs
}

// checkEnvFiles checks that every env file is in an emptyDir of the Pod: only there can another container have put it
// before.
func (c *checker) checkEnvFiles(path *field.Path) field.ErrorList {
	var errs field.ErrorList
	visit(c.spec, path, func(ctr *corev1.Container, at *field.Path) {
		for i := range ctr.Env {
			if ctr.Env[i].ValueFrom == nil || ctr.Env[i].ValueFrom.FileKeyRef == nil {
				continue
			}
			name := ctr.Env[i].ValueFrom.FileKeyRef.VolumeName
			at := at.Child("env").Index(i).Child("valueFrom", "fileKeyRef", "volumeName")
			if source, ok := c.volumes[name]; !ok {
				errs = append(errs, field.NotFound(at, name))
			} else if source.EmptyDir == nil {
				errs = append(errs, field.Invalid(at, name, "referenced volume must be of type emptyDir"))
			}
		}
	})
	return errs
}

// The fields of a Pod that a variable, or a file of a volume, can hold.
var (
	envFields = []string{
		"metadata.name", "metadata.namespace", "metadata.uid", "spec.nodeName", "spec.serviceAccountName",
		"status.hostIP", "status.hostIPs", "status.podIP", "status.podIPs",
	}
	volumeFields = []string{
		"metadata.annotations", "metadata.labels", "metadata.name", "metadata.namespace", "metadata.uid",
	}
	// knownFields are those that any downward API knows.
	knownFields = append([]string{"spec.restartPolicy", "spec.schedulerName", "status.phase",
		"metadata.annotations", "metadata.labels"}, envFields...)
)

func checkFieldRef(ref *corev1.ObjectFieldSelector, allowed []string, path *field.Path) field.ErrorList {
	if ref.APIVersion == "" {
		return field.ErrorList{field.Required(path.Child("apiVersion"), "")}
	}
	if ref.FieldPath == "" {
		return field.ErrorList{field.Required(path.Child("fieldPath"), "")}
	}
	at := path.Child("fieldPath")
	if ref.APIVersion != "v1" {
		return field.ErrorList{field.Invalid(at, ref.FieldPath,
			fmt.Sprintf("error converting fieldPath: unsupported pod version: %s", ref.APIVersion))}
	}
	name, key, subscripted := SplitSubscript(ref.FieldPath)
	if subscripted {
		switch name {
		case "metadata.annotations":
			return v.QualifiedName(strings.ToLower(key), path)
		case "metadata.labels":
			return v.QualifiedName(key, path)
		}
		return field.ErrorList{field.Invalid(at, ref.FieldPath,
			fmt.Sprintf("error converting fieldPath: field label does not support subscript: %s", ref.FieldPath))}
	}
	switch {
	// spec.host is what spec.nodeName was called once.
	case name != "spec.host" && !slices.Contains(knownFields, name):
		return field.ErrorList{field.Invalid(at, ref.FieldPath,
			fmt.Sprintf("error converting fieldPath: field label not supported: %s", ref.FieldPath))}
	case name == "spec.host":
		name = "spec.nodeName"
	}
	if !slices.Contains(allowed, name) {
		return field.ErrorList{field.NotSupported(at, name, allowed)}
	}
	return nil
}

// SplitSubscript takes a field path like metadata.labels['app'] apart; ok says whether it has a subscript.
func SplitSubscript(path string) (name, key string, ok bool) {
	rest, ok := strings.CutSuffix(path, "']")
	if !ok {
		return path, "", false
	}
	name, key, ok = strings.Cut(rest, "['")
	if !ok || name == "" {
		return path, "", false
	}
	return name, key, true
}

var (
	resourceFields = []string{
		"limits.cpu", "limits.ephemeral-storage", "limits.memory",
		"requests.cpu", "requests.ephemeral-storage", "requests.memory",
	}
	byteDivisors = []string{"1", "1k", "1M", "1G", "1T", "1P", "1E", "1Ki", "1Mi", "1Gi", "1Ti", "1Pi", "1Ei"}
)

func isHugePagesField(name string) bool {
	return strings.HasPrefix(name, "requests.hugepages-") || strings.HasPrefix(name, "limits.hugepages-")
}

// checkResourceFieldRef checks a reference to a container's resources; in a volume it must say of which container.
func checkResourceFieldRef(ref *corev1.ResourceFieldSelector, volume bool, path *field.Path) field.ErrorList {
	var errs field.ErrorList
	switch {
	case volume && ref.ContainerName == "":
		errs = append(errs, field.Required(path.Child("containerName"), ""))
	case ref.Resource == "":
		errs = append(errs, field.Required(path.Child("resource"), ""))
	case !slices.Contains(resourceFields, ref.Resource) && !isHugePagesField(ref.Resource):
		errs = append(errs, field.NotSupported(path.Child("resource"), ref.Resource, resourceFields))
	}
	return append(errs, checkDivisor(ref.Resource, ref.Divisor, path.Child("divisor"))...)
}

func checkDivisor(name string, divisor resource.Quantity, path *field.Path) field.ErrorList {
	if divisor.IsZero() {
		return nil
	}
	allowed, of := byteDivisors, ""
	switch {
	case strings.HasSuffix(name, ".cpu"):
		if d := divisor.String(); d != "1m" && d != "1" {
			return field.ErrorList{field.Invalid(path, name, "only divisor's values 1m and 1 are supported with the cpu resource")}
		}
		return nil
	case strings.HasSuffix(name, ".memory"):
		of = "memory"
	case strings.HasSuffix(name, ".ephemeral-storage"):
		of = "local ephemeral storage"
	case isHugePagesField(name):
		of = "hugepages"
	default:
		return nil
	}
	if slices.Contains(allowed, divisor.String()) {
		return nil
	}
	return field.ErrorList{field.Invalid(path, name,
		fmt.Sprintf("only divisor's values %s are supported with the %s resource", strings.Join(allowed, ", "), of))}
}
