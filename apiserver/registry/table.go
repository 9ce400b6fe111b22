package registry

import (
	"context"
	"fmt"
	"slices"
	"time"

	"k8s.io/apimachinery/pkg/api/meta"
	metav1 "k8s.io/apimachinery/pkg/apis/meta/v1"
	"k8s.io/apimachinery/pkg/runtime"
	"k8s.io/apimachinery/pkg/util/duration"
	"k8s.io/apiserver/pkg/registry/rest"

	"github.com/peapod/peapod/api/resource"
)

// table prints a kind by its own columns.
type table struct {
	d       *resource.Declaration
	columns []metav1.TableColumnDefinition
}

func newTable(d *resource.Declaration) rest.TableConvertor {
	if d.Behaviour.Row == nil {
		return rest.NewDefaultTableConvertor(d.Resource())
	}
	return table{d, d.Behaviour.Columns()}
}

func (t table) ConvertToTable(_ context.Context, obj, options runtime.Object) (*metav1.Table, error) {
	out := &metav1.Table{}
	add := func(o runtime.Object) error {
		cells, err := t.d.Behaviour.Row(o)
		if err != nil {
			return fmt.Errorf("print a %s: %w", t.d.GVK.Kind, err)
		}
		if len(cells) != len(t.columns) {
			return fmt.Errorf("print a %s: %d cells for %d columns", t.d.GVK.Kind, len(cells), len(t.columns))
		}
		for i, c := range cells {
			cells[i] = age(c)
		}
		out.Rows = append(out.Rows, metav1.TableRow{Cells: cells, Object: runtime.RawExtension{Object: o}})
		return nil
	}
	if meta.IsListType(obj) {
		if n := meta.LenList(obj); n > 0 {
			out.Rows = make([]metav1.TableRow, 0, n)
		}
		if err := meta.EachListItem(obj, add); err != nil {
			return nil, err
		}
		if compare := t.d.Behaviour.Compare; compare != nil {
			slices.SortStableFunc(out.Rows, func(a, b metav1.TableRow) int { return compare(a.Object.Object, b.Object.Object) })
		}
	} else if err := add(obj); err != nil {
		return nil, err
	}
	if m, err := meta.ListAccessor(obj); err == nil {
		out.ResourceVersion, out.Continue, out.RemainingItemCount = m.GetResourceVersion(), m.GetContinue(), m.GetRemainingItemCount()
	} else if m, err := meta.CommonAccessor(obj); err == nil {
		out.ResourceVersion = m.GetResourceVersion()
	}
	if o, ok := options.(*metav1.TableOptions); !ok || !o.NoHeaders {
		out.ColumnDefinitions = t.columns
	}
	return out, nil
}

// age turns a cell that is a time into how long ago that was.
func age(cell any) any {
	t, ok := cell.(metav1.Time)
	if !ok {
		return cell
	}
	if t.IsZero() {
		return "<unknown>"
	}
	return duration.HumanDuration(time.Since(t.Time))
}

// aliasTable prints stored objects as the alias kind would print them.
type aliasTable struct {
	rest.TableConvertor
	convert runtime.ObjectConvertor
}

func (t aliasTable) ConvertToTable(ctx context.Context, obj, options runtime.Object) (*metav1.Table, error) {
	d := t.TableConvertor.(table).d
	converted, err := t.convert.ConvertToVersion(obj, d.GVK.GroupVersion())
	if err != nil {
		return nil, fmt.Errorf("convert to %s to print: %w", d.GVK, err)
	}
	return t.TableConvertor.ConvertToTable(ctx, converted, options)
}
