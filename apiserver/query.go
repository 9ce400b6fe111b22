package apiserver

import (
	"fmt"
	"net/url"
	"reflect"
	"strconv"
	"strings"

	metav1 "k8s.io/apimachinery/pkg/apis/meta/v1"
)

// decodeQuery fills in the fields of the struct that into points at from the query parameters of their JSON names. As
// everywhere in the API, a parameter that is there without a value is true for a boolean, unknown parameters are
// ignored, and the first value counts where one is wanted.
func decodeQuery(query url.Values, into any) error {
	v := reflect.ValueOf(into).Elem()
	for i := range v.NumField() {
		name, _, _ := strings.Cut(v.Type().Field(i).Tag.Get("json"), ",")
		values, ok := query[name]
		if name == "" || !ok || len(values) == 0 {
			continue
		}
		if err := decodeParameter(values, v.Field(i)); err != nil {
			return fmt.Errorf("parse query parameter %s: %w", name, err)
		}
	}
	return nil
}

func decodeParameter(values []string, f reflect.Value) error {
	switch f.Kind() {
	case reflect.Pointer:
		if _, ok := f.Interface().(*metav1.Time); ok {
			return decodeTime(values[0], f)
		}
		if values[0] == "" && f.Type().Elem().Kind() != reflect.Bool {
			return nil
		}
		p := reflect.New(f.Type().Elem())
		if err := decodeParameter(values, p.Elem()); err != nil {
			return err
		}
		f.Set(p)
	case reflect.Slice:
		s := reflect.MakeSlice(f.Type(), 0, len(values))
		for _, one := range values {
			item := reflect.New(f.Type().Elem()).Elem()
			if err := decodeParameter([]string{one}, item); err != nil {
				return err
			}
			s = reflect.Append(s, item)
		}
		f.Set(s)
	case reflect.String:
		f.SetString(values[0])
	case reflect.Bool:
		// Whatever is not "0" or "false" is true, the empty value too.
		f.SetBool(values[0] != "0" && !strings.EqualFold(values[0], "false"))
	case reflect.Int, reflect.Int32, reflect.Int64:
		n, err := strconv.ParseInt(values[0], 10, f.Type().Bits())
		if err != nil {
			return err
		}
		f.SetInt(n)
	default:
		return fmt.Errorf("fields of type %s cannot be given in a query", f.Type())
	}
	return nil
}

func decodeTime(value string, f reflect.Value) error {
	if value == "" {
		return nil
	}
	t := &metav1.Time{}
	if err := t.UnmarshalQueryParameter(value); err != nil {
		return err
	}
	f.Set(reflect.ValueOf(t))
	return nil
}
