package prioritylevelconfiguration

import (
	"context"
	"fmt"

	flowcontrolv1 "k8s.io/api/flowcontrol/v1"
	flowcontrolv1beta3 "k8s.io/api/flowcontrol/v1beta3"
	"k8s.io/apimachinery/pkg/api/equality"
	"k8s.io/apimachinery/pkg/util/validation/field"
	"k8s.io/apiserver/pkg/apis/flowcontrol/bootstrap"
	"k8s.io/apiserver/pkg/util/shufflesharding"

	v "github.com/peapod/peapod/api/validation"
)

const (
	notNegative = "must be a non-negative integer"
	notPositive = "must be positive"
	maxQueues   = 10_000_000
)

// Validate checks a level, on create and update alike. The two that every cluster has must stay as they are.
func (kind) Validate(_ context.Context, obj *flowcontrolv1.PriorityLevelConfiguration) field.ErrorList {
	var errs field.ErrorList
	// The annotation stands for a value that versions of old cannot express.
	if _, found := obj.Annotations[flowcontrolv1beta3.PriorityLevelPreserveZeroConcurrencySharesKey]; found {
		errs = append(errs, field.Forbidden(field.NewPath("metadata", "annotations"),
			fmt.Sprintf("annotation '%s' is forbidden", flowcontrolv1beta3.PriorityLevelPreserveZeroConcurrencySharesKey)))
	}
	errs = append(errs, validateSpec(obj.Name, &obj.Spec)...)
	errs = append(errs, validateFixed(obj.Name, &obj.Spec)...)
	return append(errs, validateStatus(&obj.Status)...)
}

// ValidateStatusUpdate checks the conditions.
func (kind) ValidateStatusUpdate(_ context.Context, obj, _ *flowcontrolv1.PriorityLevelConfiguration) field.ErrorList {
	return validateStatus(&obj.Status)
}

func validateStatus(s *flowcontrolv1.PriorityLevelConfigurationStatus) field.ErrorList {
	typeOf := func(c *flowcontrolv1.PriorityLevelConfigurationCondition) flowcontrolv1.PriorityLevelConfigurationConditionType {
		return c.Type
	}
	return v.ConditionTypes(s.Conditions, typeOf, field.NewPath("status", "conditions"))
}

// validateFixed checks that the levels that every cluster has are as they must be. How much others may borrow of the exempt
// level is its administrator's to say.
func validateFixed(name string, s *flowcontrolv1.PriorityLevelConfigurationSpec) field.ErrorList {
	for _, fixed := range bootstrap.MandatoryPriorityLevelConfigurations {
		if fixed.Name != name {
			continue
		}
		have, detail := *s, "spec of '%s' must equal the fixed value"
		if name == flowcontrolv1.PriorityLevelConfigurationNameExempt {
			have.Exempt, detail = fixed.Spec.Exempt, "spec of '%s' except the 'spec.exempt' field must equal the fixed value"
		}
		if !equality.Semantic.DeepEqual(have, fixed.Spec) {
			return field.ErrorList{field.Invalid(field.NewPath("spec"), *s, fmt.Sprintf(detail, name))}
		}
	}
	return nil
}

func validateSpec(name string, s *flowcontrolv1.PriorityLevelConfigurationSpec) field.ErrorList {
	path := field.NewPath("spec")
	limited, exempt := path.Child("limited"), path.Child("exempt")
	var errs field.ErrorList
	if (name == flowcontrolv1.PriorityLevelConfigurationNameExempt) != (s.Type == flowcontrolv1.PriorityLevelEnablementExempt) {
		errs = append(errs, field.Invalid(path.Child("type"), s.Type, "must be 'Exempt' if and only if `name` is 'exempt'"))
	}
	switch s.Type {
	case flowcontrolv1.PriorityLevelEnablementExempt:
		if s.Limited != nil {
			errs = append(errs, field.Forbidden(limited, "must be nil if the type is not Limited"))
		}
		if s.Exempt != nil {
			errs = append(errs, validateShares(s.Exempt.NominalConcurrencyShares, s.Exempt.LendablePercent, exempt)...)
		}
	case flowcontrolv1.PriorityLevelEnablementLimited:
		if s.Exempt != nil {
			errs = append(errs, field.Forbidden(exempt, "must be nil if the type is Limited"))
		}
		if s.Limited == nil {
			return append(errs, field.Required(limited, "must not be empty when type is Limited"))
		}
		errs = append(errs, validateLimited(s.Limited, limited)...)
	default:
		errs = append(errs, v.Supported(s.Type, path.Child("type"),
			flowcontrolv1.PriorityLevelEnablementExempt, flowcontrolv1.PriorityLevelEnablementLimited)...)
	}
	return errs
}

// validateShares checks a level's part of what the server does at once, and how much of that others may borrow.
func validateShares(shares, lendable *int32, path *field.Path) field.ErrorList {
	var errs field.ErrorList
	if shares != nil && *shares < 0 {
		errs = append(errs, field.Invalid(path.Child("nominalConcurrencyShares"), *shares, notNegative))
	}
	if lendable != nil && (*lendable < 0 || *lendable > 100) {
		errs = append(errs, field.Invalid(path.Child("lendablePercent"), *lendable, "must be between 0 and 100, inclusive"))
	}
	return errs
}

func validateLimited(l *flowcontrolv1.LimitedPriorityLevelConfiguration, path *field.Path) field.ErrorList {
	errs := validateShares(l.NominalConcurrencyShares, l.LendablePercent, path)
	if b := l.BorrowingLimitPercent; b != nil && *b < 0 {
		errs = append(errs, field.Invalid(path.Child("borrowingLimitPercent"), *b, "if specified, "+notNegative))
	}
	response := path.Child("limitResponse")
	queuing := response.Child("queuing")
	switch r := &l.LimitResponse; r.Type {
	case flowcontrolv1.LimitResponseTypeReject:
		if r.Queuing != nil {
			errs = append(errs, field.Forbidden(queuing, "must be nil if limited.limitResponse.type is not Limited"))
		}
	case flowcontrolv1.LimitResponseTypeQueue:
		if r.Queuing == nil {
			return append(errs, field.Required(queuing, "must not be empty if limited.limitResponse.type is Limited"))
		}
		errs = append(errs, validateQueues(r.Queuing, queuing)...)
	default:
		errs = append(errs, v.Supported(r.Type, response.Child("type"),
			flowcontrolv1.LimitResponseTypeQueue, flowcontrolv1.LimitResponseTypeReject)...)
	}
	return errs
}

// validateQueues checks the numbers; a flow's hand of queues must follow from the bits that its hash has.
func validateQueues(q *flowcontrolv1.QueuingConfiguration, path *field.Path) field.ErrorList {
	var errs field.ErrorList
	invalid := func(name string, value int32, detail string, args ...any) {
		errs = append(errs, field.Invalid(path.Child(name), value, fmt.Sprintf(detail, args...)))
	}
	if q.QueueLengthLimit <= 0 {
		invalid("queueLengthLimit", q.QueueLengthLimit, notPositive)
	}
	switch {
	case q.Queues <= 0:
		invalid("queues", q.Queues, notPositive)
	case q.Queues > maxQueues:
		invalid("queues", q.Queues, "must not be greater than %d", maxQueues)
	}
	switch bits := shufflesharding.RequiredEntropyBits(int(q.Queues), int(q.HandSize)); {
	case q.HandSize <= 0:
		invalid("handSize", q.HandSize, notPositive)
	case q.HandSize > q.Queues:
		invalid("handSize", q.HandSize, "should not be greater than queues (%d)", q.Queues)
	case bits > shufflesharding.MaxHashBits:
		invalid("handSize", q.HandSize, "required entropy bits of deckSize %d and handSize %d should not be greater than %d",
			q.Queues, q.HandSize, shufflesharding.MaxHashBits)
	}
	return errs
}
