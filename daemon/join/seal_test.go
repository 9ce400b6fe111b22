package join

import (
	"bytes"
	"strings"
	"testing"
)

func TestSeal(t *testing.T) {
	const token = "0123456789abcdef"
	data := []byte("the keys of the cluster")
	box, err := Seal(token, data)
	if err != nil {
		t.Fatal(err)
	}
	if bytes.Contains(box, data) || strings.Contains(string(box), token) {
		t.Error("it is there for all to read")
	}
	if got, err := Unseal(token, box); err != nil || !bytes.Equal(got, data) {
		t.Errorf("got %q, %v", got, err)
	}
	if _, err := Unseal(token+"x", box); err == nil {
		t.Error("another token opens it")
	}
	if again, err := Seal(token, data); err != nil || bytes.Equal(again, box) {
		t.Errorf("sealed twice alike, %v", err)
	}
	for _, change := range []func(string) string{
		func(s string) string { return strings.Replace(s, `"version":1`, `"version":2`, 1) },
		func(s string) string { return strings.Replace(s, `"iterations":600000`, `"iterations":1`, 1) },
		func(s string) string { return strings.Replace(s, `"iterations":600000`, `"iterations":2000000000`, 1) },
		func(s string) string { return strings.Replace(s, `"nonce":"`, `"nonce":"AAAA`, 1) },
		func(s string) string { return strings.Replace(s, `"sealed":"`, `"sealed":"AAAA`, 1) },
		func(string) string { return "nonsense" },
	} {
		if _, err := Unseal(token, []byte(change(string(box)))); err == nil {
			t.Errorf("%s is taken", change(string(box)))
		}
	}
}
