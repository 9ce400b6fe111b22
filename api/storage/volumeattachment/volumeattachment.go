// Package volumeattachment declares storage.k8s.io/v1 VolumeAttachment.
package volumeattachment

import (
	"context"
	"math"
	"strconv"

	storagev1 "k8s.io/api/storage/v1"
	"k8s.io/apimachinery/pkg/api/equality"
	metav1 "k8s.io/apimachinery/pkg/apis/meta/v1"
	"k8s.io/apimachinery/pkg/runtime"
	"k8s.io/apimachinery/pkg/util/validation"
	"k8s.io/apimachinery/pkg/util/validation/field"
	"k8s.io/utils/ptr"

	"github.com/peapod/peapod/api/core/persistentvolume"
	"github.com/peapod/peapod/api/resource"
	"github.com/peapod/peapod/api/table"
	v "github.com/peapod/peapod/api/validation"
)

// Declaration returns the declaration of the kind.
func Declaration() *resource.Declaration {
	return resource.Declare[storagev1.VolumeAttachment](resource.Declaration{
		GVK:             storagev1.SchemeGroupVersion.WithKind("VolumeAttachment"),
		Plural:          "volumeattachments",
		Status:          true,
		StatusAlone:     true,
		ReturnDeleted:   true,
		VersionedUpdate: true,
	}, func() runtime.Object { return &storagev1.VolumeAttachmentList{} }, kind{})
}

type kind struct{}

var (
	_ resource.Validator[*storagev1.VolumeAttachment]       = kind{}
	_ resource.UpdateValidator[*storagev1.VolumeAttachment] = kind{}
	_ resource.StatusValidator[*storagev1.VolumeAttachment] = kind{}
	_ resource.Printer[*storagev1.VolumeAttachment]         = kind{}
)

const (
	maxMetadata = 256 << 10
	maxMessage  = 1024
)

// Validate checks a new attachment.
func (kind) Validate(_ context.Context, obj *storagev1.VolumeAttachment) field.ErrorList {
	s, path := &obj.Spec, field.NewPath("spec")
	errs := v.Required(s.Attacher, path.Child("attacher"))
	if s.Attacher != "" {
		errs = append(errs, v.CSIDriverName(s.Attacher, path.Child("attacher"))...)
	}
	errs = append(errs, validateSource(&s.Source, path.Child("source"))...)
	errs = append(errs, v.ObjectName(s.NodeName, path.Child("nodeName"))...)
	return append(errs, validateStatus(&obj.Status)...)
}

func validateSource(s *storagev1.VolumeAttachmentSource, path *field.Path) field.ErrorList {
	const one = "must specify exactly one of inlineVolumeSpec and persistentVolumeName"
	switch name := s.PersistentVolumeName; {
	case s.InlineVolumeSpec == nil && name == nil:
		return field.ErrorList{field.Required(path, one)}
	case s.InlineVolumeSpec != nil && name != nil:
		return field.ErrorList{field.Forbidden(path, one)}
	case name == nil:
		return persistentvolume.ValidateInline(s.InlineVolumeSpec, path.Child("inlineVolumeSpec"))
	case *name == "":
		return field.ErrorList{field.Required(path.Child("persistentVolumeName"), "must specify non empty persistentVolumeName")}
	default:
		return v.ObjectName(*name, path.Child("persistentVolumeName"))
	}
}

func validateStatus(s *storagev1.VolumeAttachmentStatus) field.ErrorList {
	path := field.NewPath("status")
	var errs field.ErrorList
	size := 0
	for key, value := range s.AttachmentMetadata {
		size += len(key) + len(value)
	}
	if size > maxMetadata {
		errs = append(errs, field.TooLong(path.Child("attachmentMetadata"), "", maxMetadata))
	}
	for name, e := range map[string]*storagev1.VolumeError{"attachError": s.AttachError, "detachError": s.DetachError} {
		if e != nil && len(e.Message) > maxMessage {
			errs = append(errs, field.TooLong(path.Child(name, "message"), "", maxMessage))
		}
		if e != nil && e.ErrorCode != nil && *e.ErrorCode < 0 {
			errs = append(errs, field.Invalid(path.Child(name, "errorCode"), *e.ErrorCode, validation.InclusiveRangeError(0, math.MaxInt32)))
		}
	}
	return errs
}

// ValidateUpdate keeps the spec: another volume or node is another attachment.
func (k kind) ValidateUpdate(ctx context.Context, obj, old *storagev1.VolumeAttachment) field.ErrorList {
	errs := k.Validate(ctx, obj)
	if !equality.Semantic.DeepEqual(old.Spec, obj.Spec) {
		errs = append(errs, field.Invalid(field.NewPath("spec"), obj.Spec, "field is immutable"))
	}
	return errs
}

// ValidateStatusUpdate checks what the attacher reports.
func (kind) ValidateStatusUpdate(_ context.Context, obj, _ *storagev1.VolumeAttachment) field.ErrorList {
	return validateStatus(&obj.Status)
}

// Columns are those of `kubectl get volumeattachments`.
func (kind) Columns() []metav1.TableColumnDefinition {
	doc := storagev1.VolumeAttachmentSpec{}.SwaggerDoc()
	return []metav1.TableColumnDefinition{
		table.Name(),
		table.Text("Attacher", doc["attacher"]),
		table.Text("PV", storagev1.VolumeAttachmentSource{}.SwaggerDoc()["persistentVolumeName"]),
		table.Text("Node", doc["nodeName"]),
		table.Text("Attached", storagev1.VolumeAttachmentStatus{}.SwaggerDoc()["attached"]),
		table.Age(),
	}
}

// Row is one line of the table.
func (kind) Row(obj *storagev1.VolumeAttachment) ([]any, error) {
	return []any{
		obj.Name, obj.Spec.Attacher, ptr.Deref(obj.Spec.Source.PersistentVolumeName, ""), obj.Spec.NodeName,
		strconv.FormatBool(obj.Status.Attached), table.Since(obj.CreationTimestamp),
	}, nil
}
