package device

import (
	"maps"
	"slices"

	"k8s.io/apimachinery/pkg/util/sets"
	"k8s.io/apimachinery/pkg/util/validation/field"
)

// check says what is wrong with one item.
type check[T any] func(item *T, path *field.Path) field.ErrorList

// List checks every item of a list that may have at most so many. A list that is too long is not looked into: it may be huge.
func List[T any](items []T, most int, path *field.Path, item check[T]) field.ErrorList {
	if len(items) > most {
		return field.ErrorList{field.TooMany(path, len(items), most)}
	}
	var errs field.ErrorList
	for i := range items {
		errs = append(errs, item(&items[i], path.Index(i))...)
	}
	return errs
}

// Set is List for items that have different keys.
func Set[T any, K comparable](items []T, most int, path *field.Path, key func(*T) K, item check[T]) field.ErrorList {
	errs := List(items, most, path, item)
	if len(items) > most {
		return errs
	}
	seen := sets.New[K]()
	for i := range items {
		k := key(&items[i])
		if seen.Has(k) {
			errs = append(errs, field.Duplicate(path.Index(i), k))
		}
		seen.Insert(k)
	}
	return errs
}

// itself is the key of items that are their own.
func itself[T any](item *T) T { return *item }

// Map checks the keys and values of a map, in the order of the keys. Keys longer than shown bytes are cut in paths of errors.
func Map[K ~string, V any](m map[K]V, most, shown int, path *field.Path, key check[K], value check[V]) field.ErrorList {
	if len(m) > most {
		return field.ErrorList{field.TooMany(path, len(m), most)}
	}
	var errs field.ErrorList
	for _, k := range slices.Sorted(maps.Keys(m)) {
		errs = append(errs, key(&k, path)...)
		v := m[k]
		errs = append(errs, value(&v, path.Key(shorten(string(k), shown)))...)
	}
	return errs
}

// shorten cuts the middle out of a text of more than most bytes.
func shorten(text string, most int) string {
	const gap = "..."
	if len(text) <= most {
		return text
	}
	left := most - len(gap)
	return text[:(left+1)/2] + gap + text[len(text)-left/2:]
}
