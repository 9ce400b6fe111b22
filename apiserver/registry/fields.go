package registry

import (
	"fmt"

	"k8s.io/apimachinery/pkg/fields"
	"k8s.io/apimachinery/pkg/labels"
	"k8s.io/apimachinery/pkg/runtime"
	"k8s.io/apiserver/pkg/storage"

	"github.com/peapod/peapod/api/resource"
)

// attrs tells the storage by which labels and fields an object may be selected.
func attrs(d *resource.Declaration) storage.AttrFunc {
	more := d.Behaviour.SelectableFields
	return func(obj runtime.Object) (labels.Set, fields.Set, error) {
		o, ok := obj.(resource.Object)
		if !ok {
			return nil, nil, fmt.Errorf("read the attributes of a %T: not a %s", obj, d.GVK.Kind)
		}
		set := fields.Set{}
		if more != nil {
			if own := more(obj); own != nil {
				set = own
			}
		}
		set["metadata.name"] = o.GetName()
		if d.Namespaced {
			set["metadata.namespace"] = o.GetNamespace()
		}
		return o.GetLabels(), set, nil
	}
}

// FieldLabels returns the check of the field selectors that clients send for d, nil where the API's default (name and
// namespace) is right.
func FieldLabels(d *resource.Declaration) runtime.FieldLabelConversionFunc {
	stored := d
	if d.AliasOf != nil {
		stored = d.AliasOf
	}
	if stored.Behaviour.SelectableFields == nil {
		return nil
	}
	known := map[string]bool{"metadata.name": true}
	if d.Namespaced {
		known["metadata.namespace"] = true
	}
	for f := range stored.Behaviour.SelectableFields(stored.New()) {
		known[f] = true
	}
	return func(label, value string) (string, string, error) {
		if !known[label] {
			return "", "", fmt.Errorf("field label not supported: %s", label)
		}
		return label, value, nil
	}
}
