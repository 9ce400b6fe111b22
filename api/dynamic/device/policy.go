package device

import (
	"fmt"
	"math"

	resourcev1 "k8s.io/api/resource/v1"
	"k8s.io/apimachinery/pkg/api/resource"
	"k8s.io/apimachinery/pkg/util/validation/field"

	v "github.com/peapod/peapod/api/validation"
)

// maxValidValues bounds the values of which a request may choose one.
const maxValidValues = 10

// RequestPolicy checks what parts of a capacity may be asked for. Only new policies are checked.
func RequestPolicy(capacity resource.Quantity, p *resourcev1.CapacityRequestPolicy, path *field.Path) field.ErrorList {
	values, span := len(p.ValidValues) > 0, p.ValidRange != nil
	switch {
	case values && span:
		return field.ErrorList{field.Forbidden(path, `exactly one policy can be specified, cannot specify "validValues" and "validRange" at the same time`)}
	case values && p.Default == nil:
		return field.ErrorList{field.Required(path.Child("default"), "required when validValues is defined")}
	case values:
		return validValues(capacity, *p.Default, p.ValidValues, path.Child("validValues"))
	case span && p.Default == nil:
		return field.ErrorList{field.Required(path.Child("default"), "required when validRange is defined")}
	case span:
		return validRange(capacity, *p.Default, p.ValidRange, path.Child("validRange"))
	}
	return nil
}

func validValues(capacity, standard resource.Quantity, values []resource.Quantity, path *field.Path) field.ErrorList {
	var errs field.ErrorList
	found := false
	for i := range values {
		found = found || values[i].Cmp(standard) == 0
		if i > 0 && values[i-1].Cmp(values[i]) > 0 {
			errs = append(errs, field.Invalid(path.Index(i), values[i].String(), "values must be sorted in ascending order"))
		}
	}
	errs = append(errs, Set(values, maxValidValues, path, exact,
		func(q *resource.Quantity, at *field.Path) field.ErrorList {
			if q.Cmp(capacity) <= 0 {
				return nil
			}
			return field.ErrorList{field.Invalid(at, q.String(), "option is larger than capacity value: "+capacity.String())}
		})...)
	if !found {
		errs = append(errs, field.Invalid(path, standard.String(), "default value is not valid according to the requestPolicy"))
	}
	return errs
}

// exact is one text for each amount, however it was written.
func exact(q *resource.Quantity) string {
	plain := q.DeepCopy()
	plain.Format = resource.DecimalSI
	number, suffix := plain.CanonicalizeBytes(make([]byte, 0, 32))
	return string(number) + string(suffix)
}

// bound is one of the amounts that a range is made of; nil is not set.
type bound struct {
	name string
	q    *resource.Quantity
}

func validRange(capacity, standard resource.Quantity, r *resourcev1.CapacityRequestPolicyRange, path *field.Path) field.ErrorList {
	if r.Min == nil {
		return field.ErrorList{field.Required(path.Child("min"), "required when validRange is defined")}
	}
	var errs field.ErrorList
	over := func(name string, q, limit *resource.Quantity, what string) {
		if q.Cmp(*limit) > 0 {
			errs = append(errs, field.Invalid(path.Child(name), q.String(), what+": "+limit.String()))
		}
	}
	over("min", r.Min, &capacity, "min is larger than capacity value")
	if standard.Cmp(*r.Min) < 0 {
		errs = append(errs, field.Invalid(path.Child("default"), standard.String(), "default is less than min: "+r.Min.String()))
	}
	if r.Max != nil {
		over("max", r.Min, r.Max, "min is larger than max")
		over("max", r.Max, &capacity, "max is larger than capacity value")
		over("default", &standard, r.Max, "default is more than max")
	}
	bounds := []bound{{"default", &standard}, {"min", r.Min}, {"max", r.Max}, {"step", r.Step}}
	milli := false
	for _, b := range bounds {
		milli = milli || fractional(b.q)
	}
	if milli {
		if bad := inMilli(bounds, path); len(bad) > 0 {
			return append(errs, bad...)
		}
	}
	if r.Step == nil {
		return errs
	}
	if r.Step.Sign() <= 0 {
		return append(errs, field.Invalid(path.Child("step"), r.Step.String(), v.NotPositive))
	}
	first := r.Min.DeepCopy()
	first.Add(*r.Step)
	if first.Cmp(capacity) > 0 {
		errs = append(errs, field.Invalid(path.Child("step"), r.Step.String(), fmt.Sprintf("one step %s is larger than capacity value: %s", first.String(), capacity.String())))
	}
	if !milli {
		if bad := inInt64(bounds, path); len(bad) > 0 {
			return append(errs, bad...)
		}
	}
	return append(errs, steps(&standard, r, milli, path.Child("step"))...)
}

// steps checks that the default and the maximum are whole steps away from the minimum. All amounts fit into 64 bits, in thousandths
// where milli says so.
func steps(standard *resource.Quantity, r *resourcev1.CapacityRequestPolicyRange, milli bool, path *field.Path) field.ErrorList {
	number := (*resource.Quantity).Value
	if milli {
		number = (*resource.Quantity).MilliValue
	}
	var errs field.ErrorList
	for _, q := range []*resource.Quantity{standard, r.Max} {
		if q != nil && (number(q)-number(r.Min))%number(r.Step) != 0 {
			errs = append(errs, field.Invalid(path, q.String(), fmt.Sprintf("value is not a multiple of a given step (%s) from (%s)", r.Step.String(), r.Min.String())))
		}
	}
	return errs
}

// fractional says whether an amount is not a whole number.
func fractional(q *resource.Quantity) bool {
	if q == nil {
		return false
	}
	whole := q.DeepCopy()
	return !whole.RoundUp(0)
}

func inMilli(bounds []bound, path *field.Path) field.ErrorList {
	var errs field.ErrorList
	for _, b := range bounds {
		if b.q != nil && b.q.Cmp(*resource.NewMilliQuantity(b.q.MilliValue(), b.q.Format)) != 0 {
			errs = append(errs, field.Invalid(path.Child(b.name), b.q.String(), "value cannot be represented as a milli value"))
		}
	}
	return errs
}

func inInt64(bounds []bound, path *field.Path) field.ErrorList {
	var errs field.ErrorList
	for _, b := range bounds {
		switch {
		case b.q == nil:
		case b.q.Sign() < 0:
			errs = append(errs, field.Invalid(path.Child(b.name), b.q.String(), v.Negative))
		case b.q.CmpInt64(math.MaxInt64) > 0:
			errs = append(errs, field.Invalid(path.Child(b.name), b.q.String(), "must not be larger than 9223372036854775807"))
		}
	}
	return errs
}
