// Package table holds the columns and cells that the kinds' tables (what `kubectl get` prints) have in common.
package table

import (
	"slices"
	"strings"
	"time"

	metav1 "k8s.io/apimachinery/pkg/apis/meta/v1"
	"k8s.io/apimachinery/pkg/util/duration"
)

// None and Unknown stand for a value that is absent and for one that cannot be told.
const (
	None    = "<none>"
	Unknown = "<unknown>"
)

// Name is the first column of nearly every kind.
func Name() metav1.TableColumnDefinition {
	return metav1.TableColumnDefinition{
		Name: "Name", Type: "string", Format: "name", Description: metav1.ObjectMeta{}.SwaggerDoc()["name"],
	}
}

// Age is the column for Since(obj.CreationTimestamp).
func Age() metav1.TableColumnDefinition {
	return metav1.TableColumnDefinition{
		Name: "Age", Type: "string", Description: metav1.ObjectMeta{}.SwaggerDoc()["creationTimestamp"],
	}
}

// Text is a column of strings that always shows.
func Text(name, description string) metav1.TableColumnDefinition {
	return metav1.TableColumnDefinition{Name: name, Type: "string", Description: description}
}

// Integer is a column of int64 cells.
func Integer(name, description string) metav1.TableColumnDefinition {
	return metav1.TableColumnDefinition{Name: name, Type: "integer", Description: description}
}

// Wide makes a column show with -o wide only.
func Wide(c metav1.TableColumnDefinition) metav1.TableColumnDefinition {
	c.Priority = 1
	return c
}

// Since is how long ago t was, in short ("5m", "3d4h").
func Since(t metav1.Time) string { return since(t.Time) }

// SinceMicro is Since for times of microsecond precision.
func SinceMicro(t metav1.MicroTime) string { return since(t.Time) }

func since(t time.Time) string {
	if t.IsZero() {
		return Unknown
	}
	return duration.HumanDuration(time.Since(t))
}

// Pairs renders a map as k=v pairs, sorted and joined with commas.
func Pairs(m map[string]string) string {
	if len(m) == 0 {
		return None
	}
	pairs := make([]string, 0, len(m))
	for k, v := range m {
		pairs = append(pairs, k+"="+v)
	}
	slices.Sort(pairs)
	return strings.Join(pairs, ",")
}

// OrNone is s, or None if it is empty.
func OrNone(s string) string {
	if s == "" {
		return None
	}
	return s
}

// OrUnknown is s, or Unknown if it is empty.
func OrUnknown(s string) string {
	if s == "" {
		return Unknown
	}
	return s
}
